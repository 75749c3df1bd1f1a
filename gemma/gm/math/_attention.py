"""Scaled dot-product attention with grouped heads, soft cap and masks.

Axes: B batch, T query, S key, N query heads, K kv heads, G = N // K query
heads of one kv head, H head_dim.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Float32

from gemma.gm.math import _chunked_attention
from gemma.gm.math import _mask
from gemma.gm.math import _parallel_attention
from gemma.gm.math import _partition
from gemma.gm.math import _scores
from gemma.gm.math import _shapes

Implementation = Literal['auto', 'naive', 'chunked']

# Scores per head from which `auto` no longer holds them all at once.
_NAIVE_SCORES = 1024 * 1024


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
    scores = q.shape[1] * k.shape[1]
    small = not _shapes.is_known(scores) or scores <= _NAIVE_SCORES
    implementation = 'naive' if small else 'chunked'
  match implementation:
    case 'naive':
      run = naive_attention
    case 'chunked':
      run = _chunked_attention.chunked_attention
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
  probs = _probabilities(q, k, mask, scale, softcap)
  out = jnp.einsum('BKGTH->BTKGH', _scores.weighted(probs, v))
  return out.reshape(q.shape).astype(q.dtype)


def attention_weights(
  q: Float[Array, 'B T N H'],
  k: Float[Array, 'B S K H'],
  *,
  mask: _mask.Mask,
  scale: float,
  softcap: float | None = None,
) -> Float32[Array, 'B T N S']:
  """The share of each key in what `attend` returns for a query.

  Shares of a query sum to one, or to zero if it sees nothing.

  Args:
    q: Queries.
    k: Keys.
    mask: Which keys each query may see.
    scale: See `attend`.
    softcap: See `attend`.
  """
  probs = _probabilities(q, k, mask, scale, softcap)
  probs = jnp.einsum('BKGTS->BTKGS', probs)
  return probs.reshape(*q.shape[:-1], k.shape[1])


def weighted_values(
  weights: Float[Array, 'B T N S'], v: Float[Array, 'B S K H']
) -> Float32[Array, 'B T N H']:
  """Sums of values with the shares of `attention_weights`."""
  grouped = _scores.grouped(weights, v.shape[2])
  out = jnp.einsum('BKGTH->BTKGH', _scores.weighted(grouped, v))
  return out.reshape(*weights.shape[:-1], v.shape[-1])


def _probabilities(
  q: jax.Array,
  k: jax.Array,
  mask: _mask.Mask,
  scale: float,
  softcap: float | None,
) -> jax.Array:
  """`f32[B K G T S]`."""
  scores, visible = _scores.scores(
    _scores.grouped(q, k.shape[2]), k, mask, scale, softcap
  )
  peak = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
  weights = jnp.where(visible, jnp.exp(scores - peak), 0)
  return weights / _scores.nonzero(weights.sum(axis=-1, keepdims=True))
