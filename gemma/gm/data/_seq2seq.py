"""A prompt and its response: fine-tuning as in a chat of one turn."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from gemma.gm.data import _fields
from gemma.gm.data import _paths
from gemma.gm.data import _rows
from gemma.gm.data import _text
from gemma.gm.data import _transform
from gemma.gm.text import _parts
from gemma.gm.text import _tokenizer

Key = _transform.Key


@dataclasses.dataclass(frozen=True, kw_only=True)
class AddSeq2SeqFields(_transform.RowTransform):
  """Adds input, target and mask of tokens; see `make_seq2seq_fields`.

  ```python
  >>> from gemma import gm
  >>> add = gm.data.AddSeq2SeqFields(
  ...   in_prompt='prompt',
  ...   in_response='response',
  ...   out_input='input',
  ...   out_target='target',
  ...   out_target_mask='loss_mask',
  ... )
  >>> add({'prompt': [2, 7], 'response': [1]})['target']
  array([7, 1])

  ```

  Attributes:
    in_prompt: Token ids of the prompt.
    in_response: Those of the response.
    out_input: Key of the tokens, all but the last.
    out_target: Key of the token that comes after each.
    out_target_mask: Key of which of these are trained.
  """

  in_prompt: Key
  in_response: Key
  out_input: Key
  out_target: Key
  out_target_mask: Key

  @property
  def row_keys(self) -> _transform.RowKeys:
    """Where input, target and mask are."""
    return _transform.RowKeys(
      self.out_input, self.out_target, self.out_target_mask
    )

  def map(self, element: _paths.Element) -> dict[str, Any]:
    """A copy of the element with the fields.

    Args:
      element: The element.
    """
    fields = _fields.make_seq2seq_fields(
      _paths.read(element, self.in_prompt, self.name),
      _paths.read(element, self.in_response, self.name),
    )
    values = fields.input, fields.target, fields.target_mask
    return _paths.with_values(
      element, dict(zip(self.row_keys, values, strict=True))
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seq2SeqTask(_transform.RowTransform):
  r"""A prompt and its response, as the turns of a user and the model.

  What the tokens say is, for Gemma 1 to 3, `<bos><start_of_turn>user\n`
  PROMPT`<end_of_turn>\n<start_of_turn>model\n`RESPONSE`<end_of_turn>`; Gemma 4
  has its own tags. The response and the end of its turn are trained. Tags in
  the texts are spelled out, but for placeholders of media in prompts:
  `<start_of_image>`, or `<|image|>` and `<|audio|>` for Gemma 4.

  ```python
  >>> from gemma import gm
  >>> task = gm.data.Seq2SeqTask(
  ...   in_prompt='question',
  ...   in_response='answer',
  ...   out_input='input',
  ...   out_target='target',
  ...   out_target_mask='loss_mask',
  ...   tokenizer=gm.text.Gemma3TinyTokenizer(),
  ...   max_length=16,
  ... )
  >>> row = task({'question': 'Hello', 'answer': 'Hi'})
  >>> row['input']
  array([   2,  105,  461,  107, 1149,  106,  107,  105,  462,  107, 2010,
         1977,    0,    0,    0,    0])
  >>> row['target'][row['loss_mask']]
  array([2010, 1977,  106])

  ```

  Attributes:
    in_prompt: The prompt: text, bytes or a number.
    in_response: The response.
    out_input: Key of the tokens, `int64[max_length]`.
    out_target: Key of the token after each, `int64[max_length, 1]`.
    out_target_mask: Key of which are trained, `bool[max_length, 1]`.
    drop_inputs: Whether prompt and response are left out.
    tokenizer: The vocabulary.
    max_length: How long rows are; None leaves each its own length, for
      `Batches` to pack or to pad.
    truncate: Whether to cut longer ones at their end. With a prompt that fills
      `max_length` nothing is left to train on, and a warning says so.
    sampling: Whether to give the two texts with their tags, for a sampler, and
      no mask. Tags of their own are left in them.
    in_images: Key of the images of a prompt, if their number is to be checked:
      an array `H W C` or `N H W C`, or a list.
  """

  in_prompt: Key
  in_response: Key
  out_input: Key
  out_target: Key
  out_target_mask: Key
  drop_inputs: bool = True
  tokenizer: _tokenizer.Tokenizer
  max_length: int | None
  truncate: bool = False
  sampling: bool = False
  in_images: Key | None = None

  @property
  def row_keys(self) -> _transform.RowKeys:
    """Where input, target and mask are."""
    return _transform.RowKeys(
      self.out_input, self.out_target, self.out_target_mask
    )

  def map(self, element: _paths.Element) -> dict[str, Any]:
    """A copy of the element with the fields.

    Args:
      element: The element.

    Raises:
      KeyError: If it has no prompt or response.
      TypeError: If one of them is no text.
      ValueError: If they are too long, or images and placeholders differ in
        number.
    """
    texts = [
      _text.text_of(_paths.read(element, key, self.name), self.name)
      for key in (self.in_prompt, self.in_response)
    ]
    if self.in_images:
      self._check_images(
        texts[0], _paths.read(element, self.in_images, self.name)
      )
    made = self._texts(*texts) if self.sampling else self._fields(*texts)
    if self.drop_inputs:
      element = _paths.without(element, [self.in_prompt, self.in_response])
    return _paths.with_values(element, made)

  def _texts(self, prompt: str, response: str) -> dict[str, Any]:
    return {
      self.out_input: _text.prompt_text(self.tokenizer, prompt),
      self.out_target: _text.response_text(self.tokenizer, response),
    }

  def _fields(self, prompt: str, response: str) -> dict[str, Any]:
    finish = _rows.Finish(
      who=self.name,
      max_length=self.max_length,
      truncate=self.truncate,
      dtype=np.int64,
    )
    row = finish.one(
      _fields.make_seq2seq_fields(
        _text.prompt_ids(self.tokenizer, prompt),
        _text.response_ids(self.tokenizer, response),
      )
    )
    return {
      self.out_input: row.input,
      self.out_target: row.target[:, None],
      self.out_target_mask: row.target_mask[:, None],
    }

  def _check_images(self, prompt: str, images: Any) -> None:
    parts = _text.prompt_parts(self.tokenizer, prompt)
    places = sum(
      isinstance(part, _parts.Attachment) and part.media == _parts.Media.IMAGE
      for part in parts
    )
    if (count := _count(images)) != places:
      raise ValueError(
        f'{self.in_images!r} has {count} images, but the prompt has {places} '
        f'placeholders: {prompt!r:.60}. Add or remove placeholders.'
      )


def _count(images: Any) -> int:
  """How many images there are."""
  if images is None:
    return 0
  if isinstance(images, Sequence) and not isinstance(images, str):
    return len(images)
  return 1 if np.ndim(images) <= 3 else np.shape(images)[0]
