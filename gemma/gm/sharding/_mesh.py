"""Meshes of devices, whose axes have the names that the library knows."""

from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import logging
import math
from typing import Any

import jax
from jax.experimental import mesh_utils
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from gemma.gm.math import _partition

_log = logging.getLogger(__name__)


def make_mesh(
  *,
  data: int = 1,
  fsdp: int = 1,
  expert: int = 1,
  sequence: int = 1,
  tensor: int = 1,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """A mesh of all devices, laid out as their wires are.

  Devices that exchange most, those of `tensor`, are the closest; slices of a
  pod, and hosts of GPUs, are told apart along `data`, or else along `fsdp`. The
  choice is logged.

  ```python
  >>> from gemma import gm
  >>> mesh = gm.sharding.make_mesh(data=-1)
  >>> mesh.axis_names
  ('data',)

  ```

  Args:
    data: Copies of the model, with a part of the batch each. Of one axis, the
      number may be -1: as many as there are devices for.
    fsdp: Parts of each weight, of its gradient and of its optimizer's state;
      each has a part of the batch too, and gathers a weight when it needs it
      (https://arxiv.org/abs/1910.02054).
    expert: Parts of the experts of a layer; each has a part of the batch too.
    sequence: Parts of each row of tokens.
    tensor: Parts of the heads, of hidden layers and of the vocabulary: each
      computes with its own alone (https://arxiv.org/abs/1909.08053).
    devices: Those of the mesh; by default all of all processes.

  Raises:
    ValueError: If the numbers do not multiply to that of the devices.
  """
  given = list(jax.devices() if devices is None else devices)
  sizes = {
    'data': data,
    'fsdp': fsdp,
    'expert': expert,
    'sequence': sequence,
    'tensor': tensor,
  }
  rest = [name for name, size in sizes.items() if size == -1]
  known = math.prod(size for size in sizes.values() if size != -1)
  asked = ', '.join(f'{name}={n}' for name, n in sizes.items() if n != 1)
  if len(rest) > 1 or known < 1 or min(sizes.values()) < -1:
    raise ValueError(
      f'make_mesh({asked}): give positive numbers, and -1 to one axis at most.'
    )
  if len(given) % known or (not rest and known != len(given)):
    raise ValueError(
      f'make_mesh({asked}) has {known} devices{" a part" if rest else ""}, but '
      f'there are {len(given)}. Give numbers that multiply to {len(given)}, or '
      '-1 to one axis.'
    )
  if rest:
    sizes[rest[0]] = len(given) // known
  # An axis of one device would only give compilers work.
  sizes = {name: n for name, n in sizes.items() if n > 1} or {'data': 1}
  kinds = (AxisType.Auto,) * len(sizes)
  layout = _laid_out(given, tuple(sizes.values()))
  mesh = Mesh(layout, tuple(sizes), axis_types=kinds)
  _log.info('Mesh of %d devices: %s.', len(given), describe(mesh))
  return mesh


def describe(mesh: Mesh) -> str:
  """The axes along which a mesh has several devices, as `fsdp=4, tensor=2`."""
  axes = [f'{name}={n}' for name, n in mesh.shape.items() if n > 1]
  return ', '.join(axes) or 'one device'


def mesh_of(tree: Any) -> Mesh | None:
  """The mesh of `make_mesh` over which arrays are divided, if there is one."""
  for leaf in jax.tree.leaves(tree):
    sharding = getattr(leaf, 'sharding', None)
    if isinstance(sharding, NamedSharding):
      mesh = sharding.mesh
      known = {*_partition.MESH_AXES} & {*mesh.axis_names}
      if isinstance(mesh, Mesh) and mesh.size > 1 and known:
        return mesh
  return None


def on_mesh(tree: Any, mesh: Mesh | None) -> Any:
  """What is on no mesh yet, whole on each device of this one."""
  if mesh is None:
    return tree
  whole = NamedSharding(mesh, PartitionSpec())

  def leaf(x: Any) -> Any:
    if isinstance(getattr(x, 'sharding', None), NamedSharding):
      return x
    if jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key):
      data = jax.device_put(jax.random.key_data(x), whole)
      return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    return jax.device_put(x, whole)

  return jax.tree.map(leaf, tree)


@contextlib.contextmanager
def use_mesh(mesh: Mesh | None) -> Iterator[None]:
  """Computations inside know the mesh; nothing changes if it is None."""
  if mesh is None:
    yield
    return
  with jax.set_mesh(mesh):
    yield


def _laid_out(devices: list[jax.Device], shape: tuple[int, ...]) -> np.ndarray:
  """The devices in an array, neighbours where they exchange most."""
  slices = {getattr(device, 'slice_index', 0) for device in devices}
  outer = [1] * len(shape)
  for i, size in enumerate(shape[:2]):
    if len(slices) > 1 and size % len(slices) == 0:
      outer[i] = len(slices)
      inner = tuple(n // m for n, m in zip(shape, outer, strict=True))
      return mesh_utils.create_hybrid_device_mesh(inner, outer, devices)
  return mesh_utils.create_device_mesh(
    shape, devices, allow_split_physical_axes=True
  )
