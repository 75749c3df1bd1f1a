"""Root mean square norms (https://arxiv.org/abs/1910.07467).

Axes: *B any batch dims, D width.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float


def rms_norm(
  x: Float[Array, '*B D'],
  scale: Float[Array, 'D'] | None = None,
  *,
  eps: float = 1e-6,
) -> Float[Array, '*B D']:
  """`x / rms(x) * scale`, computed in float32.

  Args:
    x: What is normalised.
    scale: Factor of each channel, float32; none by default.
    eps: Added to the mean square.
  """
  wide = x.astype(jnp.float32)
  # Fused with what follows, the sum takes an order that depends on the number
  # of rows, and a row's numbers would depend on its neighbours.
  mean_square = jax.lax.optimization_barrier(
    jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
  )
  out = wide * jax.lax.rsqrt(mean_square + eps)
  if scale is not None:
    out *= scale.reshape((1,) * (x.ndim - 1) + (-1,))
  return out.astype(x.dtype)


def match_rms(
  x: Float[Array, '*B D'], like: Float[Array, '*B D']
) -> Float[Array, '*B D']:
  """`x` scaled to the root mean square of `like`, in float32."""

  def rms(x: jax.Array) -> jax.Array:
    square = jnp.square(x.astype(jnp.float32))
    mean = jnp.mean(square, axis=-1, keepdims=True)
    # At 0 the root has no slope.
    return jnp.where(mean > 0, jnp.sqrt(jnp.where(mean > 0, mean, 1)), 0)

  out = x.astype(jnp.float32) * rms(like) / jnp.maximum(rms(x), 1e-12)
  return out.astype(x.dtype)
