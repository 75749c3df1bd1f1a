"""Attention on a mesh: each device has some rows, some heads, some queries.

Rows and heads need nothing from each other. Keys and values of other devices
are needed where a row is divided among several (the mesh axis `sequence`):
layers that see everything gather them; those with a window get the end of what
stands before.

All-gather and not a ring (https://arxiv.org/abs/2310.01889): it sends two
thirds of the bytes, as the backward pass finds keys and values where they are,
and takes no longer. A ring would save their memory, of one layer at a time,
which grouped heads make small; `benchmarks/long_rows.py` compares both.

Axes: B batch, T query, S key, N query heads, K kv heads, H head_dim.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array
from jaxtyping import Float

from gemma.gm.math import _mask
from gemma.gm.math import _partition

# `(q, k, v, mask)` to attended values, on one device.
Attend = Callable[[jax.Array, jax.Array, jax.Array, _mask.Mask], jax.Array]

_ROW = 'sequence'


def attend(
  run: Attend,
  q: Float[Array, 'B T N H'],
  k: Float[Array, 'B S K H'],
  v: Float[Array, 'B S K H'],
  mask: _mask.Mask,
) -> Float[Array, 'B T N H']:
  """Attention of which each device computes a part.

  Args:
    run: Attention on one device.
    q: Queries.
    k: Keys. As many as queries are divided as they are; others, such as those
      of a cache, lie whole on all devices that share a row.
    v: Values.
    mask: What queries see.
  """
  q_spec = _partition.spec_of(q.shape, 'BTNH')
  rows, places, heads, _ = q_spec
  shared = _partition.names_of(places) and k.shape[1] == q.shape[1]
  key_places = places if shared else None
  kv_heads = _partition.spec_of(k.shape, 'BSKH')[2]
  k_spec = PartitionSpec(rows, key_places, kv_heads)
  queries = PartitionSpec(rows, places)

  leaves, structure = jax.tree.flatten(mask)

  def local(
    q: jax.Array, k: jax.Array, v: jax.Array, leaves: list[jax.Array]
  ) -> jax.Array:
    mask = jax.tree.unflatten(structure, leaves)
    if heads and not kv_heads:
      k, v = (_own_heads(x, q.shape[2]) for x in (k, v))
    if shared:
      k, v, k_index = _row_keys(k, v, mask)
      mask = mask.replace(k_index=k_index)
    return run(q, k, v, mask)

  keys = PartitionSpec(rows, key_places)
  masks = [keys if x is mask.k_index else queries for x in leaves]
  specs = q_spec, k_spec, k_spec, masks
  return _partition.run_local(local, specs, q_spec)(q, k, v, leaves)


def _own_heads(
  x: Float[Array, 'B S K H'], heads: int
) -> Float[Array, 'B S _ H']:
  """Of kv heads that all devices have, those that this one's queries read.

  Args:
    x: Keys or values.
    heads: Query heads of this device.
  """
  devices = jax.lax.axis_size('tensor')
  group = heads * devices // x.shape[2]  # Query heads of one kv head.
  first = jax.lax.axis_index('tensor') * heads
  if group % heads == 0:
    return jax.lax.dynamic_slice_in_dim(x, first // group, 1, axis=2)
  # One for each query.
  return x[:, :, (first + jnp.arange(heads)) // group]


def _row_keys(
  k: Float[Array, 'B S K H'], v: Float[Array, 'B S K H'], mask: _mask.Mask
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Keys, values and their indices that queries of this device may see."""
  own = k, v, mask.k_index + 1  # What nobody sends is 0: index -1, unseen.
  devices, length = jax.lax.axis_size(_ROW), k.shape[1]
  reach = None if mask.window is None else mask.window - 1
  is_local = mask.causal and mask.dense is None and mask.q_last is None
  if not is_local or reach is None or reach > (devices - 2) * length:
    gathered = (_partition.gathered(x, _ROW, 1) for x in own)
    k, v, index = gathered
  else:
    k, v, index = (_with_those_before(x, reach, devices) for x in own)
  return k, v, index - 1


def _with_those_before(x: jax.Array, reach: int, devices: int) -> jax.Array:
  """`[B S *]` with the last `reach` of the row before them, as zeros if none.

  Args:
    x: Of this device.
    reach: How many are needed.
    devices: Devices that share a row.
  """
  parts, length, hops = [x], x.shape[1], 0
  while reach > 0:
    hops += 1
    part = x[:, -min(reach, length) :]
    ahead = [(i, i + hops) for i in range(devices - hops)]
    parts.append(jax.lax.ppermute(part, _ROW, ahead))
    reach -= length
  return jnp.concatenate(parts[::-1], axis=1)
