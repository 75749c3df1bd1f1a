"""Parts of large arrays, read and written in place.

On a CPU, compilers slice bfloat16 by way of float32: of the whole array, unless
it is kept from that.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Shaped


def take(
  x: Shaped[Array, 'N *D'], start: jax.Array | int, size: int
) -> Shaped[Array, 'M *D']:
  """`x[start : start + size]`; `start` may be traced."""
  # Tied to the start, a conversion of all of `x` cannot leave a loop.
  x, start = jax.lax.optimization_barrier((x, start))
  return jax.lax.dynamic_slice_in_dim(x, start, size)


class Rows:
  """An array that is written part by part in a loop, which carries `bits`.

  bfloat16 is carried as integers: these are written where they are.
  """

  def __init__(self, like: jax.Array):
    """Zeros of the shape and dtype of another array."""
    self._dtype = like.dtype
    is_wide = like.dtype != jnp.bfloat16
    self.bits = jnp.zeros(like.shape, like.dtype if is_wide else jnp.uint16)

  def put(self, bits: Any, part: jax.Array, start: Any) -> jax.Array:
    """The bits with `part` from `start` on."""
    part = jax.lax.bitcast_convert_type(part.astype(self._dtype), bits.dtype)
    return jax.lax.dynamic_update_slice_in_dim(bits, part, start, 0)

  def read(self, bits: jax.Array) -> jax.Array:
    """The array of what the loop made."""
    return jax.lax.bitcast_convert_type(bits, self._dtype)
