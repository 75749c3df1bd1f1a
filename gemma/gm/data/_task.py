"""What tasks with rows of `int32` have in common."""

from collections.abc import Sequence
import dataclasses
from typing import Any
from typing import final

from gemma.gm.data import _fields
from gemma.gm.data import _paths
from gemma.gm.data import _rows
from gemma.gm.data import _transform
from gemma.gm.text import _tokenizer

Key = _transform.Key


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(_transform.RowTransform):
  """Base of tasks that give nothing but their rows, and what is kept.

  Attributes:
    tokenizer: The vocabulary.
    max_length: How long rows are; None leaves each its own length.
    truncate: Whether to cut longer ones at their end.
    keep: Keys that go along as they are.
  """

  tokenizer: _tokenizer.Tokenizer
  max_length: int | None = None
  truncate: bool = False
  keep: Sequence[Key] = ()

  @final
  def kept(self, element: _paths.Element) -> dict[str, Any]:
    """What goes along of an element."""
    return {key: _paths.read(element, key, self.name) for key in self.keep}

  @final
  def row(
    self, ids: Sequence[int], trained: Sequence[bool], **more: Any
  ) -> dict[str, Any]:
    """The fields of a sequence.

    Args:
      ids: Its tokens.
      trained: Which of them are trained.
      **more: What else there is.
    """
    row = self.finish.one(_fields.fields_of(ids, trained))
    values = row.input, row.target, row.target_mask
    return dict(zip(self.row_keys, values, strict=True)) | more

  @property
  def finish(self) -> _rows.Finish:
    """How rows get their length."""
    return _rows.Finish(
      who=self.name, max_length=self.max_length, truncate=self.truncate
    )
