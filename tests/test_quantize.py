"""Weights as integers: how they are rounded, read, and computed with."""

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from gemma import gm
from gemma import peft
from gemma.gm.math import _integers
from gemma.peft import _quantization
from gemma.peft import _weights
import test_adapters
import test_project

CASE = cases.GEMMA3
METHODS = ['int8', 'int4']
EMBEDDER = 'embedder', '_IntEmbedder_0'


def floats(params):
  """The weights that the integers of a tree stand for."""
  flat = traverse_util.flatten_dict(params)
  out = {}
  for (*path, name, leaf), stored in flat.items():
    x = stored
    if leaf == 'scale' and name.startswith('_Int'):
      continue
    key = (*path, name, leaf)
    if leaf == 'kernel':
      x = x.astype(jnp.float32) / flat[(*path, name, 'scale')]
      last = name.split('_', 2)[2]
      table = 'input_embedding' if 'Embedder' in name else 'w'
      key = (*path, table if last == '0' else last)
    out[key] = x
  return traverse_util.unflatten_dict(out)


def equal(left, right):
  assert jax.tree.structure(left) == jax.tree.structure(right)
  for x, y in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(x, y)


@pytest.fixture(scope='module', params=['hf', 'NESTED', 'FLAT', 'STACKED'])
def folder(request, tmp_path_factory):
  path = tmp_path_factory.mktemp('quantize') / request.param
  if request.param == 'hf':
    gm.ckpts.save_hf(path, model=CASE.model, params=CASE.params)
  else:
    gm.ckpts.save_params(
      CASE.params, path, layout=request.param, wait_until_finished=True
    )
  return path


# How weights are rounded.


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('summed', [(0,), (1,), (0, 1)], ids=str)
@pytest.mark.parametrize('method', METHODS)
def test_error_is_at_most_half_a_step(method, summed, dtype):
  x = np.random.RandomState(0).normal(size=(6, 5, 4)).astype(jnp.dtype(dtype))
  kernel, scale = _quantization.quantize_array(x, summed, method)
  assert kernel.dtype == method and scale.dtype == dtype
  assert [i for i, n in enumerate(scale.shape) if n == 1] == [*summed]
  wide = scale.astype(np.float64)
  error = np.abs(kernel.astype(np.float64) / wide - x.astype(np.float64))
  # The largest of a channel is cut where its scale was rounded up.
  assert (error <= (0.501 if dtype == 'float32' else 1.02) / wide).all()
  assert np.mean(error * wide) < 0.3
  on_device = _quantization.quantize_array(jnp.asarray(x), summed, method)
  equal([kernel, scale], [*on_device])


@pytest.mark.parametrize('method', METHODS)
def test_channels_of_zeros_stay_zeros(method):
  x = np.zeros((3, 2), np.float32)
  x[:, 1] = [1e-44, 0, 0]
  kernel, scale = _quantization.quantize_array(x, (0,), method)
  assert np.isfinite(kernel.astype('f') / scale).all() and not kernel.any()


@pytest.mark.parametrize('case', cases.DISTINCT, ids=str)
def test_axes_are_those_of_the_equations(case):
  flat = traverse_util.flatten_dict(case.params)
  config, specs = case.config, case.config.layers()
  others = {
    'linear_right': [config.laurel_rank],
    'per_layer_projection': [config.per_layer_input_dim],
  }
  for weight in _weights.weights(case.params):
    shape = flat[weight.path].shape
    summed = [shape[i] for i in weight.summed]
    layer, *_, module, name = weight.path
    spec = (
      specs[int(layer.removeprefix('layer_'))] if 'layer' in layer else None
    )
    if module == 'attn_vec_einsum':
      assert summed == [spec.num_heads, spec.head_dim]
    elif name == 'linear':
      assert summed == [spec.ffw.hidden_dim]
    elif module == 'linear':
      assert weight.of_experts
      assert summed == [spec.experts.hidden_dim]
    else:
      assert summed == others.get(module, [config.embed_dim])


