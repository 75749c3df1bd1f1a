"""Rows of a table.

Axes: V rows of the table, *D the shape of one.
"""

from typing import Any

import jax
from jax.experimental import compute_on
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array
from jaxtyping import Int
from jaxtyping import Shaped

from gemma.gm.math import _partition
from gemma.gm.math import _slices


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
  if _partition.sizes():
    return _in_parts(table, index)
  return _rows(table, index)


def _rows(table: jax.Array, index: jax.Array) -> jax.Array:
  if table.dtype != jnp.bfloat16:
    return table[index]
  return _bfloat16_rows(table, index)


def _in_parts(table: jax.Array, index: jax.Array) -> jax.Array:
  """`table[index]` of a table that is divided among devices, and stays so.

  By rows: each device gives those that it has. By columns: each device gives
  its columns for all tokens of those with which it shares the table, and gets
  whole rows back. What travels is of the size of the rows that are read. Rows
  of the residual stream are divided among the devices that share them.
  """
  width = table.shape[-1]
  columns = _partition.weight_spec((width,), ['embed'])[0]
  vocab = _partition.spec_of(table.shape[:1], 'V')[0]
  letters = 'BL'[: index.ndim] + '_' * (index.ndim - 2)
  spec = _partition.spec_of(index.shape, letters)
  shared = columns in _partition.names_of(spec[0])
  out = spec
  if table.ndim == 2 and index.ndim == 2:
    out = _partition.stream_spec((*index.shape, width), 'BLD')
  stream = out[1:2] != spec[1:2]  # Then it is the devices of `vocab` that do.

  def local(table: jax.Array, index: jax.Array) -> jax.Array:
    if shared:
      index = _partition.gathered(index, columns, 0)
    if vocab:
      index -= jax.lax.axis_index(vocab) * table.shape[0]
    inside = (index >= 0) & (index < table.shape[0])
    rows = _rows(table, jnp.where(inside, index, 0))
    inside = inside.reshape(inside.shape + (1,) * (rows.ndim - inside.ndim))
    rows = jnp.where(inside, rows, 0)
    if vocab and stream:
      rows = _partition.scattered(rows, vocab, 1)
    elif vocab:
      rows = jax.lax.psum(rows, vocab)
    if shared:
      return jax.lax.all_to_all(rows, columns, 0, rows.ndim - 1, tiled=True)
    if columns:
      return _partition.gathered(rows, columns, rows.ndim - 1)
    return rows

  between = (None,) * (table.ndim - 2)
  table_spec = PartitionSpec(vocab, *between, columns)
  run = _partition.run_local(local, (table_spec, spec), PartitionSpec(*out))
  return run(table, index)


def _on_host(table: jax.Array, index: jax.Array) -> jax.Array:
  # The same function; JAX 0.11 gave it the name of its predecessor.
  run: Any = getattr(compute_on, 'compute_on2', compute_on.compute_on)
  pick = run(
    lambda table, index: table[index],
    compute_type='device_host',
    out_memory_spaces=jax.memory.Space.Device,
  )
  return pick(table, jax.device_put(index, jax.memory.Space.Host))


@jax.custom_vjp
def _bfloat16_rows(table: jax.Array, index: jax.Array) -> jax.Array:
  """`table[index]` whose gradient is summed in float32, and rounded once."""
  if jax.default_backend() == 'cpu':
    return _row_by_row(table, index)
  return table[index]


@jax.jit  # Outside of programs too, where a loop would compile at each call.
def _row_by_row(table: jax.Array, index: jax.Array) -> jax.Array:
  """`table[index]` in bfloat16 on a CPU.

  JAX before 0.12 gathers from a float32 copy of the whole table.
  """
  rows = jax.lax.map(lambda i: _slices.take(table, i, 1), index.reshape(-1))
  return rows.reshape(*index.shape, *table.shape[1:])


def _fwd(table: Any, index: Any) -> tuple[jax.Array, Any]:
  # The table stands for its shape; if it is not trained, nothing does.
  shape = table.value if table.perturbed else None
  return _bfloat16_rows(table.value, index.value), (shape, index.value)


def _bwd(residuals: Any, cotangent: Any) -> tuple[Any, None]:
  table, index = residuals
  if table is None or isinstance(cotangent, _Zero):
    return None, None
  return _sum_rows(cotangent, index, table), None


_Zero = jax.custom_derivatives.SymbolicZero
_bfloat16_rows.defvjp(_fwd, _bwd, symbolic_zeros=True)


def _sum_rows(x: jax.Array, index: jax.Array, like: jax.Array) -> jax.Array:
  """Zeros like the table, with the sum of `x` in each row that has some."""
  x = x.reshape(-1, *like.shape[1:])
  order = jnp.argsort(index.reshape(-1))
  ids = index.reshape(-1)[order]
  first = jnp.concatenate([jnp.ones(1, bool), ids[1:] != ids[:-1]])
  group = jnp.cumsum(first) - 1
  sums = jax.ops.segment_sum(
    x[order].astype(jnp.float32),
    group,
    num_segments=ids.size,
    indices_are_sorted=True,
  )
  # Of each group its row; groups that there are not come last, with no row.
  rows = jnp.full(ids.size, like.shape[0]).at[group].set(ids)
  if jax.default_backend() != 'cpu':
    zeros = jnp.zeros_like(like)
    return zeros.at[rows].set(sums, mode='drop', indices_are_sorted=True)
  # A scatter would be made in a float32 copy of the whole table.
  out = _slices.Rows(like)

  def write(i: jax.Array, bits: jax.Array) -> jax.Array:
    return out.put(bits, jax.lax.dynamic_slice_in_dim(sums, i, 1), rows[i])

  return out.read(jax.lax.fori_loop(0, group[-1] + 1, write, out.bits))
