"""Rows of a table.

Axes: V rows of the table, *D the shape of one.
"""

import functools
from typing import Any

import jax
from jax.experimental import compute_on
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Int
from jaxtyping import Shaped


def lookup(
  table: Shaped[Array, 'V *D'], index: Int[Array, '*B']
) -> Shaped[Array, '...']:
  """`table[index]`, without a copy of the table.

  A table in host memory stays there: the host picks the rows, and these alone
  go to the device.

  Args:
    table: The rows.
    index: Which of them.

  Returns:
    The rows, `[*B *D]`.
  """
  if jax.typeof(table).memory_space == jax.memory.Space.Host:
    return _on_host(table, index)
  if table.dtype != jnp.bfloat16 or jax.default_backend() != 'cpu':
    return table[index]
  return _row_by_row(table, index)


def _on_host(table: jax.Array, index: jax.Array) -> jax.Array:
  # The same function; JAX 0.11 gave it the name of its predecessor.
  run: Any = getattr(compute_on, 'compute_on2', compute_on.compute_on)
  pick = run(
    lambda table, index: table[index],
    compute_type='device_host',
    out_memory_spaces=jax.memory.Space.Device,
  )
  return pick(table, jax.device_put(index, jax.memory.Space.Host))


@jax.custom_jvp
def _row_by_row(table: jax.Array, index: jax.Array) -> jax.Array:
  """`table[index]` in bfloat16 on a CPU.

  JAX before 0.12 gathers from a float32 copy of the whole table. Row by row,
  the compiler converts the row alone.
  """

  def row(i):
    # Tied to the index, the table's conversion cannot leave a loop.
    rows, i = jax.lax.optimization_barrier((table, i))
    return jax.lax.dynamic_index_in_dim(rows, i, keepdims=False)

  rows = jax.lax.map(row, index.reshape(-1))
  return rows.reshape(*index.shape, *table.shape[1:])


@functools.partial(_row_by_row.defjvp, symbolic_zeros=True)
def _row_by_row_jvp(
  primals: tuple[Any, Any], tangents: tuple[Any, Any]
) -> tuple[jax.Array, jax.Array]:
  """The rows of the tangent; nothing if the table is not trained."""
  out, tangent = _row_by_row(*primals), tangents[0]
  if isinstance(tangent, jax.custom_derivatives.SymbolicZero):
    return out, jnp.zeros_like(out)
  return out, tangent[primals[1]]
