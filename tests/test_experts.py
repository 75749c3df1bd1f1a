"""Mixtures of experts: what they compute, what they touch, how they shard."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from gemma import gm
from gemma.gm.math import _experts
from gemma.gm.nn import _shapes
from gemma.gm.nn import _transformer
from gemma.peft import _quantization

TOKENS, WIDTH, EXPERTS, TOP, HIDDEN = 5, 16, 8, 3, 12
CASE = cases.NAMED['gemma4_experts']


def make(dtype=jnp.float32, integers=False):
  """Tokens, shares, experts' numbers and both weights."""
  keys = jax.random.split(jax.random.key(0), 4)
  x = jax.random.normal(keys[0], (TOKENS, WIDTH), dtype)
  gating = jax.random.normal(keys[1], (EXPERTS, 2, HIDDEN, WIDTH), dtype)
  linear = jax.random.normal(keys[2], (EXPERTS, HIDDEN, WIDTH), dtype)
  shares, index = _experts.route(
    jax.random.normal(keys[3], (TOKENS, EXPERTS)), TOP
  )
  both = [
    _quantization.quantize_array(w, (axis,), 'int8') if integers else (w,)
    for w, axis in ((gating, 3), (linear, 1))
  ]
  return x, shares, index, *(_experts.Weights(*w) for w in both)


def test_route():
  """By hand: the two largest of three, by the softmax of these two."""
  shares, index = _experts.route(jnp.array([[1.0, 3.0, 2.0]]), 2)
  e = np.exp(1)
  np.testing.assert_array_equal(index, [[1, 2]])
  np.testing.assert_allclose(shares, [[e / (1 + e), 1 / (1 + e)]], rtol=1e-6)


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
  got = _experts.naive_experts(x, shares, index, gating, linear)
  np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize('integers', [False, True])
@pytest.mark.parametrize(
  'run', [_experts.gathered_experts, _experts.grouped_experts]
)
def test_equals_naive(run, integers):
  arguments = make(integers=integers)
  naive = _experts.naive_experts(*arguments)
  np.testing.assert_allclose(run(*arguments), naive, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
  'run', [_experts.gathered_experts, _experts.grouped_experts]
)
def test_gradients_equal_naive(run):
  x, shares, index, gating, linear = make()

  def loss(call, x, shares, gating, linear):
    return jnp.sum(jnp.sin(call(x, shares, index, gating, linear)))

  wanted = jax.grad(loss, range(1, 5))(
    _experts.naive_experts, x, shares, gating, linear
  )
  got = jax.grad(loss, range(1, 5))(run, x, shares, gating, linear)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())


def test_all_tokens_may_want_one_expert():
  """None is dropped, however many there are."""
  x, shares, index, gating, linear = make()
  index = jnp.zeros_like(index).at[:, 1:].set(jnp.array([1, 2]))
  naive = _experts.naive_experts(x, shares, index, gating, linear)
  got = _experts.grouped_experts(x, shares, index, gating, linear)
  np.testing.assert_allclose(got, naive, atol=1e-4, rtol=0)


def test_one_token_is_what_many_are():
  """Two tokens are gathered, 24 are grouped."""
  tokens = CASE.tokens(rows=1)
  many = CASE.apply(tokens).logits
  few = CASE.apply(tokens[:, :2]).logits
  np.testing.assert_allclose(few, many[:, :2], atol=CASE.noise, rtol=0)


@pytest.mark.slow
def test_one_token_touches_its_experts_only():
  """Operations of one token in a period of 26B-A4B, as it is compiled.

  In float32: compilers for CPUs count conversions of bfloat16, made or not.
  """
  whole = gm.nn.Gemma4_26B_A4B().config
  period = whole.attention_types[:6]
  config = dataclasses.replace(whole, attention_types=period)
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
  idle = 6 * experts * (128 - 8) // 128
  active = size - idle
  assert 2 * active < flops < 2.02 * active
  assert idle > 3 * active


@pytest.mark.slow
def test_experts_on_eight_devices():
  """Each has an eighth of the experts; the logits are the same."""
  command = [sys.executable, pathlib.Path(__file__).parent / 'run_experts.py']
  env = os.environ | {'XLA_FLAGS': '--xla_force_host_platform_device_count=8'}
  subprocess.run(command, check=True, timeout=600, env=env)
