"""Products of activations with weights that are stored as integers."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Shaped

from gemma.gm.math import _partition
from gemma.gm.math import _project

_BLOCK = 2**18  # Elements that are converted at a time: they stay in a cache.


def project_integers(
  eqn: str,
  x: Float[Array, 'B L ...'],
  kernel: Shaped[Array, '...'],
  scale: Float[Array, '...'],
  dtype: DTypeLike,
) -> Float[Array, '...']:
  """`einsum(eqn, x, kernel / scale)`, accumulated in float32.

  The scale is applied to the product, and a float copy of the whole kernel is
  not made.

  Args:
    eqn: As of `project`.
    x: Activations.
    kernel: Integers.
    scale: Of the kernel, with 1 in place of each axis that is summed over.
    dtype: Dtype of the result.

  Returns:
    The product.
  """
  if jax.default_backend() == 'cpu' and not _partition.sizes():
    product = _in_blocks(eqn, x, kernel)
  else:
    product = _product(eqn, x, kernel)
  return unscale(eqn, product, scale).astype(dtype)


def unscale(
  eqn: str, product: Float[Array, '...'], scale: Float[Array, '...']
) -> Float[Array, '...']:
  """What a product with integers stands for, in float32.

  Args:
    eqn: The einsum of the product.
    product: Activations times integers.
    scale: As of `project_integers`.
  """
  inputs, out = eqn.split('->')
  w_axes = inputs.split(',')[1]
  # The scale has the axes of the weight; now those of the product.
  kept = [axis for axis in w_axes if axis in out]
  ones = [i for i, axis in enumerate(w_axes) if axis not in out]
  wide = jnp.squeeze(scale, ones).astype(jnp.float32)
  wide = wide.transpose([kept.index(axis) for axis in out if axis in kept])
  others = [i for i, axis in enumerate(out) if axis not in kept]
  return product / jnp.expand_dims(wide, others)


def _in_blocks(eqn: str, x: jax.Array, w: jax.Array) -> jax.Array:
  """The product with one block of the kernel after the other.

  A compiler for CPUs converts whole kernels, and all of them before the first
  is used.
  """
  inputs, out = eqn.split('->')
  x_axes, w_axes = inputs.split(',')
  axis, rows = w_axes[0], w.shape[0]
  row = w.size // rows
  if w.size <= _BLOCK:
    return _product(eqn, x, w)
  if axis not in x_axes and row > _BLOCK:
    # Matrices one by one.
    inner = f'{x_axes},{w_axes[1:]}->{out.replace(axis, "")}'
    product = jax.lax.map(lambda part: _in_blocks(inner, x, part), w)
    return jnp.moveaxis(product, 0, out.index(axis))
  most = max(_BLOCK // row, 1)
  size = next(n for n in range(min(most, rows), 0, -1) if rows % n == 0)
  blocks = w.reshape(rows // size, size, *w.shape[1:])
  if axis in x_axes:
    return _summed(eqn, x, blocks, x_axes.index(axis))
  return _stacked(eqn, x, blocks, out.index(axis))


def _stacked(eqn: str, x: jax.Array, blocks: jax.Array, axis: int) -> jax.Array:
  """Each block makes a part of axis `axis` of the product."""
  product = jax.lax.map(lambda block: _product(eqn, x, block), blocks)
  product = jnp.moveaxis(product, 0, axis)
  return jax.lax.collapse(product, axis, axis + 2)


def _summed(eqn: str, x: jax.Array, blocks: jax.Array, axis: int) -> jax.Array:
  """Each block is for a part of axis `axis` of `x`; float32 sums."""
  shape = (*x.shape[:axis], *blocks.shape[:2], *x.shape[axis + 1 :])
  parts = jnp.moveaxis(x.reshape(shape), axis, 0)
  first = jax.eval_shape(functools.partial(_product, eqn), parts[0], blocks[0])

  def add(
    total: jax.Array, part: tuple[jax.Array, jax.Array]
  ) -> tuple[jax.Array, None]:
    return total + _product(eqn, *part), None

  zeros = jnp.zeros(first.shape, jnp.float32)
  return jax.lax.scan(add, zeros, (parts, blocks))[0]


def _product(eqn: str, x: jax.Array, w: jax.Array) -> jax.Array:
  return _project.project_here(eqn, x, w.astype(x.dtype), jnp.float32)
