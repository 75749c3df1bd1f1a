"""Examples one behind the other, through transforms and across epochs."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any
from typing import Protocol
from typing import TypeAlias
from typing import runtime_checkable
import warnings

from gemma.gm.data import _example
from gemma.gm.data import _notes
from gemma.gm.data import _paths
from gemma.gm.data import _source
from gemma.gm.data import _transform

Example = _example.Example
Ref = _example.Ref


@runtime_checkable
class Maps(Protocol):
  """A transform of another library: what has a `map`."""

  def map(self, element: Any, /) -> Any:
    """The new element."""


Transform: TypeAlias = Callable[[Any], Any] | Maps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Maker:
  """What becomes of an element.

  Attributes:
    transforms: One behind the other.
    keys: Which keys examples have; None for all.
    row_keys: Where their tokens are.
    trim: Whether padding at their end is taken off.
  """

  transforms: Sequence[Transform]
  keys: Sequence[str] | None
  row_keys: _transform.RowKeys
  trim: bool

  def make(self, epoch: int, place: int, element: Any) -> list[Example]:
    """The examples that are made of an element.

    Args:
      epoch: Where the element comes from.
      place: Likewise.
      element: The element.
    """
    try:
      elements = [element]
      for transform in self.transforms:
        elements = [new for e in elements for new in _applied(transform, e)]
      return [
        self._example(Ref(epoch, place, part), element)
        for part, element in enumerate(elements)
      ]
    except Exception as e:
      keys = _paths.keys_of(element) if isinstance(element, Mapping) else None
      e.add_note(f'It was example {place} of epoch {epoch}, with keys {keys}.')
      raise

  def _example(self, ref: Ref, element: Any) -> Example:
    if not isinstance(element, Mapping):
      raise TypeError(
        f'An example is a {type(element).__name__}, and not a dict: '
        f'{element!r:.60}.'
      )
    if self.keys is not None:
      element = {
        key: _paths.read(element, key, 'Batches(keys=...)') for key in self.keys
      }
    example = _example.example_of(ref, element, self.row_keys)
    return _example.trimmed(example, self.row_keys) if self.trim else example


class Reader:
  """Reads examples, and knows where it is.

  Attributes:
    at: What is read next.
    dropped: How many examples had nothing to train on, and were left out.
    truncated: How many were cut.
  """

  def __init__(self, source: _source.Source, maker: Maker, epochs: int | None):
    """Reads nothing yet.

    Args:
      source: Where elements come from.
      maker: What becomes of them.
      epochs: How often to read them; None never ends.
    """
    self._source = source
    self._maker = maker
    self._epochs = epochs
    self.seek(Ref(0, 0, 0), dropped=0, truncated=0)

  def seek(self, at: Ref, *, dropped: int, truncated: int) -> None:
    """Goes somewhere.

    Args:
      at: What to read next.
      dropped: How many examples were left out before.
      truncated: How many were cut before.
    """
    self.at = at
    self.dropped = dropped
    self.truncated = truncated
    self._stream: Iterator[Example] | None = None

  def read(self) -> Example | None:
    """The next example; None behind the last one."""
    if self._stream is None:
      self._stream = self._examples()
    try:
      return next(self._stream, None)
    except BaseException:
      self._stream = None  # One that failed would look as if it had ended.
      raise

  def pick(self, refs: Iterable[Ref]) -> dict[Ref, Example]:
    """Examples that were read before.

    Args:
      refs: Which.

    Raises:
      ValueError: If the source has none there.
    """
    places: dict[int, set[int]] = {}
    for ref in refs:
      places.setdefault(ref.epoch, set()).add(ref.place)
    found: dict[Ref, Example] = {}
    with _notes.counted():
      for epoch, wanted in places.items():
        for place, element in self._source.pick(epoch, wanted).items():
          made = self._make(epoch, place, element)
          found |= {example.ref: example for example in made}
    return found

  def _make(self, epoch: int, place: int, element: Any) -> list[Example]:
    try:
      return self._maker.make(epoch, place, element)
    except Exception as e:
      row = self._source.row(epoch, place)
      if row != place:  # Shuffled, or read in parts.
        e.add_note(f'It is row {row} of the source, counted from 0.')
      raise

  def _examples(self) -> Iterator[Example]:
    while self._epochs is None or self.at.epoch < self._epochs:
      epoch, start, _ = self.at
      dropped, count = self.dropped, 0
      elements = self._source.read(epoch, start)
      for place, element in enumerate(elements, start):
        for example in self._of(place, element):
          count += 1
          yield example
        self.at = Ref(epoch, place + 1, 0)
      dropped = self.dropped - dropped
      if not count and not start:
        raise ValueError(
          f'Of epoch {epoch}, no example is left: {dropped} had nothing to '
          'train on. Look at the source and the transforms.'
        )
      if dropped:
        warnings.warn(
          f'{dropped} examples of epoch {epoch} had nothing to train on, and '
          'were left out: their loss mask is empty. Longer rows (max_length) '
          'keep what a long prompt leaves no room for.',
          stacklevel=4,
        )
      self.at = Ref(epoch + 1, 0, 0)

  def _of(self, place: int, element: Any) -> Iterator[Example]:
    """The examples of an element that were not read yet."""
    epoch, _, skip = self.at
    with _notes.counted() as counts:
      made = self._make(epoch, place, element)
    if not skip:
      self.truncated += bool(counts['truncated'])
    for example in made[skip:]:
      self.at = example.ref._replace(part=example.ref.part + 1)
      if _example.has_loss(example, self._maker.row_keys):
        yield example
      else:
        self.dropped += 1


def _applied(transform: Transform, element: Any) -> list[Any]:
  new = transform(element) if callable(transform) else transform.map(element)
  if isinstance(new, Mapping):
    return [new]
  if isinstance(new, list):
    return new
  raise TypeError(
    f'{transform!r:.60} gave a {type(new).__name__}, and not a dict. Return '
    'the element, or a list of elements; an empty one leaves it out.'
  )
