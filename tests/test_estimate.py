"""Memory of a training step, foretold and as compiled."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
import pytest

import cases
from gemma import gm
from gemma.gm.nn import _shapes

LENGTH, ROWS = 256, 4


def model_of(remat, scan=True):
  """Layers that are all alike, wide enough for activations to matter."""
  config = dataclasses.replace(
    cases.NAMED['gemma1_mha'].config,
    num_embed=4096,
    embed_dim=128,
    hidden_dim=512,
    head_dim=32,
  )
  return gm.nn.Transformer(
    config=config, dtype=jnp.float32, remat=remat, scan_layers=scan
  )


def compiled_bytes(model):
  """Of a step with AdamW that updates its state in place."""
  params = _shapes.param_shapes(model)
  optimizer = optax.adamw(1e-3)
  tokens = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32)

  def step(params, state, tokens):
    def loss(params):
      out = model.apply({'params': params}, tokens, return_hidden_states=True)
      head = gm.nn.head_of(params, model.config)
      return head.losses(out.hidden_states, tokens).mean()

    grads = jax.grad(loss)(params)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  state = jax.eval_shape(optimizer.init, params)
  lowered = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, tokens)
  memory = lowered.compile().memory_analysis()
  return (
    memory.argument_size_in_bytes
    + memory.temp_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
  )


@pytest.mark.parametrize(
  'remat, scan',
  [('none', True), ('dots', True), ('full', True), ('full', False)],
)
def test_estimate_is_near_what_is_compiled(remat, scan):
  model = model_of(remat, scan)
  estimate = gm.nn.estimate_memory(model, batch_size=ROWS, length=LENGTH)
  assert 0.8 < estimate.total / compiled_bytes(model) < 1.4


def test_parts():
  model = model_of('none')
  fields = {'batch_size': ROWS, 'length': LENGTH}
  plain = gm.nn.estimate_memory(model, **fields)
  shapes = _shapes.param_shapes(model)
  size = sum(x.size for x in jax.tree.leaves(shapes))
  assert plain.weights == 4 * size
  assert plain.optimizer == 8 * size + 4
  table = 4 * 4096 * 128
  assert plain.gradients == 4 * size + table

  half = gm.nn.estimate_memory(model, **fields, accumulate=2)
  assert half.gradients == plain.gradients + 4 * size
  assert 0.4 < half.activations / plain.activations < 0.6

  adapted = gm.nn.LoRA(rank=4, model=model_of('none', scan=False))
  lora = gm.nn.estimate_memory(adapted, **fields)
  assert lora.gradients < 0.1 * plain.gradients
  assert lora.weights == plain.weights + lora.gradients


def test_advice_fits():
  model = model_of('none')
  estimate = gm.nn.estimate_memory(
    model, batch_size=ROWS, length=LENGTH, master_dtype='float32'
  )
  advice = dict(estimate.advice)
  assert advice.keys() == {
    "remat='dots'",
    "remat='full'",
    'accumulate=4',
    'master_dtype=None',
  }
  least = min(advice.values())
  estimate.check(estimate.total)
  with pytest.raises(ValueError, match='These would fit: ') as error:
    estimate.check(estimate.total - 1)
  for name in advice:
    assert name in str(error.value)
  with pytest.raises(ValueError, match='Nor would any of these alone'):
    estimate.check(least - 1)


def two_periods(config):
  """Layers of full width; the second period reads keys of the first."""
  types = config.attention_types[-2:] * 2
  dims, shared = config.hidden_dims, config.num_kv_shared_layers
  return dataclasses.replace(
    config,
    attention_types=types,
    num_kv_shared_layers=2 if shared else 0,
    hidden_dims=dims and (dims[0],) * 2 + (dims[-1],) * 2,
    activation_sparsity=config.activation_sparsity[:1],
  )


LARGE = 'Gemma3n_E4B', 'Gemma4_26B_A4B', 'Gemma4_E4B'


@pytest.mark.parametrize('name', LARGE)
@pytest.mark.slow
def test_layers_of_large_models(name):
  """Without an array of theirs."""
  whole = getattr(gm.nn, name)(text_only=True)
  model = gm.nn.Transformer(
    config=two_periods(whole.config), dtype=whole.dtype, remat='full'
  )
  estimate = gm.nn.estimate_memory(
    gm.nn.LoRA(rank=8, model=model), batch_size=1, length=512
  )
  size = sum(x.size for x in jax.tree.leaves(_shapes.param_shapes(model)))
  assert estimate.weights == 2 * size + estimate.gradients
  assert estimate.total < 1.3 * estimate.weights


@pytest.mark.parametrize('name', ['Gemma3_27B', *LARGE])
@pytest.mark.slow
@pytest.mark.exhaustive
def test_large_models(name):
  model = getattr(gm.nn, name)(remat='full', text_only=True)
  estimate = gm.nn.estimate_memory(
    gm.nn.LoRA(rank=8, model=model), batch_size=1, length=512
  )
  assert estimate.weights > 2**33
  assert estimate.total < 1.3 * estimate.weights


@pytest.mark.parametrize(
  'fields',
  [
    {'batch_size': 0, 'length': 4},
    {'batch_size': 3, 'length': 4, 'accumulate': 2},
  ],
)
def test_errors(fields):
  with pytest.raises(ValueError, match='batch_size='):
    gm.nn.estimate_memory(model_of('none'), **fields)
