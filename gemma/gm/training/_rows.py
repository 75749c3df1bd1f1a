"""Rows of a batch, divided among devices."""

from collections.abc import Mapping
import math
from typing import Any

import jax
import jax.numpy as jnp

from gemma.gm.sharding import _rules

# What says which tokens count. In a row of zeros, none does.
_MASKS = {'loss_mask', 'mask'}


def put(batch: Any, mesh: jax.sharding.Mesh | None, parts: int = 1) -> Any:
  """A batch on the devices of a mesh, if there is one.

  Rows that do not divide are followed by as many of zeros as it takes, which
  count for nothing.

  Args:
    batch: What a loss takes; of several processes, each has rows of its own.
    mesh: The mesh.
    parts: How many parts are taken of the batch, one after the other.

  Raises:
    ValueError: If rows do not divide, and no mask says which tokens count.
  """
  if mesh is None:
    return batch
  if isinstance(batch, Mapping) and _MASKS & {*batch}:
    whole = _rules.row_parts(mesh) * parts
    multiple = whole // math.gcd(whole, jax.process_count())
    batch = jax.tree.map(lambda x: _filled(x, multiple), batch)
  return _rules.put_batch(batch, mesh)


def _filled(x: Any, multiple: int) -> Any:
  """An array with rows of zeros behind it, if their number needs some."""
  is_divided = isinstance(x, jax.Array) and not x.is_fully_addressable
  if not jnp.ndim(x) or is_divided or x.shape[0] % multiple == 0:
    return x
  rows = [(0, -x.shape[0] % multiple)] + [(0, 0)] * (jnp.ndim(x) - 1)
  return jnp.pad(x, rows)
