"""Rows of a table.

Axes: V rows of the table, D their width.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int


@jax.custom_jvp
def lookup(
  table: Float[Array, 'V D'], index: Int[Array, '*B']
) -> Float[Array, '*B D']:
  """`table[index]`, without a copy of the table.

  On a CPU, JAX before 0.12 gathers bfloat16 from a float32 copy of the whole
  table. Row by row, the compiler converts the row alone.

  Args:
    table: The rows.
    index: Which of them.
  """
  if jax.default_backend() != 'cpu' or table.dtype != jnp.bfloat16:
    return table[index]

  def row(i):
    # Tied to the index, the table's conversion cannot leave a loop.
    rows, i = jax.lax.optimization_barrier((table, i))
    return jax.lax.dynamic_index_in_dim(rows, i, keepdims=False)

  return jax.lax.map(row, index.reshape(-1)).reshape(*index.shape, -1)


@functools.partial(lookup.defjvp, symbolic_zeros=True)
def _lookup_jvp(
  primals: tuple[Any, Any], tangents: tuple[Any, Any]
) -> tuple[jax.Array, jax.Array]:
  """The rows of the tangent; nothing if the table is not trained."""
  out, tangent = lookup(*primals), tangents[0]
  if isinstance(tangent, jax.custom_derivatives.SymbolicZero):
    return out, jnp.zeros_like(out)
  return out, tangent[primals[1]]
