"""Attention, masks and RoPE against naive versions in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gemma import gm
from gemma.gm.math import _mask

WINDOW = 6


def plain_attention(q, k, v, visible, scale, softcap):
  """Attention as in the papers, in float64, one query and head at a time."""
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  out = np.zeros(q.shape)
  groups = q.shape[2] // k.shape[2]
  for b, t, n in np.ndindex(*q.shape[:3]):
    scores = k[b, :, n // groups] @ q[b, t, n] * scale
    if softcap is not None:
      scores = softcap * np.tanh(scores / softcap)
    keys = visible[b, t]
    if keys.any():
      weights = np.exp(scores[keys] - scores[keys].max())
      out[b, t, n] = weights @ v[b, keys, n // groups] / weights.sum()
  return out


def inputs(queries, keys, heads=4, kv_heads=2, head_dim=8, seed=0):
  rng = np.random.RandomState(seed)
  q = rng.normal(size=(2, queries, heads, head_dim)).astype(np.float32)
  k = rng.normal(size=(2, keys, kv_heads, head_dim)).astype(np.float32)
  v = rng.normal(size=(2, keys, kv_heads, head_dim)).astype(np.float32)
  return jnp.asarray(q), jnp.asarray(k), jnp.asarray(v)


def masks(queries, keys):
  """Masks over the last `queries` of `keys` tokens, of every kind."""
  index = np.broadcast_to(np.arange(keys), (2, keys))
  q_index = index[:, keys - queries :]
  ring = np.roll(index, 3, axis=1)
  holes = np.where(np.arange(keys) % 5 == 2, -1, index)
  nothing = np.full_like(index, -1)
  dense = np.random.RandomState(1).rand(2, queries, keys) < 0.5
  inside = jnp.asarray(image_of(index) >= 0)
  q_last = _mask.last_of_runs(jnp.asarray(index), inside)
  q_last = q_last[:, keys - queries :]
  # The model sees JAX arrays.
  index, q_index, ring, holes, nothing, dense = map(
    jnp.asarray, (index, q_index, ring, holes, nothing, dense)
  )
  return {
    'causal': gm.math.Mask(q_index=q_index, k_index=index),
    'window': gm.math.Mask(q_index=q_index, k_index=index, window=WINDOW),
    'ring': gm.math.Mask(q_index=q_index, k_index=ring, window=WINDOW),
    'padding': gm.math.Mask(q_index=q_index, k_index=holes, window=WINDOW),
    'nothing': gm.math.Mask(q_index=q_index, k_index=nothing),
    'dense': gm.math.Mask(
      q_index=q_index, k_index=index, dense=dense, causal=False
    ),
    'dense window': gm.math.Mask(
      q_index=q_index, k_index=ring, dense=dense, causal=False, window=WINDOW
    ),
    'both ways': gm.math.Mask(
      q_index=q_index, k_index=index, causal=False, window=WINDOW
    ),
    'images': gm.math.Mask(q_index=q_index, k_index=index, q_last=q_last),
    'images window': gm.math.Mask(
      q_index=q_index, k_index=ring, q_last=q_last, window=3
    ),
  }


def image_of(index):
  """Four of nine tokens are an image."""
  return np.where((index % 9 >= 3) & (index % 9 <= 6), index // 9, -1)


KINDS = tuple(masks(1, 1))


def visible(mask):
  """The mask by its definition, pair by pair."""
  q_index, k_index = np.asarray(mask.q_index), np.asarray(mask.k_index)
  dense = None if mask.dense is None else np.asarray(mask.dense)
  queries, keys = q_index.shape[1], k_index.shape[1]
  out = np.zeros((2, queries, keys), bool)
  for b, t, s in np.ndindex(2, queries, keys):
    i, j = q_index[b, t], k_index[b, s]
    same_image = mask.q_last is not None and image_of(i) == image_of(j) >= 0
    out[b, t, s] = (
      j >= 0
      and (j <= i or not mask.causal or same_image)
      and (mask.window is None or abs(i - j) < mask.window)
      and (dense is None or dense[b, t, j])
    )
  return out


SHAPES = (1, 18), (18, 18), (5, 23)


@pytest.mark.parametrize(
  'kind, queries, keys, softcap',
  [
    pytest.param(
      kind,
      *shape,
      softcap,
      marks=[] if (i + j + k) % 2 else pytest.mark.exhaustive,
    )
    for i, kind in enumerate(KINDS)
    for j, shape in enumerate(SHAPES)
    for k, softcap in enumerate((None, 3.0))
  ],
)
def test_attention_is_that_of_the_papers(kind, queries, keys, softcap):
  q, k, v = inputs(queries, keys)
  mask = masks(queries, keys)[kind]
  expected = plain_attention(q, k, v, visible(mask), 0.3, softcap)
  np.testing.assert_array_equal(mask.visible(), visible(mask))

  @jax.jit
  def run(q, k, v, mask):
    fields = {'mask': mask, 'scale': 0.3, 'softcap': softcap}
    blocks = (4, 7, 64)
    chunked = [
      gm.math.chunked_attention(q, k, v, **fields, block=n) for n in blocks
    ]
    return [gm.math.naive_attention(q, k, v, **fields), *chunked]

  for out in run(q, k, v, mask):
    np.testing.assert_allclose(out, expected, atol=1e-6)


@pytest.mark.parametrize('kind', KINDS)
def test_chunked_has_the_gradients_of_naive(kind):
  q, k, v = inputs(18, 18)
  mask = masks(18, 18)[kind]

  def loss(run, q, k, v, **kwargs):
    out = run(q, k, v, mask=mask, scale=0.3, softcap=5.0, **kwargs)
    return jnp.sum(jnp.sin(out))

  @jax.jit
  def both(q, k, v):
    grad = jax.grad(loss, argnums=(1, 2, 3))
    naive, chunked = gm.math.naive_attention, gm.math.chunked_attention
    return grad(naive, q, k, v), grad(
      lambda *a, **kw: chunked(*a, **kw, block=4), q, k, v
    )

  naive, chunked = both(q, k, v)
  for a, b in zip(naive, chunked, strict=True):
    assert np.isfinite(a).all()
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_memory_of_gradients_is_linear():
  """Beside what goes in and out, that of a block of scores."""
  temporary = []
  for length in (2048, 4096):
    q = jax.ShapeDtypeStruct((1, length, 4, 64), jnp.bfloat16)
    kv = jax.ShapeDtypeStruct((1, length, 1, 64), jnp.bfloat16)
    index = jax.ShapeDtypeStruct((1, length), jnp.int32)

    def loss(q, k, v, index):
      mask = gm.math.Mask(q_index=index, k_index=index)
      out = gm.math.chunked_attention(q, k, v, mask=mask, scale=0.1)
      return jnp.sum(out.astype(jnp.float32))

    step = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    compiled = step.lower(q, kv, kv, index).compile()
    temporary.append(compiled.memory_analysis().temp_size_in_bytes)
  queries = 4096 * 4 * 64 * 4
  assert temporary[1] - temporary[0] < 2 * queries
  assert temporary[1] < 8 * queries


@pytest.mark.parametrize('implementation', ['naive', 'chunked'])
def test_long_attention_past_the_switch(implementation):
  """Twice the default block, in bfloat16 and float32."""
  q, k, v = inputs(1100, 1100, heads=2, kv_heads=1)
  index = jnp.broadcast_to(jnp.arange(1100), (2, 1100))
  mask = gm.math.Mask(q_index=index, k_index=index, window=300)
  fields = {'mask': mask, 'scale': 0.3, 'implementation': implementation}
  auto = gm.math.attend(q, k, v, mask=mask, scale=0.3)
  out = gm.math.attend(q, k, v, **fields)
  np.testing.assert_allclose(out, auto, atol=1e-6)
  half = [x.astype(jnp.bfloat16) for x in (q, k, v)]
  rounded = gm.math.attend(*half, **fields)
  assert rounded.dtype == jnp.bfloat16
  np.testing.assert_allclose(rounded.astype(jnp.float32), out, atol=3e-2)


def test_attention_refuses_what_it_cannot_do():
  q, k, v = inputs(3, 3, heads=4, kv_heads=3)
  index = jnp.broadcast_to(jnp.arange(3), (2, 3))
  mask = gm.math.Mask(q_index=index, k_index=index)
  with pytest.raises(ValueError, match='4 query heads cannot share 3'):
    gm.math.attend(q, k, v, mask=mask, scale=1.0)


@pytest.mark.parametrize(
  'base, factor, proportion',
  [
    (10_000, 1.0, 1.0),
    (1_000_000, 8.0, 1.0),
    (1_000_000, 1.0, 0.25),
  ],
)
def test_rope_is_a_rotation_of_halves(base, factor, proportion):
  head_dim = 16
  x = np.random.RandomState(0).normal(size=(2, 5, 3, head_dim))
  positions = np.array([[0, 1, 2, 100, 3000], [7, 8, 9, 10, 130_000]])
  out = gm.math.apply_rope(
    jnp.asarray(x, jnp.float32),
    jnp.asarray(positions),
    base_frequency=base,
    scale_factor=factor,
    rope_proportion=proportion,
  )
  half = head_dim // 2
  expected = x.copy()
  for b, t, n, j in np.ndindex(2, 5, 3, int(proportion * half)):
    angle = positions[b, t] / base ** (2 * j / head_dim) / factor
    turn = np.array(
      [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    expected[b, t, n, [j, j + half]] = turn @ x[b, t, n, [j, j + half]]
  np.testing.assert_allclose(out, expected, atol=3e-2)
  np.testing.assert_allclose(out[0, :4], expected[0, :4], atol=2e-5)


def test_rope_in_bfloat16_has_float32_angles():
  x = jnp.ones((1, 1, 1, 16), jnp.bfloat16)
  far = jnp.array([[30_001]])
  half = gm.math.apply_rope(x, far, base_frequency=10_000)
  full = gm.math.apply_rope(x.astype(jnp.float32), far, base_frequency=10_000)
  assert half.dtype == jnp.bfloat16
  np.testing.assert_allclose(half.astype(jnp.float32), full, atol=8e-3)


def test_rope_refuses_to_stretch():
  with pytest.raises(ValueError, match='scale_factor=0.5'):
    gm.math.apply_rope(
      jnp.ones((1, 1, 1, 4)),
      jnp.zeros((1, 1), int),
      base_frequency=10,
      scale_factor=0.5,
    )
