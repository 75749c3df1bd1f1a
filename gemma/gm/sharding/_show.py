"""What lies where, as a table and as a picture."""

from collections.abc import Iterator
import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from gemma.gm.math import _partition
from gemma.gm.nn import _shapes
from gemma.gm.nn import _svg
from gemma.gm.sharding import _axes
from gemma.gm.sharding import _mesh
from gemma.gm.sharding import _rules

_LAYER = re.compile(r'(layer|layers|encoderblock)_\d+(_\d+)?')
_WIDTH, _LINE, _NAMES = 720, 18, 300  # Of the picture, in pixels.
_COLORS = {
  'fsdp': '#4e79a7',
  'tensor': '#f28e2b',
  'expert': '#59a14f',
  'both': '#b07aa1',
  'whole': '#bab0ac',
}


@dataclasses.dataclass(frozen=True)
class Row:
  """A parameter, or one that stands in several equal layers.

  Attributes:
    path: Its path, with `#` for the number of the layer.
    shape: Its shape.
    logical: The logical axis of each of its axes.
    spec: What divides each of them: mesh axes, or nothing.
    nbytes: Bytes of all of them together.
    local: Bytes that each device has of them.
  """

  path: str
  shape: tuple[int, ...]
  logical: tuple[str, ...]
  spec: tuple[tuple[str, ...], ...]
  nbytes: int
  local: int


@dataclasses.dataclass(frozen=True)
class Placement:
  """Where parameters lie. Prints as a table; notebooks show a picture.

  Attributes:
    name: Of the rules.
    mesh: The axes of the mesh.
    rows: The parameters.
  """

  name: str
  mesh: str
  rows: tuple[Row, ...]

  @property
  def nbytes(self) -> int:
    """Bytes of all parameters."""
    return sum(row.nbytes for row in self.rows)

  @property
  def bytes_per_device(self) -> int:
    """Bytes that each device has."""
    return sum(row.local for row in self.rows)

  def __str__(self) -> str:
    lines = [('parameter', 'shape', 'divided', 'MiB', 'MiB a device')]
    for row in self.rows:
      both = zip(row.logical, row.spec, strict=True)
      divided = [f'{axis} by {"+".join(by)}' for axis, by in both if by]
      lines.append(
        (
          row.path,
          'x'.join(map(str, row.shape)),
          ', '.join(divided) or 'whole',
          _mib(row.nbytes),
          _mib(row.local),
        )
      )
    total = 'total', '', '', _mib(self.nbytes), _mib(self.bytes_per_device)
    lines.append(total)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    out = [f'{self.name} on {self.mesh}']
    for line in lines:
      cells = [
        cell.ljust(n) if i < 3 else cell.rjust(n)
        for i, (cell, n) in enumerate(zip(line, widths, strict=True))
      ]
      out.append('  '.join(cells).rstrip())
    return '\n'.join(out)

  def _repr_svg_(self) -> str:
    """Bars of the bytes of each parameter; what a device has is filled."""
    height = _LINE * (len(self.rows) + 3)
    most = max(row.nbytes for row in self.rows)
    title = (
      f'{self.name} on {self.mesh}: {_mib(self.bytes_per_device)} of '
      f'{_mib(self.nbytes)} MiB on each device'
    )
    parts = [_svg.text(8, _LINE, title, size=13, weight='bold')]
    parts += self._legend(2 * _LINE)
    for i, row in enumerate(self.rows):
      y = _LINE * (i + 3)
      parts.append(_svg.text(8, y, row.path, size=11))
      parts += _bar(row, y, (_WIDTH - _NAMES - 70) * row.nbytes / most)
    return (
      f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" '
      f'height="{height}" font-family="sans-serif">{"".join(parts)}</svg>'
    )

  def _legend(self, y: float) -> Iterator[str]:
    used = dict.fromkeys(_kind(row) for row in self.rows)
    for i, kind in enumerate(used):
      label = {'both': 'by two axes', 'whole': 'on each device'}.get(kind)
      yield _rectangle(8 + 130 * i, y - 9, 10, _COLORS[kind])
      yield _svg.text(22 + 130 * i, y, label or f'by {kind}', size=11)


def show(model: Any, rules: _rules.Rules) -> Placement:
  """Where the parameters of a model lie.

  ```python
  >>> import jax
  >>> from gemma import gm
  >>> mesh = gm.sharding.make_mesh(data=-1)
  >>> rules = gm.sharding.FSDP.on(mesh)
  >>> placement = gm.sharding.show(gm.nn.Gemma3_270M(), rules)
  >>> print(str(placement).splitlines()[2].rstrip())
  embedder/input_embedding          262144x640   whole    320.0         320.0

  ```

  Args:
    model: A model, or parameters or their shapes.
    rules: A preset, on a mesh or on none yet.

  Returns:
    A table: a line for each parameter, equal layers together.

  Raises:
    ValueError: If a parameter has no rule, or does not divide.
  """
  tree = _shapes.param_shapes(model) if hasattr(model, 'config') else model
  mesh = rules.mesh_for(tree)
  rules = rules.fit(tree)
  leaves = _axes.leaves_of(tree)
  widths = _axes.widths_of(leaves)
  rows: dict[Any, Row] = {}
  places = jax.tree.leaves(rules(tree))
  for (path, leaf), place in zip(leaves, places, strict=True):
    name = _LAYER.sub(r'\1_#', path)
    row = _row(name, leaf, place, widths)
    key = name, row.shape, row.spec
    if key in rows:
      row = dataclasses.replace(
        row,
        nbytes=row.nbytes + rows[key].nbytes,
        local=row.local + rows[key].local,
      )
    rows[key] = row
  return Placement(rules.name, _mesh.describe(mesh), tuple(rows.values()))


def _row(
  path: str, leaf: Any, place: NamedSharding, widths: frozenset[int]
) -> Row:
  letters = _axes.axes_of(path, leaf.shape, widths) or '_' * len(leaf.shape)
  spec = [_partition.names_of(entry) for entry in place.spec]
  spec += [()] * (len(leaf.shape) - len(spec))
  size = jnp.dtype(leaf.dtype).itemsize
  return Row(
    path,
    tuple(leaf.shape),
    tuple(_axes.name_of(letter) for letter in letters),
    tuple(spec),
    math.prod(leaf.shape) * size,
    math.prod(place.shard_shape(leaf.shape)) * size,
  )


def _kind(row: Row) -> str:
  used = dict.fromkeys(name for entry in row.spec for name in entry)
  if len(used) > 1:
    return 'both'
  return next(iter(used), 'whole')


def _bar(row: Row, y: float, width: float) -> Iterator[str]:
  """The whole as an outline, and the part of a device filled."""
  filled = width * row.local / row.nbytes
  yield _rectangle(_NAMES, y - 9, max(filled, 0.5), _COLORS[_kind(row)])
  yield (
    f'<rect x="{_NAMES}" y="{y - 9:.1f}" width="{width:.1f}" height="10" '
    'fill="none" stroke="#888" stroke-width="0.5"/>'
  )
  yield _svg.text(_NAMES + width + 4, y, _mib(row.local), size=10)


def _rectangle(x: float, y: float, width: float, color: str) -> str:
  return (
    f'<rect x="{x:g}" y="{y:.1f}" width="{width:.1f}" height="10" '
    f'fill="{color}"/>'
  )


def _mib(nbytes: int) -> str:
  return f'{nbytes / 2**20:.1f}'
