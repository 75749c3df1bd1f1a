"""Adapters of the released sizes, by shapes alone."""

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gemma import gm
from gemma import peft
from gemma.gm.nn import _shapes
from gemma.peft import _einsum

KEY = jax.random.key(0)
# How weights are applied, by their names: with these equations, the published
# rule gives the published shapes.
EQUATIONS = {
  'q_einsum': 'BTD,NDH->BTNH',
  'k_einsum': 'BTD,NDH->BTNH',
  'kv_einsum': 'BSD,CKDH->CBSKH',
  'qkv_einsum': 'BSD,CKDH->CBSKH',
  'attn_vec_einsum': 'BTNH,NHD->BTD',
  'linear': '...H,HF->...F',
  'per_layer_model_projection': 'BLD,DNP->BLNP',
  'per_layer_input_projection': 'BLD,DNP->BLNP',
  'out': 'BTNH,NHD->BTD',
}
# Paths of what has no adapter, though it is called as a weight is: tables,
# experts, and the patches of images.
WITHOUT = 'mlp/gating_einsum/w', 'mlp/linear/w', 'embedding/kernel'


def equation(path, shape, config):
  """How the weight of an adapter is applied."""
  *_, module, leaf = path
  if leaf == 'gating_einsum':
    last = 'CFD' if config.transpose_gating_einsum else 'CDF'
    return f'BTD,{last}->CBTF'
  name = leaf if leaf == 'linear' else module
  return EQUATIONS.get(
    name, 'BTD,DF->BTF' if len(shape) == 2 else 'BD,DNH->BNH'
  )


def lora_of(shapes, **options):
  return jax.eval_shape(lambda: peft.init_lora(shapes, rng=KEY, **options))


def size(tree):
  return sum(np.prod(x.shape, dtype=int) for x in jax.tree.leaves(tree))


@pytest.mark.parametrize('preset', [*gm.nn.PRESETS])
def test_every_size_takes_adapters(preset):
  """With the published paths and shapes."""
  model = gm.nn.PRESETS[preset]()
  shapes = _shapes.param_shapes(model)
  lora = traverse_util.flatten_dict(lora_of(shapes, rank=4))
  weights = {
    path: x.shape
    for path, x in traverse_util.flatten_dict(shapes).items()
    if path[-1] in {'w', 'gating_einsum', 'linear', 'kernel'}
    and not '/'.join(path).endswith(WITHOUT)
  }
  assert len(lora) == 2 * len(weights)
  for path, shape in weights.items():
    name = '0' if path[-1] == 'w' else path[-1]
    module = path[:-1]
    if path[-1] != 'kernel':
      module = (*module, f'_LoRAEinsum_{name}')
    a, b = (lora[(*module, 'lora', part)].shape for part in 'ab')
    split = _einsum.split(equation(path, shape, model.config), shape, rank=4)
    assert (a, b) == (split.a, split.b), path
  layers = {path[0] for path in lora if path[0].startswith('layer_')}
  assert len(layers) == model.config.num_layers


def test_published_shapes_of_a_layer():
  """Written out for one size: D 2560, N 8, K 4, H 256, F 10240."""
  shapes = _shapes.param_shapes(gm.nn.Gemma3_4B(text_only=True))
  layer = lora_of(shapes, rank=4)['layer_33']
  found = {
    '/'.join(path): x.shape
    for path, x in traverse_util.flatten_dict(layer).items()
  }
  names = {
    'attn/q_einsum/_LoRAEinsum_0': ((2560, 4), (4, 8, 256)),
    'attn/kv_einsum/_LoRAEinsum_0': ((2560, 4), (4, 2, 4, 256)),
    'attn/attn_vec_einsum/_LoRAEinsum_0': ((8, 256, 4), (4, 2560)),
    'mlp/_LoRAEinsum_gating_einsum': ((2560, 4), (4, 2, 10240)),
    'mlp/_LoRAEinsum_linear': ((10240, 4), (4, 2560)),
  }
  assert found == {
    f'{name}/lora/{part}': shape
    for name, both in names.items()
    for part, shape in zip('ab', both, strict=True)
  }


