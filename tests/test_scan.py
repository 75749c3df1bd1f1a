"""Layers compiled once, and computed again: neither changes a number."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from gemma import gm
from gemma.gm.nn import _config
from gemma.gm.nn import _scan
from gemma.gm.nn import _shapes

_PERIOD = _config.GEMMA2_ATTENTION_PATTERN


def deep(name, layers, **fields):
  """A case with more layers, of which some repeat; each loses more digits."""
  types = _config.make_attention_layers_types(_PERIOD, num_layers=layers)
  config = dataclasses.replace(
    cases.NAMED[name].config, attention_types=types, **fields
  )
  return cases.Case(f'{name}_deep', config, 4 * cases.NAMED[name].tolerance)


# Gemma 3 with a layer left over; where layers read the keys of layers before
# them, the latter stay on their own.
CASES = (
  deep('gemma3_gqa', 5),
  deep('gemma3n', 6, num_kv_shared_layers=4),
  deep(
    'gemma4_per_layer',
    11,
    num_kv_shared_layers=5,
    hidden_dims=(48,) * 6 + (96,) * 5,
  ),
  deep('gemma4_experts', 5),
)
NAMES = {
  'gemma3_gqa': ['layers_0_3', 'layer_4'],
  'gemma3n': ['layer_0', 'layer_1', 'layers_2_5'],
  'gemma4_per_layer': [
    'layers_0_3',
    'layer_4',
    'layer_5',
    'layers_6_9',
    'layer_10',
  ],
  'gemma4_experts': ['layers_0_3', 'layer_4'],
}
ALL = pytest.mark.parametrize('case', CASES, ids=str)


def loss_of(logits, tokens):
  logprobs = jax.nn.log_softmax(logits[:, :-1])
  chosen = jnp.take_along_axis(logprobs, tokens[:, 1:, None], axis=2)
  return -jnp.mean(chosen)


@ALL
def test_what_repeats(case):
  stacks = _scan.stacks(case.config)
  name = case.name.removesuffix('_deep')
  assert [stack.name for stack in stacks] == NAMES[name]
  assert stacks[-1].stop == case.config.num_layers


@pytest.mark.parametrize(
  'preset, names',
  [
    ('Gemma3_4B', ['layers_0_29', *range(30, 34)]),
    ('Gemma3n_E2B', ['layers_0_9', *range(10, 20), 'layers_20_29']),
    ('Gemma4_E2B', ['layers_0_9', *range(10, 15), 'layers_15_34']),
  ],
)
def test_what_repeats_in_released_sizes(preset, names):
  """Periods of five and six layers; whose keys others read stays alone."""
  found = _scan.stacks(gm.nn.PRESETS[preset]().config)
  assert [stack.name for stack in found] == [
    f'layer_{name}' if isinstance(name, int) else name for name in names
  ]


@ALL
def test_parameters(case):
  """Stacked and back; those of `init` are the same tree."""
  model = case.model.clone(scan_layers=True)
  stacked = gm.nn.stack_layers(case.params, case.config)
  back = gm.nn.unstack_layers(stacked)
  jax.tree.map(np.testing.assert_array_equal, back, case.params)
  tokens = jnp.ones((1, 1), jnp.int32)
  made = jax.eval_shape(model.init, jax.random.key(0), tokens)['params']
  shapes = _shapes.param_shapes(model)
  assert made == shapes
  assert jax.tree.structure(stacked) == jax.tree.structure(shapes)
  assert gm.nn.summarize(model).size == gm.nn.summarize(case.model).size


def logits_and_gradients(model, params, tokens):
  """Both of one program."""

  def run(params):
    logits = model.apply({'params': params}, tokens).logits
    return loss_of(logits, tokens), logits

  grads, logits = jax.jit(jax.grad(run, has_aux=True))(params)
  return np.asarray(logits), grads


@functools.cache
def one_by_one(case):
  """Those of layers that are compiled one by one, and kept."""
  return logits_and_gradients(case.model, case.params, case.tokens())


WAYS = ('none', True), ('dots', True), ('full', True), ('full', False)


@pytest.mark.slow
@pytest.mark.parametrize(
  'case, remat, scan',
  [
    pytest.param(
      case,
      *way,
      marks=[]
      if case is CASES[0] or way == ('full', True)
      else cases.EXHAUSTIVE,
    )
    for case in CASES
    for way in WAYS
  ],
  ids=str,
)
def test_neither_changes_a_number(case, remat, scan):
  """Logits, with a cache too, and gradients."""
  tokens = case.tokens()
  model = case.model.clone(scan_layers=scan, remat=remat)
  params = case.params
  if scan:
    params = gm.nn.stack_layers(params, case.config)
  plain, wanted = one_by_one(case)
  out, got = logits_and_gradients(model, params, tokens)
  np.testing.assert_allclose(out, plain, atol=case.noise, rtol=0)
  cache, parts = case.cache(), []
  for part in np.split(tokens, 3, axis=1):
    out = model.apply({'params': params}, part, cache=cache)
    cache = out.cache
    parts.append(out.logits)
  decoded = np.concatenate(parts, axis=1)
  np.testing.assert_allclose(decoded, plain, atol=case.noise, rtol=0)
  got = gm.nn.unstack_layers(got)
  largest = max(np.abs(x).max() for x in jax.tree.leaves(wanted))
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
    # Padding alone changes them as much.
    np.testing.assert_allclose(a, b, atol=case.tolerance * largest)


def test_full_keeps_less_than_dots_and_dots_less_than_none():
  """Bytes of what the backward pass is given."""
  case = cases.NAMED['gemma3_gqa']
  tokens = jnp.asarray(case.tokens())
  sizes = []
  for remat in ('none', 'dots', 'full'):
    model = case.model.clone(remat=remat)
    _, pull = jax.eval_shape(
      lambda params, model=model: jax.vjp(
        lambda p: loss_of(model.apply({'params': p}, tokens).logits, tokens),
        params,
      ),
      case.params,
    )
    sizes.append(sum(x.size for x in jax.tree.leaves(pull)))
  assert sizes[0] > 1.3 * sizes[1] > 1.3 * sizes[2]


def test_layers_that_are_computed_again_can_be_recorded():
  case = cases.NAMED['gemma3_gqa']
  model = case.model.clone(remat='full')

  @jax.jit
  def run(params, tokens):
    return model.apply({'params': params}, tokens, capture_intermediates=True)

  out, found = run(case.params, jnp.asarray(case.tokens()))
  np.testing.assert_allclose(out.logits, case.apply(case.tokens()).logits)
  assert {f'layer_{i}' for i in range(5)} <= found['intermediates'].keys()


def test_errors():
  case = cases.NAMED['gemma3_gqa']
  with pytest.raises(ValueError, match="remat='some' is not one of.*'none'"):
    case.model.clone(remat='some').apply({'params': case.params}, case.tokens())
  few = {k: v for k, v in case.params.items() if k != 'layer_4'}
  with pytest.raises(ValueError, match='no layer_4, but the config has 5'):
    gm.nn.stack_layers(few, case.config)
