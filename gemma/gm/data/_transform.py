"""What turns one element into another."""

import abc
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import sys
from typing import Any
from typing import NamedTuple
from typing import TypeAlias
from typing import final

from gemma.gm.data import _paths

Key: TypeAlias = str


class Transform(abc.ABC):
  """Base of all transforms: from an element to an element, without a state.

  The element that comes in is a dict and stays as it is.

  Call it (`transform(element)`), or use its `map`, as libraries for data do. It
  is a `grain.MapTransform` too if `grain` was imported before it was made, and
  so a transform of Kauldron's pipelines.
  """

  def __new__(cls, *args: Any, **kwargs: Any) -> 'Transform':
    del args, kwargs
    if 'grain' in sys.modules:  # Parts of it want its own class.
      from grain import python as grain

      grain.MapTransform.register(Transform)
    return super().__new__(cls)

  @abc.abstractmethod
  def map(self, element: Any) -> Any:
    """The new element."""

  @final
  def __call__(self, element: Any) -> Any:
    """The new element."""
    return self.map(element)

  @property
  def name(self) -> str:
    """What errors call it."""
    return type(self).__name__


class RowKeys(NamedTuple):
  """Keys of what has a value for each token.

  Attributes:
    input: The tokens that the model sees.
    target: The token that comes after each.
    mask: Which targets are trained.
  """

  input: str = 'input'
  target: str = 'target'
  mask: str = 'loss_mask'


class RowTransform(Transform):
  """A transform that makes the rows of which batches are made."""

  @property
  @abc.abstractmethod
  def row_keys(self) -> RowKeys:
    """Under which keys."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ElementWise(Transform):
  """A transform of single values.

  Attributes:
    key: Which: a key, several, or a dict from keys to those for the results,
      which keeps the values that were there. Those of several that an element
      has not are passed over, unless it has none of them.
  """

  key: Key | Sequence[Key] | Mapping[Key, Key]

  @abc.abstractmethod
  def map_element(self, value: Any) -> Any:
    """The new value."""

  @final
  def map(self, element: _paths.Element) -> dict[str, Any]:
    """A copy of the element with new values.

    Args:
      element: The element.

    Raises:
      KeyError: If it has none of the keys.
    """
    found = {
      new: self.map_element(_paths.read(element, old, self.name))
      for old, new in self._pairs()
      if _paths.has(element, old)
    }
    if not found:
      wanted = [old for old, _ in self._pairs()]
      raise KeyError(
        f'{self.name} reads keys {wanted}, of which none is among '
        f'{_paths.keys_of(element)}. Give a key that the element has.'
      )
    return _paths.with_values(element, found)

  def _pairs(self) -> Iterator[tuple[Key, Key]]:
    if isinstance(self.key, Mapping):
      yield from self.key.items()
    else:
      keys = [self.key] if isinstance(self.key, str) else self.key
      yield from ((key, key) for key in keys)
