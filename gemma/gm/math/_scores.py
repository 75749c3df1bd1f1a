"""Scores and sums of attention, as all its forms compute them.

Axes: B batch, T query, S key, N query heads, K kv heads, G = N // K query heads
of one kv head, H head_dim, M = G * T.
"""

import jax
import jax.numpy as jnp

from gemma.gm.math import _mask


def grouped(q: jax.Array, kv_heads: int) -> jax.Array:
  """`[B T N H]` as `[B K G T H]`: the queries of each kv head together."""
  q = q.reshape(*q.shape[:2], kv_heads, -1, q.shape[-1])
  return jnp.einsum('BTKGH->BKGTH', q)


def scores(
  q: jax.Array,
  k: jax.Array,
  mask: _mask.Mask,
  scale: float,
  softcap: float | None,
) -> tuple[jax.Array, jax.Array]:
  """Scores `f32[B K G T S]` and which of them count, `bool[B 1 1 T S]`."""
  # One large product for each kv head, not G small ones.
  rows = q.reshape(*q.shape[:2], -1, q.shape[-1])
  if k.shape[2] == 1:
    out = _dot(rows[:, 0], k[:, :, 0], k_axis=2)
  else:
    out = jnp.einsum(
      'BKMH,BSKH->BKMS', rows, k, preferred_element_type=jnp.float32
    )
  out = scale * out.reshape(*q.shape[:-1], k.shape[1])
  if softcap is not None:
    out = softcap * jnp.tanh(out / softcap)
  visible = mask.visible()[:, None, None]
  return jnp.where(visible, out, jnp.finfo(jnp.float32).min), visible


def weighted(weights: jax.Array, v: jax.Array) -> jax.Array:
  """Sums of values, `f32[B K G T H]`, by weights `[B K G T S]`."""
  weights = weights.astype(v.dtype)
  if v.shape[2] == 1:
    rows = weights.reshape(v.shape[0], -1, v.shape[1])
    out = _dot(rows, v[:, :, 0], k_axis=1)
    return out.reshape(*weights.shape[:-1], v.shape[-1])
  return jnp.einsum(
    'BKGTS,BSKH->BKGTH', weights, v, preferred_element_type=jnp.float32
  )


def nonzero(total: jax.Array) -> jax.Array:
  """A row that sees nothing has no weight: its values are divided by 1."""
  return jnp.where(total == 0, 1, total)


def _dot(rows: jax.Array, keys: jax.Array, k_axis: int) -> jax.Array:
  """`[B M *]` by `[B * *]`: a form that reads the keys as they lie in memory.

  With the axis of a single kv head in it, an einsum would copy all of them.
  """
  return jax.lax.dot_general(
    rows,
    keys,
    (((2,), (k_axis,)), ((0,), (0,))),
    preferred_element_type=jnp.float32,
  )
