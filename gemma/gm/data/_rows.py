"""Fields of one length, with a note of what that costs."""

import dataclasses

import numpy as np

from gemma.gm.data import _arrays
from gemma.gm.data import _fields
from gemma.gm.data import _notes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finish:
  """How rows get their length.

  Attributes:
    who: The transform, for errors.
    max_length: The length; None leaves each its own.
    truncate: Whether to cut what is longer.
    dtype: Of tokens.
  """

  who: str
  max_length: int | None
  truncate: bool
  dtype: type[np.integer] = np.int32

  def one(self, fields: _fields.Seq2SeqFields) -> _fields.Seq2SeqFields:
    """A row of this length, padded or cut at its end.

    Args:
      fields: The row.

    Raises:
      ValueError: If it is longer, and is not to be cut.
    """
    size, length = fields.input.size, self.max_length
    if length is not None and size > length:
      if not self.truncate:
        raise ValueError(
          f'Cannot pad sequence of {size} tokens to max_length={length} of '
          f'{self.who}. Raise max_length, or cut the end with truncate=True.'
        )
      _notes.truncated()
    row = _fields.Seq2SeqFields(
      self._sized(fields.input.astype(self.dtype)),
      self._sized(fields.target.astype(self.dtype)),
      self._sized(fields.target_mask),
    )
    if not row.target_mask.any():
      _notes.empty(self.who, length)
    return row

  def pair(
    self, first: _fields.Seq2SeqFields, second: _fields.Seq2SeqFields
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two rows side by side, of this length or else that of the longer one."""
    sizes = first.input.size, second.input.size
    length = max(sizes) if self.max_length is None else self.max_length
    rows = [
      dataclasses.replace(self, max_length=length).one(fields)
      for fields in (first, second)
    ]
    return (
      np.stack([row.input for row in rows]),
      np.stack([row.target for row in rows]),
      np.stack([row.target_mask for row in rows]),
    )

  def _sized(self, array: np.ndarray) -> np.ndarray:
    if self.max_length is None:
      return array
    return _arrays.pad(array, self.max_length, truncate=True)