def test_quantize_as_published():
  params = {'a': {'w': jnp.ones((3, 2)), 'b': jnp.ones(2)}, 'c': jnp.ones(1)}
  ints = peft.quantize(params, method='INT8')
  assert ints['a'].keys() == {'_IntEinsum_0', 'b'}
  ints = peft.quantize(params, method='int4', in_place_keys=True)
  assert ints['a'].keys() == {'kernel', 'scale', 'b'}
  kernel = {'Dense_0': {'kernel': jnp.ones((3, 2)), 'bias': jnp.ones(2)}}
  ints = peft.quantize(
    kernel, method='int8', checkpoint_kernel_key='kernel', in_place_keys=True
  )
  assert ints['Dense_0']['scale'].shape == (1, 2)
  assert peft.quantize(params, method='NONE') == params
  assert peft.QuantizationMethod('Q4_0') is peft.QuantizationMethod.Q4_0


def test_errors():
  params = {'a': {'w': jnp.ones((3, 2, 2))}}
  with pytest.raises(ValueError, match='SFP8.*is not yet supported'):
    peft.quantize(params, method='SFP8')
  with pytest.raises(ValueError, match="No method 'int3'. There are .*'int4'"):
    peft.quantize(params, method='int3')
  with pytest.raises(ValueError, match=r'a/w \(3, 2, 2\): it is not known'):
    peft.quantize(params, method='int8')
  tiny = gm.ckpts.CheckpointPath.GEMMA3_TINY_IT
  with pytest.raises(ValueError, match='`params` and `quantize` are mutually'):
    gm.ckpts.load_params(tiny, params=CASE.params, quantize='int8')
  with pytest.raises(ValueError, match="No method 'int5'"):
    gm.ckpts.load_params(tiny, quantize='int5')


# How they are read.


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.slow
def test_read_as_integers(folder, method):
  read = gm.ckpts.load_params(folder, quantize=method)
  table = CASE.params['embedder']['input_embedding']
  kernel, scale = _quantization.quantize_array(table, (1,), method)
  expected = peft.quantize(CASE.params, method=method)
  expected['embedder'] = {'_IntEmbedder_0': {'kernel': kernel, 'scale': scale}}
  equal(read, expected)
  # A tree with integers asks for the same; and one can say where they go.
  devices = np.array(jax.devices()).reshape(2, 2)
  mesh = jax.sharding.Mesh(devices, ('a', 'b'))
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  targets = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), read
  )
  again = gm.ckpts.load_params(folder, params=targets)
  equal(again, read)
  assert {x.sharding for x in jax.tree.leaves(again)} == {sharding}


@pytest.mark.slow
def test_scales_are_sharded_with_their_weights(folder):
  mesh = jax.sharding.Mesh(np.array(jax.devices()), ('x',))

  def first_axis(tree):
    def one(x):
      axes = ['x' if n % 4 == 0 else None for n in x.shape]
      first = axes.index('x') if 'x' in axes else len(axes)
      spec = [a if i == first else None for i, a in enumerate(axes)]
      spec = jax.sharding.PartitionSpec(*spec)
      return jax.sharding.NamedSharding(mesh, spec)

    return jax.tree.map(one, tree)

  read = gm.ckpts.load_params(folder, quantize='int8', sharding=first_axis)
  equal(read, gm.ckpts.load_params(folder, quantize='int8'))
  ints = read['layer_0']['mlp']['_IntEinsum_linear']
  assert ints['kernel'].sharding.spec[0] == 'x'  # Summed over.
  assert ints['scale'].sharding.is_fully_replicated
  ints = read['embedder']['_IntEmbedder_0']
  assert ints['kernel'].sharding.spec[0] == 'x'
  assert ints['scale'].sharding.spec[0] == 'x'


@pytest.mark.slow
def test_trainer_starts_with_integers():
  class State:
    def __init__(self, params):
      self.params = params

    def replace(self, params):
      return State(params)

  path = gm.ckpts.CheckpointPath.GEMMA3_TINY_IT
  model = gm.model_from_folder(path)
  params = model.init(jax.random.key(0), jnp.ones((1, 1), jnp.int32))['params']
  # What is loaded has the dtypes of the state; here those of a plain load.
  stored = gm.ckpts.load_params(path)
  params = jax.tree.map(lambda x, y: x.astype(y.dtype), params, stored)
  state = gm.ckpts.LoadCheckpoint(path, quantize=True).transform(State(params))
  equal(state.params, gm.ckpts.load_params(path, quantize='int8'))
  assert all(x.is_deleted() for x in jax.tree.leaves(params))


# How they are computed with.


