"""How examples come together in batches: as they come, or by their length."""

import abc
from collections.abc import Sequence
import itertools
from typing import TypeAlias

import numpy as np

from gemma.gm.data import _example

Batch: TypeAlias = dict[str, np.ndarray]
Example = _example.Example


class Assembler(abc.ABC):
  """Takes examples, and gives a batch as soon as there is one.

  Attributes:
    waiting: Examples that are in no batch yet, in lists that have a meaning to
      the assembler; with the same lists it goes on in the same way.
  """

  def __init__(self, batch_size: int):
    """Has no examples yet.

    Args:
      batch_size: How many rows a batch has.
    """
    self.batch_size = batch_size
    self.waiting: list[list[Example]] = []

  @abc.abstractmethod
  def add(self, example: Example) -> None:
    """Takes an example."""

  @abc.abstractmethod
  def take(self, *, last: bool = False, smaller: bool = False) -> Batch | None:
    """The next batch, if there is one.

    Args:
      last: Whether no more examples come.
      smaller: Whether a batch may then have fewer rows.
    """

  @abc.abstractmethod
  def restore(self, waiting: Sequence[Sequence[Example]]) -> None:
    """Goes on with what was `waiting`."""

  def _least(self, *, last: bool, smaller: bool) -> int:
    """How many rows a batch has at least."""
    return 1 if last and smaller else self.batch_size


class InOrder(Assembler):
  """As they come."""

  def __init__(self, batch_size: int):
    """Has no examples yet.

    Args:
      batch_size: How many rows a batch has.
    """
    super().__init__(batch_size)
    self.waiting = [[]]

  def add(self, example: Example) -> None:
    """Takes an example."""
    self.waiting[0].append(example)

  def take(self, *, last: bool = False, smaller: bool = False) -> Batch | None:
    """The next batch, if there is one."""
    least = self._least(last=last, smaller=smaller)
    if len(self.waiting[0]) < least:
      return None
    examples = self.waiting[0][: self.batch_size]
    del self.waiting[0][: self.batch_size]
    return _example.stack(examples)

  def restore(self, waiting: Sequence[Sequence[Example]]) -> None:
    """Goes on with what was `waiting`."""
    for example in itertools.chain.from_iterable(waiting):
      self.add(example)


class Buckets(Assembler):
  """Rows of like length together, padded to the length of their bucket."""

  def __init__(self, batch_size: int, lengths: Sequence[int]):
    """Has no examples yet.

    Args:
      batch_size: How many rows a batch has.
      lengths: Those of the buckets.
    """
    super().__init__(batch_size)
    self._lengths = sorted(lengths)
    self.waiting = [[] for _ in self._lengths]

  def add(self, example: Example) -> None:
    """Takes an example; raises a ValueError if it fits into no bucket."""
    for length, bucket in zip(self._lengths, self.waiting, strict=True):
      if example.length <= length:
        bucket.append(example)
        return
    raise too_long(example, self._lengths[-1], 'the largest of the buckets')

  def take(self, *, last: bool = False, smaller: bool = False) -> Batch | None:
    """The next batch, if there is one."""
    least = self._least(last=last, smaller=smaller)
    for length, bucket in zip(self._lengths, self.waiting, strict=True):
      if len(bucket) >= least:
        examples = bucket[: self.batch_size]
        del bucket[: self.batch_size]
        return _example.stack(examples, length)
    return None

  def restore(self, waiting: Sequence[Sequence[Example]]) -> None:
    """Goes on with what was `waiting`."""
    for example in itertools.chain.from_iterable(waiting):
      self.add(example)


def too_long(example: Example, length: int, what: str) -> ValueError:
  """What is wrong with an example of which no row can be made."""
  return ValueError(
    f'An example has {example.length} tokens, but {what} has {length}. Take a '
    f'larger one, or cut examples: max_length={length}, truncate=True of the '
    'task.'
  )
