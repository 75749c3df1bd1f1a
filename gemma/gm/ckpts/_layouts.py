"""The ways in which a tree of parameters is stored, and what leads to what.

`NESTED` is what `model.init(...)['params']` gives and what every reader
returns. The others hold the same numbers under other names:

| Layout | Where `layer_7/mlp/linear` is, if attention has a period of 6 |
|---|---|
| NESTED | `layer_7` > `mlp` > `linear` |
| FLAT | `transformer/layer_7/mlp/linear` > `w` |
| STACKED | row 1 of `transformer/stacked_layers/attention_type_1/mlp/linear` |
| KAULDRON | `params` > `layer_7` > `mlp` > `linear` |

Nothing here touches numbers except `to_nested` and `from_nested`, which work
alike on JAX and NumPy arrays and on shapes (`jax.ShapeDtypeStruct`).
"""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import enum
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gemma.gm.ckpts import _tree

Path = _tree.Path


class Layout(enum.StrEnum):
  """How parameters are stored."""

  NESTED = 'NESTED'
  FLAT = 'FLAT'
  STACKED = 'STACKED'
  KAULDRON = 'KAULDRON'


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a parameter is in a stored tree.

  Attributes:
    path: The keys that lead to the array.
    index: If set, which slice of its first axis the parameter is.
  """

  path: Path
  index: int | None = None

  def take(self, leaf: Any) -> Any:
    """The parameter, from the array that it is stored in."""
    if self.index is None:
      return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
      return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
    return leaf[self.index]


# Prefixes of FLAT keys, and the top-level NESTED key that each stands for.
_TEXT = 'transformer'
_VISION = 'SigLiPFromPatches_0', 'vision_encoder'
_STACK = f'{_TEXT}/stacked_layers/attention_type_'
_STACKED_KEY = re.compile(rf'^{_STACK}(\d+)/(.+)$')
_LAYER_KEY = re.compile(rf'^{_TEXT}/layer_(\d+)/(.+)$')
# These arrays are leaves of their module in NESTED, and one deeper elsewhere;
# not those of experts, which have an axis more.
_BARE = re.compile(r'^layer_\d+/mlp2?/(gating_einsum|linear)$')
_AXES = {'gating_einsum': 3, 'linear': 2}
# Names in Gemma 3n's first files, and those that its models have.
_OLDER = {
  'per_layer_embeddings': 'per_layer_input_embedding',
  'per_layer_model_projection': 'per_layer_input_projection',
  'laurel_block': 'laurel',
}
_GEMMA3N = 'altup'
_TRAINER_KEYS = {'params', 'opt_state', 'step', 'collections'}


def detect(keys: Iterable[str]) -> Layout:
  """The layout of a tree, from its top-level keys."""
  keys = set(keys)
  if any(key.startswith(f'{_TEXT}/stacked_layers') for key in keys):
    return Layout.STACKED
  if keys and all(
    key.startswith((f'{_TEXT}/', f'{_VISION[0]}/')) for key in keys
  ):
    return Layout.FLAT
  if keys == _TRAINER_KEYS:
    return Layout.KAULDRON
  return Layout.NESTED


def places(layout: Layout, stored: Mapping[Path, Any]) -> dict[Path, Place]:
  """Where the parameters of a stored tree are.

  Args:
    layout: That of the tree.
    stored: All arrays of the tree, or their shapes, by path.

  Returns:
    A place for each path of the NESTED layout. Whatever else a trainer stores
    has none.
  """
  found = dict(_places(layout, stored))
  if not any(_GEMMA3N in path for path in found):
    return found
  return {
    tuple(_OLDER.get(key, key) for key in path): place
    for path, place in found.items()
  }


def _places(
  layout: Layout, stored: Mapping[Path, Any]
) -> Iterator[tuple[Path, Place]]:
  """`places`, by the names that the tree has."""
  period = _period_of_stacked(path[0] for path in stored)
  for path, leaf in stored.items():
    if layout is Layout.NESTED:
      yield path, Place(path)
    elif layout is not Layout.KAULDRON:
      yield from _spread(path, leaf, period)
    elif path[0] == 'params':
      yield path[1:], Place(path)


def places_in(
  layout: Layout, nested: Iterable[Path], *, period: int = 1
) -> dict[Path, Place]:
  """Where the parameters of a NESTED tree go: the inverse of `places`.

  Args:
    layout: Any but `KAULDRON`.
    nested: Paths of the NESTED layout.
    period: After how many layers the kinds of attention repeat; for `STACKED`.
  """
  if layout is Layout.NESTED:
    return {path: Place(path) for path in nested}
  if layout is Layout.KAULDRON:
    raise ValueError(
      'layout=KAULDRON is what a trainer writes, with its optimizer. '
      'Parameters are saved as NESTED, FLAT or STACKED.'
    )
  flat = {path: _to_flat(path) for path in nested}
  if layout is Layout.FLAT:
    return {path: Place(to) for path, to in flat.items()}
  return {path: _stack(to, period) for path, to in flat.items()}


def to_nested(tree: Mapping[str, Any]) -> dict[str, Any]:
  """The parameters of a tree in any layout, NESTED.

  ```python
  >>> import numpy as np
  >>> from gemma.gm.ckpts import _layouts
  >>> flat = {'transformer/layer_0/mlp/linear': {'w': np.ones(3)}}
  >>> _layouts.to_nested(flat)
  {'layer_0': {'mlp': {'linear': array([1., 1., 1.])}}}

  ```

  Args:
    tree: Arrays or shapes.
  """
  stored = _tree.leaves(tree)
  return _tree.nest(
    {
      path: place.take(stored[place.path])
      for path, place in places(detect(tree), stored).items()
    }
  )


def from_nested(
  tree: Mapping[str, Any], layout: str, *, period: int | None = None
) -> dict[str, Any]:
  """A NESTED tree in another layout: the inverse of `to_nested`.

  Args:
    tree: Arrays or shapes.
    layout: `NESTED`, `FLAT` or `STACKED`.
    period: After how many layers the kinds of attention repeat. By default
      that of the generation that the names belong to.

  Returns:
    The tree. Arrays are copied only by `STACKED`.

  Raises:
    ValueError: If the layout cannot hold the tree.
  """
  flat = _tree.leaves(tree)
  where = places_in(
    _layout(layout), flat, period=period or period_of_nested(flat)
  )
  groups: dict[Path, dict[int | None, Path]] = {}
  for path, place in where.items():
    groups.setdefault(place.path, {})[place.index] = path
  return _tree.nest(
    {
      path: flat[slices[None]]
      if None in slices
      else _stacked(path, [flat[slices[i]] for i in _counted(path, slices)])
      for path, slices in groups.items()
    }
  )


def period_of_nested(paths: Iterable[Path]) -> int:
  """After how many layers the kinds of attention repeat, from the names."""
  names = {name for path in paths for name in path}
  for name, period in (
    ('per_layer_mapping', 5),  # Gemma 3n
    ('query_norm', 6),  # Gemma 4
    ('_query_norm', 6),  # Gemma 3
    ('post_attention_norm', 2),  # Gemma 2
  ):
    if name in names:
      return period
  return 1


def _layout(name: str) -> Layout:
  if name not in Layout.__members__:
    raise ValueError(f'layout={name!r} is not one of {[*Layout.__members__]}.')
  return Layout[name]


def _to_flat(path: Path) -> Path:
  """The FLAT path of a NESTED path."""
  if any('/' in key for key in path):
    raise ValueError(
      f'{path} has a key with a slash: only NESTED can store it.'
    )
  if _BARE.match('/'.join(path)):
    path = (*path, 'w')
  prefix, nested = _VISION
  path = (prefix, *path[1:]) if path[0] == nested else (_TEXT, *path)
  if len(path) < 3:
    raise ValueError(f'{path[1:]} is in no module: only NESTED can store it.')
  return '/'.join(path[:-1]), path[-1]


def _from_flat(path: Path, axes: int) -> Path:
  """The NESTED path of a FLAT path, of an array with so many axes."""
  head, *rest = *path[0].split('/'), *path[1:]
  prefix, nested = _VISION
  if head == prefix:
    return (nested, *rest)
  bare = rest[-1] == 'w' and _BARE.match('/'.join(rest[:-1]))
  if bare and axes <= _AXES[rest[-2]]:
    return (*rest[:-1],)
  return (*rest,)


def _stack(path: Path, period: int) -> Place:
  """The place in STACKED of what has a path in FLAT."""
  match = _LAYER_KEY.match(path[0])
  if match is None:
    return Place(path)
  index, position = divmod(int(match[1]), period)
  return Place((f'{_STACK}{position}/{match[2]}', *path[1:]), index)


def _spread(path: Path, leaf: Any, period: int) -> Iterator[tuple[Path, Place]]:
  """The parameters in one array of STACKED or FLAT: the inverse of `_stack`."""
  match = _STACKED_KEY.match(path[0])
  if match is None:
    yield _from_flat(path, len(leaf.shape)), Place(path)
    return
  for index in range(leaf.shape[0]):
    layer = f'{_TEXT}/layer_{index * period + int(match[1])}/{match[2]}'
    nested = _from_flat((layer, *path[1:]), len(leaf.shape) - 1)
    yield nested, Place(path, index)


def _period_of_stacked(keys: Iterable[str]) -> int:
  matches = [_STACKED_KEY.match(key) for key in keys]
  return 1 + max((int(match[1]) for match in matches if match), default=0)


def _counted(path: Path, slices: Mapping[int | None, Path]) -> range:
  """The slices of an array; each index must be there."""
  count = range(len(slices))
  if set(slices) != set(count):
    raise ValueError(
      f'STACKED has one array {path}, but not every layer has a part of it: '
      f'only {["/".join(path) for path in slices.values()]}. Save as NESTED.'
    )
  return count


def _stacked(path: Path, parts: list[Any]) -> Any:
  kinds = {(part.shape, str(part.dtype)) for part in parts}
  if len(kinds) > 1:
    raise ValueError(
      f'STACKED has one array {path}, but layers differ: {sorted(kinds)}. Save '
      'as NESTED.'
    )
  if isinstance(parts[0], jax.ShapeDtypeStruct):
    shape = len(parts), *parts[0].shape
    return jax.ShapeDtypeStruct(shape, parts[0].dtype)
  host = all(isinstance(part, np.ndarray) for part in parts)
  return np.stack(parts) if host else jnp.stack(parts)
