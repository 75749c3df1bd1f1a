"""Runs of equal values."""

from collections.abc import Iterable
import itertools
from typing import TypeVar

_T = TypeVar('_T')


def count_consecutive(values: Iterable[_T]) -> tuple[tuple[_T, int], ...]:
  """Each run of equal values, with its length.

  ```python
  >>> from gemma import gm
  >>> gm.math.count_consecutive('aab')
  (('a', 2), ('b', 1))

  ```

  Args:
    values: In the order in which runs are counted.
  """
  return tuple((x, len([*run])) for x, run in itertools.groupby(values))
