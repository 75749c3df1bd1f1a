"""Mixtures of experts: what they compute, and what they touch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from gemma import gm
from gemma.gm.math import _expert_products
from gemma.gm.math import _experts
from gemma.gm.nn import _shapes
from gemma.gm.nn import _transformer
from gemma.peft import _quantization

TOKENS, WIDTH, EXPERTS, TOP, HIDDEN = 5, 16, 8, 3, 12
CASE = cases.NAMED['gemma4_experts']


def make(integers=False, tokens=TOKENS):
  """Tokens, shares, experts' numbers and both weights."""
  keys = jax.random.split(jax.random.key(0), 4)
  x = jax.random.normal(keys[0], (tokens, WIDTH))
  gating = jax.random.normal(keys[1], (EXPERTS, 2, HIDDEN, WIDTH))
  linear = jax.random.normal(keys[2], (EXPERTS, HIDDEN, WIDTH))
  shares, index = _experts.route(
    jax.random.normal(keys[3], (1, tokens, EXPERTS)), TOP
  )
  both = [
    _quantization.quantize_array(w, (axis,), 'int8') if integers else (w,)
    for w, axis in ((gating, 3), (linear, 1))
  ]
  return x, shares[0], index[0], *(_expert_products.Weights(*w) for w in both)


def test_route():
  """By hand: the two largest of three, by the softmax of these two."""
  shares, index = _experts.route(jnp.array([[[1.0, 3.0, 2.0]]]), 2)
  e = np.exp(1)
  np.testing.assert_array_equal(index, [[[1, 2]]])
  np.testing.assert_allclose(shares, [[[e / (1 + e), 1 / (1 + e)]]], rtol=1e-6)


def test_naive_is_the_sum_of_feed_forwards():
  """In float64, one token and one expert at a time."""
  x, shares, index, gating, linear = make()
  expected = np.zeros((TOKENS, WIDTH))
  for token in range(TOKENS):
    for share, expert in zip(shares[token], index[token], strict=True):
      gate, up = np.asarray(gating.w[expert], np.float64) @ x[token]
      cube = gate + 0.044715 * gate**3
      gate = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * cube))
      down = np.asarray(linear.w[expert], np.float64)
      expected[token] += share * ((gate * up) @ down)
  got = _expert_products.naive_experts(x, shares, index, gating, linear)
  np.testing.assert_allclose(got, expected, atol=1e-4)


RUNS = pytest.mark.parametrize(
  'run', [_expert_products.gathered_experts, _expert_products.grouped_experts]
)


@pytest.mark.parametrize('integers', [False, True])
@RUNS
def test_equals_naive(run, integers):
  arguments = make(integers=integers)
  naive = _expert_products.naive_experts(*arguments)
  np.testing.assert_allclose(run(*arguments), naive, atol=1e-4, rtol=0)


def gradients(run, x, shares, index, gating, linear):
  """Those of all that has some."""

  def loss(x, shares, gating, linear):
    return jnp.sum(jnp.sin(run(x, shares, index, gating, linear)))

  return jax.grad(loss, range(4))(x, shares, gating, linear)


@pytest.mark.slow
@pytest.mark.parametrize('tokens', [TOKENS, 50])
@RUNS
def test_gradients_equal_naive(run, tokens):
  """Experts with none, one and several blocks; one that is elsewhere."""
  x, shares, index, gating, linear = make(tokens=tokens)
  index = jnp.where(index == 3, EXPERTS, index)
  arguments = x, shares, index, gating, linear
  wanted = gradients(_expert_products.naive_experts, *arguments)
  got = gradients(run, *arguments)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())


@pytest.mark.parametrize('integers', [False, True])
def test_gradients_of_tokens_alone(integers):
  """Of weights that are not trained, integers for example, there are none."""
  x, shares, index, *weights = make(integers=integers)

  def loss(run, x):
    return jnp.sum(jnp.sin(run(x, shares, index, *weights)))

  grad = jax.grad(loss, argnums=1)
  got = grad(_expert_products.grouped_experts, x)
  wanted = grad(_expert_products.naive_experts, x)
  np.testing.assert_allclose(got, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize('tokens, experts', [(2048, 16), (64, 128)])
def test_memory_is_that_of_blocks(tokens, experts):
  """Of many tokens: not all for each expert. Of few: not that of weights."""
  width, hidden, top_k = 128, 64, 4
  x = jax.ShapeDtypeStruct((tokens, width), jnp.bfloat16)
  shares = jax.ShapeDtypeStruct((tokens, top_k), jnp.float32)
  index = jax.ShapeDtypeStruct((tokens, top_k), jnp.int32)
  gating = jax.ShapeDtypeStruct((experts, 2, hidden, width), jnp.bfloat16)
  linear = jax.ShapeDtypeStruct((experts, hidden, width), jnp.bfloat16)

  def loss(x, shares, index, *weights):
    weights = map(_expert_products.Weights, weights)
    run = _expert_products.grouped_experts
    return jnp.sum(jnp.sin(run(x, shares, index, *weights)))

  step = jax.jit(jax.grad(loss, argnums=0))
  compiled = step.lower(x, shares, index, gating, linear).compile()
  temporary = compiled.memory_analysis().temp_size_in_bytes
  stream, weights = tokens * width * 4, 3 * experts * hidden * width * 2
  assert temporary < (5 * stream if tokens > experts else weights / 8)


def test_all_tokens_may_want_one_expert():
  """None is dropped, however many there are."""
  x, shares, index, gating, linear = make(tokens=50)
  index = jnp.zeros_like(index).at[:, 1:].set(jnp.array([1, 2]))
  naive = _expert_products.naive_experts(x, shares, index, gating, linear)
  got = _expert_products.grouped_experts(x, shares, index, gating, linear)
  np.testing.assert_allclose(got, naive, atol=1e-4, rtol=0)


def test_one_token_is_what_many_are():
  """Two tokens are gathered, 24 are grouped."""
  tokens = CASE.tokens(rows=1)
  many = CASE.apply(tokens).logits
  few = CASE.apply(tokens[:, :2]).logits
  np.testing.assert_allclose(few, many[:, :2], atol=CASE.noise, rtol=0)


@pytest.mark.slow
def test_one_token_touches_its_experts_only():
  """Operations of one token in two layers of 26B-A4B, as compiled.

  In float32: compilers for CPUs count conversions of bfloat16, made or not.
  """
  whole = gm.nn.Gemma4_26B_A4B().config
  types = whole.attention_types[4:6]  # A local and a global one.
  config = dataclasses.replace(whole, attention_types=types)
  model = _transformer.Transformer(config=config, dtype=jnp.float32)
  params = _shapes.param_shapes(model)

  def forward(params, tokens):
    return model.apply({'params': params}, tokens).logits

  one = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  compiled = jax.jit(forward).lower(params, one).compile()
  flops = compiled.cost_analysis()['flops']
  size = sum(x.size for x in jax.tree.leaves(params))
  layer = params['layer_0']['mlp']
  experts = sum(layer[name]['w'].size for name in ('gating_einsum', 'linear'))
  idle = 2 * experts * (128 - 8) // 128
  active = size - idle
  assert 2 * active < flops < 2.02 * active
  table = params['embedder']['input_embedding'].size
  assert idle > 6 * (active - table)
