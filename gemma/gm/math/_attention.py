"""Scaled dot-product attention with grouped heads, soft cap and masks.

Axes: B batch, T query, S key, N query heads, K kv heads, G = N // K query
heads of one kv head, H head_dim, t and s one block of T and S.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float

from gemma.gm.math import _mask
from gemma.gm.math import _parallel_attention
from gemma.gm.math import _partition

Implementation = Literal['auto', 'naive', 'chunked']

# Scores per head from which `auto` no longer holds them all at once.
_NAIVE_SCORES = 1024 * 1024
_BLOCK = 512  # Queries and keys in one block of `chunked_attention`.


def attend(
  q: Float[Array, 'B T N H'],
  k: Float[Array, 'B S K H'],
  v: Float[Array, 'B S K H'],
  *,
  mask: _mask.Mask,
  scale: float,
  softcap: float | None = None,
  implementation: Implementation = 'auto',
) -> Float[Array, 'B T N H']:
  """Attention of every query over the keys that its mask shows.

  Query head `n` reads kv head `n // G`. Scores, soft cap and softmax are
  float32. A query that sees nothing gets zeros.

  ```python
  >>> import jax.numpy as jnp
  >>> from gemma import gm
  >>> q, kv = jnp.ones((1, 3, 4, 8)), jnp.ones((1, 3, 2, 8))
  >>> index = jnp.arange(3)[None]
  >>> mask = gm.math.Mask(q_index=index, k_index=index, window=2)
  >>> gm.math.attend(q, kv, kv, mask=mask, scale=8**-0.5).shape
  (1, 3, 4, 8)

  ```

  Args:
    q: Queries.
    k: Keys.
    v: Values.
    mask: Which keys each query may see.
    scale: Factor on the scores, usually `head_dim ** -0.5`.
    softcap: If set, scores become `softcap * tanh(scores / softcap)` before
      masking (Gemma 2, https://arxiv.org/abs/2408.00118).
    implementation: `naive` holds all scores at once; `chunked` one block at a
      time, so its memory grows with `T + S` and not with `T * S`; `auto` takes
      `naive` while the scores are small.

  Returns:
    The attended values, in the dtype of `q`.

  Raises:
    ValueError: If the implementation is unknown or the heads do not divide.
  """
  if q.shape[2] % k.shape[2]:
    raise ValueError(
      f'{q.shape[2]} query heads cannot share {k.shape[2]} kv heads evenly.'
    )
  if implementation == 'auto':
    small = q.shape[1] * k.shape[1] <= _NAIVE_SCORES
    implementation = 'naive' if small else 'chunked'
  match implementation:
    case 'naive':
      run = naive_attention
    case 'chunked':
      run = chunked_attention
    case _:
      raise ValueError(
        f'implementation={implementation!r} is not one of auto, naive, chunked.'
      )

  def on_one_device(q, k, v, mask):
    return run(q, k, v, mask=mask, scale=scale, softcap=softcap)

  if not _partition.sizes():
    return on_one_device(q, k, v, mask)
  return _parallel_attention.attend(on_one_device, q, k, v, mask)


def naive_attention(
  q: Float[Array, 'B T N H'],
  k: Float[Array, 'B S K H'],
  v: Float[Array, 'B S K H'],
  *,
  mask: _mask.Mask,
  scale: float,
  softcap: float | None = None,
) -> Float[Array, 'B T N H']:
  """`attend` with all scores in memory. The definition, and the oracle."""
  scores, visible = _scores(_grouped(q, k), k, mask, scale, softcap)
  peak = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
  weights = jnp.where(visible, jnp.exp(scores - peak), 0)
  probs = weights / _nonzero(weights.sum(axis=-1, keepdims=True))
  out = jnp.einsum('BKGTH->BTKGH', _weighted(probs, v))
  return out.reshape(q.shape).astype(q.dtype)


def chunked_attention(
  q: Float[Array, 'B T N H'],
  k: Float[Array, 'B S K H'],
  v: Float[Array, 'B S K H'],
  *,
  mask: _mask.Mask,
  scale: float,
  softcap: float | None = None,
  block: int = _BLOCK,
) -> Float[Array, 'B T N H']:
  """`attend` block by block with a running softmax.

  Blocks that the mask hides from all queries are skipped. The backward pass
  recomputes scores, so it is linear in memory too. Follows
  https://arxiv.org/abs/2112.05682.
  """
  length = q.shape[1]
  t, s = min(block, length), min(block, k.shape[1])

  q_blocks = jax.vmap(_grouped, in_axes=(0, None))(_blocks(q, t), k)
  k_blocks, v_blocks = _blocks(k, s), _blocks(v, s)
  q_index = _blocks(mask.q_index, t)
  k_index = _blocks(mask.k_index, s, fill=-1)
  dense = None if mask.dense is None else _blocks(mask.dense, t)
  q_last = None if mask.q_last is None else _blocks(mask.q_last, t)
  q_first = None if mask.q_first is None else _blocks(mask.q_first, t)

  @jax.checkpoint
  def queries(xs):
    q_block, index, dense_block, last, first = xs
    row = mask.replace(
      q_index=index, dense=dense_block, q_last=last, q_first=first
    )
    step = functools.partial(
      _accumulate, q_block, mask=row, scale=scale, softcap=softcap
    )
    carry, _ = jax.lax.scan(
      step, _empty(q_block), (k_blocks, v_blocks, k_index)
    )
    _, total, out = carry
    return (out / _nonzero(total)).astype(q.dtype)

  # [T//t B K G t H]
  out = jax.lax.map(queries, (q_blocks, q_index, dense, q_last, q_first))
  out = jnp.einsum('XBKGtH->BXtKGH', out)
  return out.reshape(q.shape[0], -1, *q.shape[2:])[:, :length]


def _grouped(q: jax.Array, k: jax.Array) -> jax.Array:
  """`[B T N H]` as `[B K G T H]`: the queries of each kv head together."""
  q = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[-1])
  return jnp.einsum('BTKGH->BKGTH', q)


def _scores(q, k, mask, scale, softcap):
  """Scores `f32[B K G T S]` and which of them count, `bool[B 1 1 T S]`."""
  # One large product for each kv head, not G small ones.
  rows = q.reshape(*q.shape[:2], -1, q.shape[-1])
  if k.shape[2] == 1:
    scores = _dot(rows[:, 0], k[:, :, 0], k_axis=2)
  else:
    scores = jnp.einsum(
      'BKMH,BSKH->BKMS', rows, k, preferred_element_type=jnp.float32
    )
  scores = scale * scores.reshape(*q.shape[:-1], k.shape[1])
  if softcap is not None:
    scores = softcap * jnp.tanh(scores / softcap)
  visible = mask.visible()[:, None, None]
  return jnp.where(visible, scores, jnp.finfo(jnp.float32).min), visible


def _weighted(weights, v):
  """Sums of values, `f32[B K G T H]`, by weights `[B K G T S]`."""
  weights = weights.astype(v.dtype)
  if v.shape[2] == 1:
    rows = weights.reshape(v.shape[0], -1, v.shape[1])
    out = _dot(rows, v[:, :, 0], k_axis=1)
    return out.reshape(*weights.shape[:-1], v.shape[-1])
  return jnp.einsum(
    'BKGTS,BSKH->BKGTH', weights, v, preferred_element_type=jnp.float32
  )


def _dot(rows, keys, k_axis):
  """`[B M *]` by `[B * *]`: a form that reads the keys as they lie in memory.

  With the axis of a single kv head in it, an einsum would copy all of them.
  """
  return jax.lax.dot_general(
    rows,
    keys,
    (((2,), (k_axis,)), ((0,), (0,))),
    preferred_element_type=jnp.float32,
  )


def _nonzero(total):
  """A row that sees nothing has no weight: its values are divided by 1."""
  return jnp.where(total == 0, 1, total)


def _empty(q):
  """Running maximum, sum of weights, weighted values; all `[B K G t *]`."""
  shape, head_dim = q.shape[:-1], q.shape[-1]
  return (
    jnp.full((*shape, 1), jnp.finfo(jnp.float32).min),
    jnp.zeros((*shape, 1)),
    jnp.zeros((*shape, head_dim)),
  )


def _accumulate(q, carry, block, *, mask, scale, softcap):
  """Adds one block of keys and values to the running softmax."""
  k, v, k_index = block
  mask = mask.replace(k_index=k_index)

  def visit(carry):
    peak, total, out = carry
    scores, visible = _scores(q, k, mask, scale, softcap)
    new_peak = jnp.maximum(peak, scores.max(axis=-1, keepdims=True))
    weights = jnp.where(visible, jnp.exp(scores - new_peak), 0)
    decay = jnp.exp(peak - new_peak)
    total = total * decay + weights.sum(axis=-1, keepdims=True)
    return new_peak, total, out * decay + _weighted(weights, v)

  return jax.lax.cond(mask.any_visible(), visit, lambda c: c, carry), None


def _blocks(x, size, fill=0):
  """`[B L ...]` as `[L//size B size ...]`, the last block filled up."""
  short = -x.shape[1] % size
  padding = [(0, 0), (0, short)] + [(0, 0)] * (x.ndim - 2)
  x = jnp.pad(x, padding, constant_values=fill)
  x = x.reshape(x.shape[0], -1, size, *x.shape[2:])
  return jnp.moveaxis(x, 1, 0)
