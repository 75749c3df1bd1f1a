"""What the cache holds, and what it weighs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from gemma import gm
from gemma.gm.nn import _cache


def test_bytes_of_a_long_cache():
  """Gemma 3 4B at 32,768 tokens: 5 global layers, 29 rings of 1,024."""
  cache = gm.nn.Gemma3_4B().init_cache(
    batch_size=1, dtype=jnp.bfloat16, cache_length=32_768
  )
  slot = 2 * 4 * 256 * 2  # Keys and values, 4 heads of 256, 2 bytes.
  assert cache.nbytes == slot * (5 * 32_768 + 29 * 1024)
  assert cache.nbytes < 0.80 * 2**30
  uniform = slot * 34 * 32_768
  assert uniform / 2**30 == pytest.approx(4.25)


@pytest.mark.parametrize('length', [0, 1, 5, 6, 7, 12, 40])
def test_slot_index_is_the_newest_token_of_the_slot(length):
  slots = 6
  expected = np.full(slots, -1)
  for token in range(length):
    expected[token % slots] = token
  index = _cache.slot_index(slots, jnp.array([length]))[0]
  np.testing.assert_array_equal(np.maximum(index, -1), expected)


@pytest.mark.slow
def test_a_ring_holds_the_last_window_of_each_row():
  """Whatever the chunks, and however ragged the rows."""
  rng = np.random.RandomState(0)
  layer = _cache.LayerKV(
    k=jnp.zeros((2, 6, 1, 1)), v=jnp.zeros((2, 6, 1, 1)), window=6
  )
  length = jnp.zeros(2, jnp.int32)
  for _ in range(12):
    size = rng.randint(1, 10)
    counts = rng.randint(0, size + 1, 2)
    order = np.arange(size)[None]
    index = np.where(order < counts[:, None], order + length[:, None], -1)
    values = jnp.asarray(index, jnp.float32)[:, :, None, None]
    layer, seen = layer.extend(values, -values, jnp.asarray(index), length)
    length += counts
    for row in range(2):
      newest = np.arange(max(0, length[row] - 6), length[row])
      held = np.asarray(_cache.slot_index(6, length)[row])
      assert sorted(held[held >= 0]) == newest.tolist()
      np.testing.assert_array_equal(
        layer.k[row, held >= 0, 0, 0], held[held >= 0]
      )
      np.testing.assert_array_equal(layer.k, -layer.v)
      # Everything that a query may look at is there, under its index.
      index_seen = np.asarray(seen.index[row])
      real = index_seen >= 0
      np.testing.assert_array_equal(seen.k[row, real, 0, 0], index_seen[real])
      needed = range(max(0, length[row] - counts[row] - 5), length[row])
      assert set(needed) <= set(index_seen.tolist())


def test_reads_like_the_published_dict():
  case = cases.GEMMA3
  cache = case.apply(case.tokens(2, 10), cache=case.cache(2, 20)).cache
  assert list(cache) == [f'layer_{i}' for i in range(5)]
  layer = cache['layer_1']
  assert layer['k'].shape == layer['v'].shape == (2, 20, 2, 16)
  assert cache['layer_0']['k'].shape == (2, 6, 2, 16)
  np.testing.assert_array_equal(layer['end_index'], [10, 10])
  np.testing.assert_array_equal(layer['positions'][0, :10], np.arange(10))


def test_a_cache_shorter_than_the_window_holds_everything():
  case = cases.CASES[2]
  cache = case.cache(1, 4)
  assert {layer.k.shape[1] for layer in cache.layers.values()} == {4}
  tokens = case.tokens(1, 4)
  out = case.apply(
    tokens[:, 3:], cache=case.apply(tokens[:, :3], cache=cache).cache
  )
  np.testing.assert_allclose(
    out.logits, case.apply(tokens).logits[:, 3:], atol=2e-5, rtol=0
  )


@pytest.mark.parametrize('cached', [False, True])
def test_nothing_quadratic_is_ever_made(cached):
  """No mask `[B, T, S]` and no scores `[B, N, T, S]` for a long prompt."""
  model, length = gm.nn.Gemma3_270M(), 16_384
  tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
  params = jax.eval_shape(
    lambda: model.init(jax.random.key(0), jnp.ones((1, 1), jnp.int32))
  )

  def forward(params, tokens):
    cache = None
    if cached:
      cache = model.init_cache(
        batch_size=1, dtype=jnp.bfloat16, cache_length=length
      )
    out = model.apply(params, tokens, cache=cache, return_last_only=True)
    return out.logits

  jaxpr = jax.make_jaxpr(forward)(params, tokens)
  table = model.config.num_embed * model.config.embed_dim
  largest = max(_sizes(jaxpr.jaxpr), key=lambda x: x[0] * (x[0] != table))
  widest = 4 * length * model.config.hidden_dim
  assert largest[0] <= widest < length * length, largest


def _sizes(jaxpr):
  """Elements and shape of everything computed, in inner programs too."""
  for equation in jaxpr.eqns:
    for out in equation.outvars:
      yield math.prod(out.aval.shape), out.aval.shape
    for value in equation.params.values():
      for inner in value if isinstance(value, tuple | list) else (value,):
        if isinstance(inner, jax.extend.core.ClosedJaxpr):
          yield from _sizes(inner.jaxpr)
        elif isinstance(inner, jax.extend.core.Jaxpr):
          yield from _sizes(inner)
