"""Where examples come from, in the order of an epoch."""

import abc
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import itertools
from typing import Any
from typing import Protocol
from typing import runtime_checkable

import numpy as np


@runtime_checkable
class RandomAccess(Protocol):
  """What knows its length, and gives any example by its number."""

  def __len__(self) -> int:
    """How many examples there are."""

  def __getitem__(self, index: int, /) -> Any:
    """One of them."""


class Source(abc.ABC):
  """Examples, in an order that the number of the epoch decides."""

  @abc.abstractmethod
  def read(self, epoch: int, start: int) -> Iterator[Any]:
    """The examples of an epoch, from its n-th on."""

  @abc.abstractmethod
  def pick(self, epoch: int, places: Collection[int]) -> dict[int, Any]:
    """The examples at some places of an epoch's order."""

  @abc.abstractmethod
  def row(self, epoch: int, place: int) -> int:
    """The number in the source of an example of an epoch, for errors."""


class Indexed(Source):
  """Examples that are known by their number."""

  def __init__(
    self, data: RandomAccess, seed: int | None, shard: tuple[int, int]
  ):
    """Reads nothing yet.

    Args:
      data: The examples.
      seed: That of the order; None keeps the order that they have.
      shard: Which part to read, and of how many.

    Raises:
      ValueError: If there are none, or not one for each part.
    """
    self._data = data
    self._seed = seed
    self._part, parts = shard
    self._parts = parts
    if len(data) < parts:
      raise ValueError(
        f'The source has {len(data)} examples, too few for {parts} reader(s). '
        'Give one at least for each.'
      )
    self._known: tuple[int, np.ndarray] | None = None

  def read(self, epoch: int, start: int) -> Iterator[Any]:
    """The examples of an epoch, from its n-th on."""
    for index in self._order(epoch)[start:]:
      yield self._data[int(index)]

  def pick(self, epoch: int, places: Collection[int]) -> dict[int, Any]:
    """The examples at some places of an epoch's order."""
    order = self._order(epoch)
    if max(places) >= len(order):
      raise _too_short(len(order), max(places))
    return {place: self._data[int(order[place])] for place in places}

  def row(self, epoch: int, place: int) -> int:
    """The number in the source of an example of an epoch, for errors."""
    return int(self._order(epoch)[place])

  def _order(self, epoch: int) -> np.ndarray:
    """Numbers of the examples, the same on every machine."""
    if self._known is None or self._known[0] != epoch:
      count = len(self._data)
      order = np.arange(count)
      if self._seed is not None:
        # Streams of `RandomState` are the same in every version of NumPy.
        state = np.random.SeedSequence([self._seed, epoch]).generate_state(8)
        order = np.random.RandomState(state).permutation(count)
      # As many for each part, so that none waits for another.
      order = order[: count - count % self._parts]
      self._known = epoch, order[self._part :: self._parts]
    return self._known[1]


class Streamed(Source):
  """Examples that come one after the other."""

  def __init__(
    self, start: Callable[[], Iterable[Any]], shard: tuple[int, int]
  ):
    """Reads nothing yet.

    Args:
      start: Gives all of them, from the first on.
      shard: Which part to read, and of how many.
    """
    self._start = start
    self._part, self._parts = shard

  def read(self, epoch: int, start: int) -> Iterator[Any]:
    """The examples of an epoch, from its n-th on."""
    del epoch  # They come in the order that they have.
    part = itertools.islice(self._start(), self._part, None, self._parts)
    return itertools.islice(part, start, None)

  def pick(self, epoch: int, places: Collection[int]) -> dict[int, Any]:
    """The examples at some places of an epoch's order."""
    found: dict[int, Any] = {}
    place = -1
    for place, example in enumerate(self.read(epoch, 0)):
      if place in places:
        found[place] = example
      if len(found) == len(places):
        return found
    raise _too_short(place + 1, max(places))

  def row(self, epoch: int, place: int) -> int:
    """The number in the source of an example of an epoch, for errors."""
    del epoch  # They come in the order that they have.
    return self._part + place * self._parts


def source_of(
  source: Any, *, seed: int | None, shard: tuple[int, int]
) -> Source:
  """A source of whatever has examples.

  Args:
    source: A list or anything else with a length and numbers, an iterable, or a
      function that gives one.
    seed: That of the order; None keeps the order that they have.
    shard: Which part to read, and of how many.

  Raises:
    TypeError: If it can be read but once, or is one example.
    ValueError: If it has no examples, or cannot be shuffled.
  """
  if isinstance(source, Mapping | str | bytes):
    raise TypeError(
      f'The source is a {type(source).__name__}. Give a list of dicts, or '
      'anything else that gives a dict for each example.'
    )
  if isinstance(source, RandomAccess):
    return Indexed(source, seed, shard)
  if isinstance(source, Iterator):
    raise TypeError(
      f'The source is a {type(source).__name__}, which can be read but once. '
      'Give the function that makes it, or a list of what it gives.'
    )
  if seed is not None:
    raise ValueError(
      'shuffle=True, but the source has no length, so nobody knows all of its '
      'examples. Shuffle where they come from, or give a list of them.'
    )
  if isinstance(source, Iterable):
    return Streamed(lambda: source, shard)
  if callable(source):
    return Streamed(source, shard)
  raise TypeError(
    f'The source is a {type(source).__name__}. Give a list of dicts, an '
    'iterable, or a function that gives one.'
  )


def _too_short(count: int, place: int) -> ValueError:
  return ValueError(
    f'The source has {count} examples in an epoch, but the position knows of '
    f'number {place}. It is a position in other data.'
  )
