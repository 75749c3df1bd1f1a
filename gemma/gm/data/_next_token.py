"""Plain text, all of which is trained: as in pre-training."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from gemma.gm.data import _arrays
from gemma.gm.data import _paths
from gemma.gm.data import _task
from gemma.gm.data import _text
from gemma.gm.data import _transform

Key = _transform.Key


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextTokenTask(_task.Task):
  """Text or token ids, every one of which is trained.

  ```python
  >>> from gemma import gm
  >>> task = gm.data.NextTokenTask(
  ...   tokenizer=gm.text.Gemma3TinyTokenizer(), max_length=4, split=True
  ... )
  >>> for row in task({'text': [10, 11, 12, 13, 14]}):
  ...   print(row['input'], row['target'], row['loss_mask'])
  [ 2 10 11 12] [10 11 12 13] [ True  True  True  True]
  [ 2 14  0  0] [14  1  0  0] [ True  True False False]

  ```

  Attributes:
    in_text: Text, bytes, or a list or array of token ids.
    split: Whether to give a list of rows: as many windows of `max_length` as
      the text has, each of which begins with BOS if `add_bos`. A token is
      trained in one window. `Batches` takes such lists apart.
    add_bos: Whether to begin with the beginning-of-sequence token.
    add_eos: Whether to end the text with the end-of-sequence token.
    out_input: Key of the tokens, `int32[max_length]`.
    out_target: Key of the token after each, `int32[max_length]`.
    out_target_mask: Key of which are trained, `bool[max_length]`.
    tokenizer: The vocabulary. Tags in texts are spelled out.
    max_length: How long rows are; None leaves each its own length.
    truncate: Whether to cut longer ones at their end, if not to split them.
    keep: Keys that go along as they are.
  """

  in_text: Key = 'text'
  split: bool = False
  add_bos: bool = True
  add_eos: bool = True
  out_input: Key = 'input'
  out_target: Key = 'target'
  out_target_mask: Key = 'loss_mask'

  def __post_init__(self) -> None:
    if self.split and self.max_length is None:
      raise ValueError(
        'split=True, but max_length=None. Say how long windows are.'
      )

  @property
  def row_keys(self) -> _transform.RowKeys:
    """Where input, target and mask are."""
    return _transform.RowKeys(
      self.out_input, self.out_target, self.out_target_mask
    )

  def map(
    self, element: _paths.Element
  ) -> dict[str, Any] | list[dict[str, Any]]:
    """The fields and what is kept; a list of such if it is to be split.

    Args:
      element: The element.

    Raises:
      KeyError: If it has no text.
      ValueError: If it is too long, and neither to be split nor cut.
    """
    special = self.tokenizer.special_tokens
    begin = [int(special.BOS)] if self.add_bos else []
    ids = self._ids(_paths.read(element, self.in_text, self.name))
    ids += [int(special.EOS)] if self.add_eos else []
    rows = [
      self.kept(element) | self._row(begin + window)
      for window in self._windows(ids, overlap=not begin)
    ]
    return rows if self.split else rows[0]

  def _row(self, ids: Sequence[int]) -> dict[str, Any]:
    return self.row(ids, [True] * len(ids))

  def _windows(self, ids: list[int], *, overlap: bool) -> list[list[int]]:
    """What is trained in each window, after the first token of it."""
    length = self.max_length
    if not self.split or length is None:
      return [ids]
    starts = range(0, max(len(ids) - overlap, 1), length)
    return [ids[start : start + length + overlap] for start in starts]

  def _ids(self, value: Any) -> list[int]:
    if _arrays.is_ids(value):
      return _arrays.as_numpy(value).tolist()
    text = _text.text_of(value, self.name)
    return self.tokenizer.spell(text)
