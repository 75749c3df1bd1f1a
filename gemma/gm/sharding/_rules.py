"""Presets: along which axes of a mesh a model is divided."""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from gemma.gm.math import _partition
from gemma.gm.sharding import _axes
from gemma.gm.sharding import _mesh

# Devices that send each other activations: those that are wired all to all, as
# of one host.
_MOST = {'tensor': 8, 'expert': 8}
# What need not divide: fewer kv heads than devices are on several of them.
_OPTIONAL = {'kv_heads'}


@dataclasses.dataclass(frozen=True)
class Rules:
  """Where arrays go: a preset such as `FSDP`, on a mesh or on none yet.

  It is a function from a tree of arrays or shapes to a tree of shardings, and
  is accepted wherever one is: by loaders, samplers and `jax.device_put`. What
  is in the tree is known by its path: parameters, their adapters and integers,
  what an optimizer keeps of them, caches.

  ```python
  >>> import jax
  >>> from gemma import gm
  >>> tiny = gm.from_pretrained(gm.ckpts.CheckpointPath.GEMMA3_TINY_IT)
  >>> rules = gm.sharding.FSDP.fit(tiny.params)
  >>> params = jax.device_put(tiny.params, rules(tiny.params))

  ```

  Attributes:
    name: What it is called.
    axes: Mesh axes that get devices, one after the other; `data` gets the rest.
    mesh: The mesh; by default one that fits what is placed.
    weights: Mesh axes of logical axes of weights, in place of those of
      `gm.sharding.AXES`.
  """

  name: str
  axes: tuple[str, ...] = ()
  mesh: Mesh | None = None
  weights: Mapping[str, tuple[str, ...]] = dataclasses.field(
    default_factory=dict, hash=False
  )

  def on(self, mesh: Mesh) -> 'Rules':
    """The same on a mesh, such as that of `make_mesh`.

    Raises:
      ValueError: If the mesh has none of the axes that are known.
    """
    if not {*mesh.axis_names} & {*_partition.MESH_AXES}:
      raise ValueError(
        f'The mesh has axes {mesh.axis_names}, none of which is known: '
        f'{_partition.MESH_AXES}. Use gm.sharding.make_mesh.'
      )
    return dataclasses.replace(self, mesh=mesh)

  def fit(
    self, tree: Any, *, devices: list[jax.Device] | None = None
  ) -> 'Rules':
    """The same on a mesh of the devices there are, as a model allows.

    Each axis gets as many devices as divide all that it divides: heads, for
    example, of `tensor`. What was chosen is logged.

    Args:
      tree: Parameters or their shapes.
      devices: Those to use; by default all.
    """
    mesh = self.mesh_for(tree, devices=devices)
    return dataclasses.replace(self, mesh=mesh)

  def mesh_for(
    self, tree: Any, *, devices: list[jax.Device] | None = None
  ) -> Mesh:
    """The mesh, or the one that `fit` chooses."""
    if self.mesh is not None:
      return self.mesh
    given = list(jax.devices() if devices is None else devices)
    if not self.axes:
      return Mesh(np.array(given), ('replica',))
    limits, left = self._limits(tree), len(given)
    sizes: dict[str, int] = {}
    for name in self.axes:
      size = math.gcd(left, limits.get(name, 1))
      if len(self.axes) > 1:
        size = math.gcd(size, _most(name, left))
      sizes[name], left = size, left // size
    return _mesh.make_mesh(**sizes | {'data': left}, devices=given)

  def __call__(self, tree: Any) -> Any:
    """A sharding for each leaf.

    Args:
      tree: Arrays or shapes.

    Raises:
      ValueError: If a leaf is not known, or does not divide; all are named.
    """
    mesh = self.mesh_for(tree)
    specs, structure = self._specs(tree, mesh), jax.tree.structure(tree)
    return jax.tree.unflatten(
      structure, [NamedSharding(mesh, _trimmed(spec)) for spec in specs]
    )

  @property
  def row_parts(self) -> int:
    """Among how many devices the rows of a batch are divided."""
    return 1 if self.mesh is None else row_parts(self.mesh)

  @property
  def row_sharding(self) -> NamedSharding:
    """Where `put` puts a batch.

    Raises:
      ValueError: If there is no mesh yet.
    """
    return _row_sharding(self._known_mesh())

  def put(self, batch: Any) -> Any:
    """A batch on the devices, its rows divided among them.

    With several processes, each gives rows of its own.

    Args:
      batch: Arrays whose first axis counts rows.

    Raises:
      ValueError: If the rows do not divide, or there is no mesh yet.
    """
    return put_batch(batch, self._known_mesh())

  def _known_mesh(self) -> Mesh:
    if self.mesh is None:
      raise ValueError(
        f'{self.name} has no mesh yet. Take {self.name}.fit(params).'
      )
    return self.mesh

  def _limits(self, tree: Any) -> dict[str, int]:
    """What devices along each mesh axis have to divide."""
    leaves = _axes.leaves_of(tree)
    widths = _axes.widths_of(leaves)
    out: dict[str, int] = {}
    for path, leaf in leaves:
      letters = _axes.axes_of(path, leaf.shape, widths) or ''
      for size, letter in zip(leaf.shape, letters, strict=False):
        axis = _partition.LETTERS.get(letter)
        if axis is None or axis in _OPTIONAL or size == 1:
          continue
        for name in self._names(axis):
          out[name] = math.gcd(out.get(name, 0), size)
    return out

  def _specs(self, tree: Any, mesh: Mesh) -> list[PartitionSpec]:
    leaves = _axes.leaves_of(tree)
    widths = _axes.widths_of(leaves)
    problems: list[str] = []
    specs = [
      self._spec(path, np.shape(leaf), mesh, widths, problems)
      for path, leaf in leaves
    ]
    if problems:
      raise ValueError(
        f'{self.name} on {_mesh.describe(mesh)} cannot place {len(problems)} '
        'arrays:\n  ' + '\n  '.join(problems)
      )
    return specs

  def _spec(
    self,
    path: str,
    shape: tuple[int, ...],
    mesh: Mesh,
    widths: frozenset[int],
    problems: list[str],
  ) -> PartitionSpec:
    letters = _axes.axes_of(path, shape, widths)
    if letters is None:
      problems.append(f'{path} {shape}: no rule knows this path')
      return PartitionSpec()
    sizes = {name: n for name, n in mesh.shape.items() if n > 1}
    axes = [_partition.LETTERS.get(letter) for letter in letters]
    if 'B' in letters:  # Not a weight.
      names = [_partition.AXES[x].activations if x else () for x in axes]
      return _partition.divide(shape, names, sizes)
    names = [self._names(x) if x else () for x in axes]
    taken: dict[str, str] = {}
    for axis, size, wanted in zip(axes, shape, names, strict=True):
      for name in wanted if size > 1 else ():
        if name not in sizes or axis is None:
          continue
        if name in taken:
          problems.append(
            f'{path} {shape}: mesh axis {name!r} would divide both '
            f'{taken[name]} and {axis}'
          )
        elif size % sizes[name] and axis not in _OPTIONAL:
          problems.append(
            f'{path} {shape}: {axis} has {size}, which does not divide among '
            f'the {sizes[name]} devices of mesh axis {name!r}'
          )
        taken[name] = axis
    return _partition.divide(shape, names, sizes)

  def _names(self, axis: str) -> tuple[str, ...]:
    """Mesh axes that divide a logical axis of a weight."""
    default = _partition.AXES[axis].weights
    names = self.weights.get(axis, default)
    return (names,) if isinstance(names, str) else tuple(names)