@pytest.mark.parametrize(
  'case, method',
  [
    pytest.param(
      case, method, marks=[] if case.name in names else cases.EXHAUSTIVE
    )
    for method, names in (
      ('int8', ('gemma1_mqa', 'gemma2_by_head_dim', 'gemma3n')),
      ('int4', ('gemma3_gqa', 'gemma4_experts')),
    )
    for case in cases.DISTINCT
  ],
  ids=str,
)
def test_logits_are_those_of_the_floats(case, method, tmp_path):
  gm.ckpts.save_hf(tmp_path / 'm', model=case.model, params=case.params)
  read = gm.from_pretrained(tmp_path / 'm', quantize=method)
  ints = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), read.params)
  tokens = case.tokens()
  ours = np.asarray(read.model.apply({'params': ints}, tokens).logits)
  plain = read.model.apply({'params': floats(ints)}, tokens).logits
  np.testing.assert_allclose(ours, plain, atol=case.noise)
  exact = np.asarray(case.apply(tokens).logits)
  error = np.sqrt(np.mean((ours - exact) ** 2)) / np.std(exact)
  assert error < (0.1 if method == 'int8' else 1)


def test_bundled_model_answers_as_before(tiny):
  # The encoder keeps its floats, as released.
  plain_text, ints = (
    gm.from_pretrained(tiny.path, text_only=True, quantize=method)
    for method in (False, 'int8')
  )
  prompts = ['Q: 12+30=', 'Once upon a time']
  answers = [
    gm.text.Sampler(
      model=one.model, params=one.params, tokenizer=tiny.tokenizer
    ).score(prompts)
    for one in (plain_text, ints)
  ]
  for plain, rounded in zip(*answers, strict=True):
    np.testing.assert_allclose(
      rounded.logprobs, plain.logprobs, atol=0.35, err_msg=str(plain)
    )
  small, large = (
    sum(x.nbytes for x in jax.tree.leaves(one.params))
    for one in (ints, plain_text)
  )
  assert small < 0.53 * large


def test_adapters_go_on_integers():
  ints = peft.quantize(CASE.params, method='int8')
  lora = test_adapters.adapters(CASE.params)
  tokens = CASE.tokens()
  both = peft.merge_params(ints, lora)
  plain = peft.merge_params(floats(ints), lora)
  np.testing.assert_allclose(
    CASE.model.apply({'params': both}, tokens).logits,
    CASE.model.apply({'params': plain}, tokens).logits,
    atol=5e-5,
  )


@pytest.mark.parametrize(
  'eqn, x, w',
  [
    ('BLD,VD->BLV', (2, 3, 64), (50, 64)),
    ('BTD,NDH->BTNH', (2, 3, 30), (4, 30, 16)),
    ('BTNH,NHD->BTD', (2, 3, 8, 6), (8, 6, 90)),
    ('BLD,CDF->CBLF', (2, 3, 60), (2, 60, 70)),
    ('BLD,CFD->CBLF', (2, 3, 60), (2, 70, 60)),
    ('BLF,FD->BLD', (2, 3, 90), (90, 40)),
    ('BTD,CKDH->CBTKH', (2, 3, 60), (2, 2, 60, 16)),
  ],
)
@pytest.mark.parametrize('block', [1, 700, 2**18])
def test_blocks_make_the_product(eqn, x, w, block, monkeypatch):
  monkeypatch.setattr(_integers, '_BLOCK', block)
  rng = np.random.RandomState(0)
  x_axes, w_axes = eqn.split('->')[0].split(',')
  rows = jnp.asarray(rng.normal(size=x), jnp.float32)
  kernel = jnp.asarray(rng.randint(-127, 128, w), jnp.int8)
  ones = [1 if axis in x_axes else n for axis, n in zip(w_axes, w, strict=True)]
  scale = jnp.asarray(rng.uniform(50, 100, ones), jnp.float32)
  ours = _integers.project_integers(eqn, rows, kernel, scale, jnp.float32)
  plain = jnp.einsum(eqn, rows, kernel / scale, precision='highest')
  np.testing.assert_allclose(ours, plain, atol=1e-4)


def test_a_loop_keeps_no_floats_of_all_integers():
  """One weight's at a time, though all are the same in each step."""
  temporary, weights, _ = test_project.decode_loop(
    jnp.bfloat16, 1, lambda params: peft.quantize(params, method='int8')
  )
  kernels = [x.size for x in weights if x.dtype == jnp.int8]
  assert temporary < sum(kernels) / 2
