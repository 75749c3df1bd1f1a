"""Several examples side by side in one row."""

from collections.abc import Sequence

import numpy as np

from gemma.gm.data import _assemble
from gemma.gm.data import _example
from gemma.gm.data import _transform

Example = _example.Example

SEGMENTS = 'segment_ids'
# Rows that stay open for short examples, besides those of the next batch.
_OPEN = 16


class Packed(_assemble.Assembler):
  """Examples in the first row with room for them.

  None is split, and none is lost. A batch is made of the rows that were opened
  first, as soon as an example needs one row more than may be open.
  """

  def __init__(self, batch_size: int, length: int, keys: _transform.RowKeys):
    """Has no examples yet.

    Args:
      batch_size: How many rows a batch has.
      length: That of a row.
      keys: Where the tokens are.
    """
    super().__init__(batch_size)
    self._length = length
    self._keys = keys

  def add(self, example: Example) -> None:
    """Takes an example.

    Args:
      example: The example.

    Raises:
      ValueError: If it is longer than a row, or has more than its tokens.
    """
    if example.length > self._length:
      raise _assemble.too_long(example, self._length, 'a row')
    if example.rest or example.is_pair:
      raise ValueError(
        f'An example has {[*example.rows, *example.rest]}, but only tokens, '
        'one row of them, can be packed. Leave other keys out with keys=, or '
        'take buckets= instead of pack=.'
      )
    for row in self.waiting:
      if _used(row) + example.length <= self._length:
        row.append(example)
        return
    self.waiting.append([example])

  def take(
    self, *, last: bool = False, smaller: bool = False
  ) -> _assemble.Batch | None:
    """The next batch, if there is one."""
    least = self._least(last=last, smaller=smaller)
    if len(self.waiting) < (least if last else least + _OPEN + 1):
      return None
    rows = self.waiting[: self.batch_size]
    del self.waiting[: self.batch_size]
    return {
      key: np.stack([self._joined(row, key) for row in rows])
      for key in (*self._keys, SEGMENTS)
    }

  def restore(self, waiting: Sequence[Sequence[Example]]) -> None:
    """Goes on with what was `waiting`.

    Args:
      waiting: Rows.

    Raises:
      ValueError: If one is longer than a row is here.
    """
    for row in waiting:
      if _used(row) > self._length:
        raise ValueError(
          f'The position has a row of {_used(row)} tokens, but pack='
          f'{self._length}. Go on with the pack= that it was made with.'
        )
      self.waiting.append([*row])

  def _joined(self, row: Sequence[Example], key: str) -> np.ndarray:
    """One key of a row."""
    if key == SEGMENTS:
      parts = [np.full(e.length, i + 1, np.int32) for i, e in enumerate(row)]
    else:
      parts = [example.rows[key] for example in row]
    joined = np.concatenate(parts)
    return np.pad(joined, (0, self._length - joined.size))


def _used(row: Sequence[Example]) -> int:
  return sum(example.length for example in row)
