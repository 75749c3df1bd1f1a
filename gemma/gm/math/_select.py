"""Which logits are among the largest, without sorting the vocabulary.

Axes: *B any batch dims, V vocab.

The threshold is searched bit by bit: 32 passes over the logits find it exactly,
where a sort of a vocabulary takes several times as long.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import UInt32


def among_top_k(
  logits: Float[Array, '*B V'], k: Int[Array, '*B']
) -> Bool[Array, '*B V']:
  """The `k` largest; of equal ones the first.

  Args:
    logits: Scores.
    k: How many; all of them if it is not positive.
  """
  keys, size = _ordered(logits), logits.shape[-1]
  k = jnp.where(k > 0, jnp.minimum(k, size), size)
  least = _largest(lambda t: jnp.sum(keys >= t, axis=-1) >= k, k.shape)
  above, equal = keys > least, keys == least
  room = (k - jnp.sum(above, axis=-1))[..., None]

  def first_ones(equal: jax.Array) -> jax.Array:
    return equal & (jnp.cumsum(equal, axis=-1) <= room)

  ties = jnp.any(jnp.sum(equal, axis=-1, keepdims=True) > room)
  return above | jax.lax.cond(ties, first_ones, lambda x: x, equal)


def among_top_p(
  logits: Float[Array, '*B V'], p: Float[Array, '*B']
) -> Bool[Array, '*B V']:
  """The fewest tokens that have probability `p` together, and their equals.

  Args:
    logits: Scores; the probabilities are their softmax.
    p: Probability to cover; all tokens if it is 1.
  """
  keys = _ordered(logits)
  probs = jax.nn.softmax(logits, axis=-1)

  def covers(t: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(keys >= t, probs, 0), axis=-1) >= p

  return (keys >= _largest(covers, p.shape)) | (p >= 1)[..., None]


def among_min_p(
  logits: Float[Array, '*B V'], p: Float[Array, '*B']
) -> Bool[Array, '*B V']:
  """Tokens at least `p` times as likely as the likeliest one.

  Args:
    logits: Scores; the probabilities are their softmax.
    p: Part of the largest probability; 0 keeps all.
  """
  return (
    logits >= jnp.max(logits, axis=-1, keepdims=True) + jnp.log(p)[..., None]
  )


def _ordered(x: Float[Array, '*B V']) -> UInt32[Array, '*B V']:
  """Integers in the same order as the float32 values."""
  x = jnp.where(x == 0, 0, x).astype(jnp.float32)  # -0.0 equals 0.0.
  bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
  sign = jnp.uint32(1 << 31)
  return jnp.where(bits & sign, ~bits, bits | sign)


def _largest(
  holds: Callable[[jax.Array], jax.Array], shape: tuple[int, ...]
) -> UInt32[Array, '*B 1']:
  """The largest threshold for which `holds`, which is so for all below it."""

  def set_bit(i: jax.Array, found: jax.Array) -> jax.Array:
    higher = found | (jnp.uint32(1 << 31) >> i.astype(jnp.uint32))
    return jnp.where(holds(higher)[..., None], higher, found)

  return jax.lax.fori_loop(0, 32, set_bit, jnp.zeros((*shape, 1), jnp.uint32))
