"""Adapters folded into weights and out again, for models and Flax's layers."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from gemma import gm
from gemma import peft
from gemma.peft import _targets
import test_peft_modules as modules
import test_scan

KEY = jax.random.key(0)


def same(left, right):
  assert jax.tree.structure(left) == jax.tree.structure(right)
  jax.tree.map(np.testing.assert_array_equal, left, right)


def close(left, right):
  assert jax.tree.structure(left) == jax.tree.structure(right)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
    left,
    right,
  )


def random(tree, std=0.2):
  rng = np.random.RandomState(0)
  return jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, std, x.shape), x.dtype), tree
  )


def adapters(params, **options):
  return random(peft.init_lora(params, rank=3, rng=KEY, **options))


def inputs(case):
  """Tokens, and images for those that see."""
  if case.config.vision_encoder is None:
    return case.tokens(), {}
  tokens = case.tokens(2, 10) % 280 + 1
  tokens[:, 3] = case.config.image_tokens.start
  return tokens, {'images': case.images(2, 1)}


WAYS = {
  'all': {},
  'parts': {'targets': ('q_proj', 'v_proj', 'up_proj', 'router')},
  'per_head': {'targets': ('attn/',), 'per_head': True},
}


def options_of(case, way):
  options = WAYS[way]
  patterns = [*options.get('targets', ())]
  if case.config.experts is None and 'router' in patterns:
    patterns.remove('router')
  return options | ({'targets': patterns} if patterns else {})


FEW = 'gemma1_mqa', 'gemma3n', 'gemma4_experts'
ALL = (*cases.DISTINCT, cases.VISION)


@pytest.mark.parametrize(
  'case, way',
  [
    *((case, 'all') for case in ALL),
    *(
      pytest.param(
        case, way, marks=[] if case.name in FEW else cases.EXHAUSTIVE
      )
      for case in ALL
      for way in ('parts', 'per_head')
    ),
  ],
  ids=str,
)
def test_fused_equals_adapted_and_comes_apart(case, way):
  """All weights; values and gates alone; and with an `a` for each head."""
  tokens, images = inputs(case)
  plain = np.asarray(case.apply(tokens, **images).logits)
  lora = adapters(case.params, **options_of(case, way))
  params = peft.merge_params(case.params, lora)
  out = np.asarray(
    case.model.apply({'params': params}, tokens, **images).logits
  )
  fused = peft.fuse_params(params)
  assert jax.tree.structure(fused) == jax.tree.structure(case.params)
  again = case.model.apply({'params': fused}, tokens, **images).logits
  np.testing.assert_allclose(again, out, atol=case.noise)
  assert np.abs(out - plain).max() > 0.1

  # Out again: within what one rounding of each sum leaves, or exactly.
  apart = peft.unfuse_params(fused, lora)
  assert jax.tree.structure(apart) == jax.tree.structure(params)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), apart, params
  )
  same(peft.unfuse_params(fused, lora, base=case.params), params)
  same(peft.unfuse_params(fused, params, base=params), params)


def test_dtype_of_the_base_is_kept():
  case = cases.CASES[0]
  base = jax.tree.map(lambda x: x.astype(jnp.bfloat16), case.params)
  lora = adapters(base)
  fused = peft.fuse_params(peft.merge_params(base, lora))
  assert {x.dtype for x in jax.tree.leaves(fused)} == {jnp.dtype('bfloat16')}
  same(
    peft.unfuse_params(fused, lora, base=base), peft.merge_params(base, lora)
  )
  apart = peft.split_params(peft.unfuse_params(fused, lora)).original
  for x, y in zip(jax.tree.leaves(base), jax.tree.leaves(apart), strict=True):
    np.testing.assert_allclose(
      x.astype('float32'), y.astype('float32'), atol=0.02
    )


def test_magnitudes_come_apart_with_the_base_only():
  case = cases.CASES[0]
  lora = peft.set_magnitudes(adapters(case.params), case.params)
  lora = jax.tree.map(lambda x: x * 1.25, lora)
  params = peft.merge_params(case.params, lora)
  fused = peft.fuse_params(params)
  with pytest.raises(ValueError, match='lora has a magnitude.*Give base='):
    peft.unfuse_params(fused, lora)
  same(peft.unfuse_params(fused, lora, base=case.params), params)
  with pytest.raises(ValueError, match='base has no layer_0.*has an adapter'):
    peft.unfuse_params(fused, lora, base={'layer_1': params['layer_1']})


@pytest.mark.parametrize('method', ['int8', 'int4'])
def test_integers_are_made_floats_when_asked(method):
  case = cases.CASES[0]
  ints = peft.quantize(case.params, method=method)
  lora = adapters(ints, targets=('q_proj', 'linear'))
  params = peft.merge_params(ints, lora)
  with pytest.raises(ValueError, match='q_einsum/w is stored as integers.*deq'):
    peft.fuse_params(params)
  fused = peft.fuse_params(params, dequantize=True)
  attention = fused['layer_0']['attn']
  assert attention['q_einsum']['w'].dtype == jnp.float32
  assert '_IntEinsum_0' in attention['kv_einsum']  # It has no adapter.
  tokens = case.tokens()
  np.testing.assert_allclose(
    case.model.apply({'params': fused}, tokens).logits,
    case.model.apply({'params': params}, tokens).logits,
    atol=2 * case.noise,
  )
  same(peft.unfuse_params(fused, lora, base=ints), params)


@pytest.mark.parametrize('case', test_scan.CASES[:2], ids=str)
def test_stacked_layers(case):
  """Adapters of `scan_layers` are those of each layer, in one array."""
  config = case.config
  stacked = gm.nn.stack_layers(case.params, config)
  for way in WAYS:
    options = options_of(case, way)
    nested = peft.init_lora(case.params, rank=2, rng=KEY, **options)
    merged = peft.merge_params(case.params, nested)
    lora = peft.init_lora(stacked, rank=2, rng=KEY, **options)
    same(lora, peft.split_params(gm.nn.stack_layers(merged, config)).lora)
    params = peft.merge_params(stacked, random(lora))
    apart = gm.nn.unstack_layers(params)
    fused = peft.fuse_params(params)
    close(gm.nn.unstack_layers(fused), peft.fuse_params(apart))
    same(peft.unfuse_params(fused, params, base=stacked), params)
    nested = peft.split_params(apart)
    close(
      gm.nn.unstack_layers(
        peft.merge_params(stacked, peft.set_magnitudes(params, stacked))
      ),
      peft.merge_params(
        case.params, peft.set_magnitudes(nested.lora, case.params)
      ),
    )


@pytest.mark.parametrize(
  'case',
  cases.some('gemma3n_deep', 'gemma4_experts_deep', among=test_scan.CASES),
  ids=str,
)
def test_scanned_model_with_adapters(case):
  params = peft.merge_params(
    case.params, peft.set_magnitudes(adapters(case.params), case.params)
  )
  tokens = case.tokens()
  scan = case.model.clone(scan_layers=True)
  stacked = gm.nn.stack_layers(params, case.config)
  np.testing.assert_allclose(
    scan.apply({'params': stacked}, tokens).logits,
    case.model.apply({'params': params}, tokens).logits,
    atol=case.noise,
  )


# Flax's own layers.


@pytest.mark.parametrize(
  'layer, shape', modules.WRAPPERS, ids=lambda x: type(x).__name__
)
def test_wrappers(layer, shape):
  x = jax.random.normal(KEY, shape)
  params = random(layer.init(KEY, x)['params'])
  out = layer.apply({'params': params}, x)
  fused = peft.fuse_params(params)
  plain = layer.wrapped.apply({'params': fused}, x)
  np.testing.assert_allclose(plain, out, atol=1e-5)
  lora = peft.split_params(params).lora
  same(peft.unfuse_params(fused, lora, base=params), params)
  apart = peft.unfuse_params(fused, lora)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), apart, params
  )


def test_whole_modules():
  model = nn.MultiHeadDotProductAttention(num_heads=2)
  x = jax.random.normal(KEY, (2, 3, 4))
  with peft.ModuleInterceptor(modules.by_lora):
    params = random(model.init(KEY, x)['params'])
    out = model.apply({'params': params}, x)
  fused = peft.fuse_params(params)
  np.testing.assert_allclose(model.apply({'params': fused}, x), out, atol=1e-5)


def test_einsums_in_any_order():
  """If shapes do not tell which axes are summed over, the equation does."""
  layer = nn.Einsum((4, 4, 5), 'bd,ndh->bnh', use_bias=False)
  model, x = (
    peft.LoRAEinsum(rank=2, wrapped=layer),
    jax.random.normal(KEY, (3, 4)),
  )
  params = random(model.init(KEY, x)['params'])
  out = model.apply({'params': params}, x)
  params = {'inner': params}
  equations = {'inner': 'bd,ndh->bnh'}
  fused = peft.fuse_params(params, einsums=equations)
  np.testing.assert_allclose(
    jnp.einsum('bd,ndh->bnh', x, fused['inner']['kernel']), out, atol=1e-5
  )
  lora = peft.split_params(params).lora
  apart = peft.unfuse_params(fused, lora, einsums=equations)
  np.testing.assert_allclose(
    apart['inner']['kernel'], params['inner']['kernel'], atol=1e-6
  )
  with pytest.raises(ValueError, match='inner/kernel.*does not fit it'):
    peft.fuse_params(params, einsums={'inner': 'bh,ndh->bnd'})


def test_errors():
  case = cases.GEMMA3
  whole = adapters(case.params, targets='layer_0/.*kv_einsum/w')
  part = adapters(case.params, targets='layer_0/.*v_proj')
  params = peft.merge_params(case.params, peft.merge_params(whole, part))
  with pytest.raises(ValueError, match='has an adapter, and its part.*v_proj'):
    peft.fuse_params(params)
  with pytest.raises(ValueError, match='has an adapter, and a part of it has'):
    case.model.apply({'params': params}, case.tokens(1, 4))
  kernel = {'kernel': jnp.ones((2, 3))}
  for a, b in (((2, 1), (2, 3)), ((4, 1), (1, 2)), ((2, 1), (1, 3, 4))):
    lora = {'lora': {'a': jnp.ones(a), 'b': jnp.ones(b)}}
    with pytest.raises(ValueError, match='dense/kernel.*does not fit it'):
      peft.fuse_params({'dense': kernel | lora})
  assert _targets.adapters_in({'x': {'lora': {'a': 1}}}) == {
    ('x', 'lora'): {'a': 1}
  }
