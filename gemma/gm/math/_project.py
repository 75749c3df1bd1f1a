"""Products of activations with weights.

Axes: B batch, L length, R rows; of a weight P axes kept in front, K contracted
axes, Q axes kept behind. The letters of an equation are its caller's.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float

from gemma.gm.math import _parallel_project
from gemma.gm.math import _partition

# The matrix units of a CPU take bfloat16 from two rows on. For a single one,
# the compiler makes a float32 copy of the weight: slow, and twice its bytes.
_ROWS = 2


@functools.cache
def fits(eqn: str) -> bool:
  """Whether `project` takes an einsum.

  Args:
    eqn: Any equation of `jnp.einsum`.
  """
  inputs, _, out = eqn.partition('->')
  x_axes, _, w_axes = inputs.partition(',')
  rows, summed = x_axes[:2], x_axes[2:]
  kept = rows + w_axes.replace(summed, '', 1)
  return (
    f'{x_axes}{w_axes}{out}'.isalpha()
    and summed != ''
    and summed in w_axes
    and all(len({*axes}) == len(axes) for axes in (x_axes, w_axes, out, kept))
    and sorted(out) == sorted(kept)
  )


def project(
  eqn: str, x: Float[Array, 'B L ...'], w: Float[Array, '...'], dtype: Any
) -> Float[Array, '...']:
  """`einsum(eqn, x, w)`, accumulated in float32.

  Gradients are plain einsums in the dtypes of `x` and `w`.

  Args:
    eqn: An einsum that `fits`: its first two letters are batch and length. What
      is summed over ends `x`, and is in one piece in `w`.
    x: Activations.
    w: A weight.
    dtype: Dtype of the result.

  Returns:
    The product.
  """
  if _partition.sizes():
    return _parallel_project.project(eqn, x, w, dtype)
  return project_here(eqn, x, w, dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 3))
def project_here(
  eqn: str, x: Float[Array, 'B L ...'], w: Float[Array, '...'], dtype: Any
) -> Float[Array, '...']:
  """`project` whose parts, if there is a mesh, are left to the compiler."""
  if jax.default_backend() == 'cpu' and not _partition.sizes():
    return _in_place(eqn, x, w).astype(dtype)
  return jnp.einsum(eqn, x, w, preferred_element_type=jnp.float32).astype(dtype)


def _in_place(eqn: str, x: jax.Array, w: jax.Array) -> jax.Array:
  """The einsum as one product that reads the weight as it lies in memory.

  The compiler would first bring an einsum into a standard form, which here and
  there transposes the weight; in a decode loop, for every token.
  """
  inputs, out = eqn.split('->')
  x_axes, w_axes = inputs.split(',')
  summed = [axis for axis in w_axes if axis in x_axes]
  first = w_axes.index(summed[0])
  size = dict(zip(w_axes, w.shape, strict=True))
  size.update(zip(x_axes, x.shape, strict=True))
  p, q = w_axes[:first], w_axes[first + len(summed) :]

  rows = x.reshape(-1, math.prod(size[axis] for axis in summed))
  count = rows.shape[0]
  if x.dtype == jnp.bfloat16 and count < _ROWS:
    rows = jnp.pad(rows, [(0, _ROWS - count), (0, 0)])
  if not p or not q:
    # One matrix, contracted in front or behind.
    k = rows.shape[1]
    matrix = w.reshape(k, -1) if not p else w.reshape(-1, k)
    product = _dot(rows, matrix, ((1,), (1 if p else 0,)), ((), ()))
    product, axes = product[:count], x_axes[:2] + p + q
  else:
    # A stack of matrices, one for each index in front; all get the same rows.
    stack = w.reshape(-1, rows.shape[1], math.prod(size[axis] for axis in q))
    rows = jnp.broadcast_to(rows, (stack.shape[0], *rows.shape))
    product = _dot(rows, stack, ((2,), (1,)), ((0,), (0,)))
    product, axes = product[:, :count], p + x_axes[:2] + q
  product = product.reshape([size[axis] for axis in axes])
  return jnp.transpose(product, [axes.index(axis) for axis in out])


def _dot(x, w, contracted, batch):
  return jax.lax.dot_general(
    x, w, (contracted, batch), preferred_element_type=jnp.float32
  )


@functools.partial(project_here.defjvp, symbolic_zeros=True)
def _project_jvp(
  eqn: str, dtype: Any, primals: tuple[Any, Any], tangents: tuple[Any, Any]
) -> tuple[jax.Array, jax.Array]:
  """The product rule, without the terms of what is not trained."""
  (x, w), (dx, dw) = primals, tangents
  out = project_here(eqn, x, w, dtype)
  terms = [
    jnp.einsum(eqn, a, b, preferred_element_type=dtype)
    for a, b in ((dx, w), (x, dw))
    if not isinstance(a, _Zero) and not isinstance(b, _Zero)
  ]
  return out, functools.reduce(jnp.add, terms, jnp.zeros_like(out))


_Zero = jax.custom_derivatives.SymbolicZero