def test_wrapper_makes_the_same():
  model = gm.nn.Gemma3_270M()
  shapes = _shapes.param_shapes(model)
  wrapper = gm.nn.LoRA(rank=4, model=model)
  tokens = jnp.ones((1, 1), jnp.int32)
  made = jax.eval_shape(wrapper.init, KEY, tokens)['params']
  lora = lora_of(shapes, rank=4, dtype=jnp.bfloat16)
  assert made == peft.merge_params(shapes, lora)


@pytest.mark.parametrize(
  'rank, trainable, total',
  [(5, 3_660_800, 2_618_002_688), (6, 4_392_960, 2_618_734_848)],
)
def test_counts_of_keras(rank, trainable, total):
  """Gemma 2 2B with adapters of queries and values, as Keras has them.

  There each head has an `A` of its own, and all share `B`:
  `26 r (8 * 2304 + 256 + 4 * 2304 + 256)`. Its table has the 256,000 rows that
  stand for tokens, ours the 128 behind them as well, as released.
  """
  shapes = _shapes.param_shapes(gm.nn.Gemma2_2B())
  lora = lora_of(shapes, rank=rank, targets=('q_proj', 'v_proj'), per_head=True)
  attention = lora['layer_25']['attn']
  query = attention['q_einsum']['_LoRAEinsum_0']['lora']
  value = attention['kv_einsum']['_LoRAEinsum_v_proj']['lora']
  assert [x.shape for x in query.values()] == [(8, 2304, rank), (rank, 256)]
  assert [x.shape for x in value.values()] == [(4, 2304, rank), (rank, 256)]
  assert size(lora) == trainable
  rows, width = shapes['embedder']['input_embedding'].shape
  extra = (rows - 256_000) * width
  assert size(shapes) - extra + size(lora) == total


def test_targets_by_the_names_of_hugging_face():
  """A part is chosen if its weight is not."""
  shapes = _shapes.param_shapes(gm.nn.Gemma3_1B())

  def kinds(targets):
    flat = traverse_util.flatten_dict(
      lora_of(shapes, rank=1, targets=targets)['layer_0']
    )
    return sorted({'/'.join(path[:-2]) for path in flat})

  q = 'attn/q_einsum/_LoRAEinsum_0'
  k, v = (f'attn/kv_einsum/_LoRAEinsum_{x}_proj' for x in 'kv')
  assert kinds(('q_proj', 'v_proj')) == [v, q]
  assert kinds(('k_proj', 'v_proj')) == [k, v]
  assert kinds(r'attn/[qv]_proj$') == [v, q]
  assert kinds('kv_einsum') == ['attn/kv_einsum/_LoRAEinsum_0']
  assert kinds(('v_proj', 'kv_einsum/w')) == ['attn/kv_einsum/_LoRAEinsum_0']
  assert kinds(('gate_proj', 'down_proj', 'o_proj')) == [
    'attn/attn_vec_einsum/_LoRAEinsum_0',
    'mlp/_LoRAEinsum_gate_proj',
    'mlp/_LoRAEinsum_linear',
  ]
  with pytest.raises(ValueError, match="targets='fc1' matches none"):
    kinds('fc1')


def test_stacked_layers_take_adapters():
  """Those of `scan_layers`, for a size with images."""
  model = gm.nn.Gemma3_4B(scan_layers=True)
  lora = lora_of(_shapes.param_shapes(model), rank=2)
  stack = lora['layers_0_29']['layer_5']
  query = stack['attn']['q_einsum']['_LoRAEinsum_0']['lora']
  assert query['a'].shape == (5, 2560, 2)
  assert query['b'].shape == (5, 2, 8, 256)
  down = stack['mlp']['_LoRAEinsum_linear']['lora']
  assert down['a'].shape == (5, 10240, 2)
  nested = lora_of(_shapes.param_shapes(gm.nn.Gemma3_4B()), rank=2)
  assert size(nested) == size(lora)
