"""Layouts of stored trees: each is the same numbers, there and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from gemma import gm
from gemma.gm.ckpts import _layouts
from gemma.gm.ckpts import _tree
from gemma.gm.nn import _shapes
import make_golden_checkpoints

ALL = pytest.mark.parametrize('case', cases.CASES, ids=str)
LAYOUTS = pytest.mark.parametrize('layout', ['NESTED', 'FLAT', 'STACKED'])
# Keys of released checkpoints: of the text models, FLAT and STACKED.
KEYS = {
  'Gemma2_2B': (236, 20),
  'Gemma3_1B': (288, 68),
}


def equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)
  assert jax.tree.leaves(jax.tree.map(lambda x: x.dtype, a)) == jax.tree.leaves(
    jax.tree.map(lambda x: x.dtype, b)
  )


@ALL
@LAYOUTS
@pytest.mark.parametrize(
  'kind', [jnp.asarray, np.asarray], ids=['jax', 'numpy']
)
def test_there_and_back(case, layout, kind):
  params = jax.tree.map(kind, case.params)
  stored = _layouts.from_nested(params, layout)
  assert _layouts.detect(stored) == layout
  back = _layouts.to_nested(stored)
  equal(back, params)
  kinds = {isinstance(x, np.ndarray) for x in jax.tree.leaves(back)}
  assert kinds == {kind is np.asarray}


@ALL
@LAYOUTS
def test_shapes_alone_give_what_arrays_give(case, layout):
  abstract = jax.eval_shape(lambda: case.params)
  stored = _layouts.from_nested(abstract, layout)
  arrays = _layouts.from_nested(case.params, layout)
  assert stored == jax.eval_shape(lambda: arrays)
  assert _layouts.to_nested(stored) == abstract


@LAYOUTS
def test_vision_encoder(layout):
  params = make_golden_checkpoints.params()
  stored = _layouts.from_nested(params, layout)
  equal(_layouts.to_nested(stored), params)
  if layout != 'NESTED':
    name = 'SigLiPFromPatches_0/siglip_encoder'
    block = f'{name}/Transformer/encoderblock_0/MlpBlock_0/Dense_0'
    vision = params['vision_encoder']['siglip_encoder']
    assert stored[name]['pos_embedding'] is vision['pos_embedding']
    assert set(stored[block]) == {'kernel'}
    assert 'transformer/embedder/mm_input_projection' in stored
    assert set(stored['transformer/embedder']) == {'input_embedding'}


@pytest.mark.parametrize('name', gm.nn.PRESETS)
def test_released_sizes(name):
  shapes = _shapes.param_shapes(gm.nn.PRESETS[name]())
  flat = _layouts.from_nested(shapes, 'FLAT')
  assert _layouts.to_nested(flat) == shapes
  assert 'w' in flat['transformer/layer_0/mlp/linear']
  if name == 'Gemma4_E2B':  # Its last layers are wider.
    with pytest.raises(ValueError, match='layers differ.*NESTED'):
      _layouts.from_nested(shapes, 'STACKED')
    return
  stacked = _layouts.from_nested(shapes, 'STACKED')
  assert _layouts.to_nested(stacked) == shapes
  if name in KEYS:
    leaves = [len(_tree.leaves(tree)) for tree in (shapes, flat, stacked)]
    assert leaves == [KEYS[name][0], *KEYS[name]]


def test_keys_of_a_released_size_with_vision():
  """As counted in the released checkpoints of Gemma 3 4B."""
  x = jax.ShapeDtypeStruct((1,), jnp.float32)
  affine, kernel = {'scale': x, 'bias': x}, {'kernel': x, 'bias': x}
  attention = dict.fromkeys(('query', 'key', 'value', 'out'), kernel)
  block = {
    'LayerNorm_0': affine,
    'LayerNorm_1': affine,
    'MlpBlock_0': {'Dense_0': kernel, 'Dense_1': kernel},
    'MultiHeadDotProductAttention_0': attention,
  }
  blocks = {f'encoderblock_{i}': block for i in range(27)}
  shapes = _shapes.param_shapes(gm.nn.Gemma3_4B())
  shapes['embedder'] |= {
    'mm_input_projection': {'w': x},
    'mm_soft_embedding_norm': {'scale': x},
  }
  shapes['vision_encoder'] = {
    'siglip_encoder': {
      'embedding': kernel,
      'pos_embedding': x,
      'Transformer': blocks | {'encoder_norm': affine},
    }
  }
  assert len(_tree.leaves(shapes)) == 815
  for layout, keys in {'FLAT': 597, 'STACKED': 289}.items():
    stored = _layouts.from_nested(shapes, layout)
    assert len(stored) == keys
    assert _layouts.to_nested(stored) == shapes


def test_groups_may_differ_in_length():
  """34 layers of period 6 are groups of 6, 6, 6, 6, 5, 5."""
  shapes = _shapes.param_shapes(gm.nn.Gemma3_4B())
  stacked = _layouts.from_nested(shapes, 'STACKED')
  lengths = [
    stacked[f'transformer/stacked_layers/attention_type_{i}/mlp/linear'][
      'w'
    ].shape[0]
    for i in range(6)
  ]
  assert lengths == [6, 6, 6, 6, 5, 5]
  place = _layouts.places(_layouts.Layout.STACKED, _tree.leaves(stacked))
  assert place['layer_33', 'mlp', 'linear'] == _layouts.Place(
    ('transformer/stacked_layers/attention_type_3/mlp/linear', 'w'), 5
  )


def test_places_are_inverses():
  """What `places_in` says of a tree, `places` says of what it becomes."""
  case = cases.GEMMA3
  nested = _tree.leaves(case.params)
  for layout in (_layouts.Layout.FLAT, _layouts.Layout.STACKED):
    stored = _tree.leaves(_layouts.from_nested(case.params, layout))
    where = _layouts.places_in(layout, nested, period=6)
    assert where == _layouts.places(layout, stored)


def test_any_period_is_read():
  params = cases.GEMMA3.params
  for period in (1, 3, 8):
    equal(
      _layouts.to_nested(
        _layouts.from_nested(params, 'STACKED', period=period)
      ),
      params,
    )


def test_detection():
  detect = _layouts.detect
  assert detect(['params', 'opt_state', 'step', 'collections']) == 'KAULDRON'
  assert detect(['params', 'opt_state', 'step']) == 'NESTED'
  assert detect(['transformer/a', 'SigLiPFromPatches_0/b']) == 'FLAT'
  assert detect(['transformer/a', 'b']) == 'NESTED'
  assert (
    detect(['transformer/stacked_layers/attention_type_0/a', 'b']) == 'STACKED'
  )
  assert detect([]) == 'NESTED'


def test_trainer_state():
  x = np.ones(3)
  state = {
    'params': {'a': {'w': x}},
    'opt_state': [{'mu': x}],
    'step': x,
    'collections': {},
  }
  equal(_layouts.to_nested(state), state['params'])


BAD = {
  'unknown': ({'a': {'w': 1}}, 'flat', "layout='flat' is not one of"),
  'trainer': ({'a': {'w': 1}}, 'KAULDRON', 'what a trainer writes'),
  'slash': ({'a': {'b/c': {'w': 1}}}, 'FLAT', 'key with a slash'),
  'no module': ({'a': 1}, 'FLAT', 'is in no module'),
  'shapes': (
    {f'layer_{i}': {'a': {'w': np.ones(i + 1)}} for i in range(2)},
    'STACKED',
    r"layers differ: \[\(\(1,\), 'float64'\), \(\(2,\)",
  ),
  'gap': (
    {'layer_0': {'a': {'w': np.ones(2)}}, 'layer_2': {'a': {'w': np.ones(2)}}},
    'STACKED',
    'not every layer has a part',
  ),
}


@pytest.mark.parametrize('tree, layout, message', BAD.values(), ids=BAD)
def test_what_a_layout_cannot_hold(tree, layout, message):
  with pytest.raises(ValueError, match=message):
    _layouts.from_nested(tree, layout)