REPLICATED = Rules('REPLICATED')
DATA = Rules('DATA', ('data',))
FSDP = Rules('FSDP', ('fsdp',))
TENSOR = Rules('TENSOR', ('tensor',))
FSDP_TENSOR = Rules('FSDP_TENSOR', ('tensor', 'fsdp'))
EXPERT = Rules('EXPERT', ('expert', 'fsdp'))


def put_batch(batch: Any, mesh: Mesh) -> Any:
  """See `Rules.put`."""
  count = row_parts(mesh)
  sharding = _row_sharding(mesh)

  def leaf(path: Any, x: Any) -> jax.Array:
    if getattr(x, 'sharding', None) == sharding:
      return x
    rows = np.shape(x)[0] * jax.process_count() if np.ndim(x) else 0
    if not rows or rows % count:
      raise ValueError(
        f'batch{jax.tree_util.keystr(path)} has shape {np.shape(x)}; rows of '
        f'{jax.process_count()} processes do not divide among {count} devices '
        f'({_mesh.describe(mesh)}). Choose a batch size that is a multiple.'
      )
    if jax.process_count() == 1:
      return jax.device_put(x, sharding)
    return jax.make_array_from_process_local_data(sharding, np.asarray(x))

  return jax.tree_util.tree_map_with_path(leaf, batch)


def _row_sharding(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec(_row_axes(mesh) or None))


def _row_axes(mesh: Mesh) -> tuple[str, ...]:
  names = _partition.AXES['batch'].activations
  return tuple(name for name in names if name in mesh.shape)


def row_parts(mesh: Mesh) -> int:
  """See `Rules.row_parts`."""
  return math.prod(mesh.shape[name] for name in _row_axes(mesh))


def _trimmed(spec: PartitionSpec) -> PartitionSpec:
  """As compilers spell it: two that differ would be compiled for twice."""
  entries = list(spec)
  while entries and entries[-1] is None:
    entries.pop()
  return PartitionSpec(*entries)


def _most(name: str, devices: int) -> int:
  """The most devices along a mesh axis that is one of two."""
  most = _MOST.get(name, devices)
  if name == 'tensor':  # Up to the root.
    most = min(most, 1 << (devices.bit_length() - 1) // 2)
  return most
