"""A prompt with a good and a bad response: training by preference."""

import dataclasses
from typing import Any

import numpy as np

from gemma.gm.data import _fields
from gemma.gm.data import _paths
from gemma.gm.data import _rows
from gemma.gm.data import _text
from gemma.gm.data import _transform
from gemma.gm.text import _tokenizer

Key = _transform.Key


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContrastiveTask(_transform.RowTransform):
  """A prompt with a chosen and a rejected response.

  Each is a row as in `Seq2SeqTask`; the first axis is chosen, rejected.

  ```python
  >>> from gemma import gm
  >>> task = gm.data.ContrastiveTask(
  ...   in_prompt='prompt',
  ...   in_chosen='good',
  ...   in_rejected='bad',
  ...   out_tokens='tokens',
  ...   out_targets='targets',
  ...   out_mask='mask',
  ...   tokenizer=gm.text.Gemma3TinyTokenizer(),
  ...   max_length=16,
  ... )
  >>> row = task({'prompt': 'Hello', 'good': 'Hi', 'bad': 'Go'})
  >>> row['tokens'].shape, row['targets'].shape, row['mask'].shape
  ((2, 16), (2, 16), (2, 16))

  ```

  Attributes:
    in_prompt: The prompt: text, bytes or a number.
    in_chosen: The good response.
    in_rejected: The bad one.
    out_tokens: Key of the tokens, `int64[2, max_length]`.
    out_targets: Key of the token after each, `int64[2, max_length]`.
    out_mask: Key of which are trained, `bool[2, max_length]`.
    tokenizer: The vocabulary.
    max_length: How long rows are; None makes both as long as the longer one,
      for `Batches` to pad.
    truncate: Whether to cut longer ones at their end.
    drop_inputs: Whether the texts are left out.
  """

  in_prompt: Key
  in_chosen: Key
  in_rejected: Key
  out_tokens: Key
  out_targets: Key
  out_mask: Key
  tokenizer: _tokenizer.Tokenizer
  max_length: int | None
  truncate: bool = False
  drop_inputs: bool = True

  @property
  def row_keys(self) -> _transform.RowKeys:
    """Where tokens, targets and mask are."""
    return _transform.RowKeys(self.out_tokens, self.out_targets, self.out_mask)

  def map(self, element: _paths.Element) -> dict[str, Any]:
    """A copy of the element with the fields.

    Args:
      element: The element.

    Raises:
      KeyError: If it has no prompt, or not both responses.
      TypeError: If one of them is no text.
      ValueError: If they are too long.
    """
    keys = self.in_prompt, self.in_chosen, self.in_rejected
    prompt, *responses = (
      _text.text_of(_paths.read(element, key, self.name), self.name)
      for key in keys
    )
    asked = _text.prompt_ids(self.tokenizer, prompt)
    chosen, rejected = (
      _fields.make_seq2seq_fields(
        asked, _text.response_ids(self.tokenizer, response)
      )
      for response in responses
    )
    finish = _rows.Finish(
      who=self.name,
      max_length=self.max_length,
      truncate=self.truncate,
      dtype=np.int64,
    )
    if self.drop_inputs:
      element = _paths.without(element, keys)
    values = finish.pair(chosen, rejected)
    return _paths.with_values(
      element, dict(zip(self.row_keys, values, strict=True))
    )
