"""Conversations of any number of turns."""

import dataclasses
from typing import Any

from gemma.gm.data import _chat_forms
from gemma.gm.data import _chat_tokens
from gemma.gm.data import _paths
from gemma.gm.data import _task
from gemma.gm.data import _transform

Key = _transform.Key


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatTask(_task.Task):
  r"""A conversation, of which the model's turns are trained.

  An example has one of these forms, with `system` and `tools` if there are any.
  Another key that would change what is trained is refused; unknown keys are
  warned of.

  - `{'messages': [{'role': 'user', 'content': 'Hi'}, ...]}`: messages as
    `gm.text.encode_chat` takes them;
  - `{'conversations': [{'from': 'human', 'value': 'Hi'}, ...]}`;
  - `{'prompt': ..., 'completion': ...}`: texts or messages;
  - `{'instruction': ..., 'input': ..., 'output': ..., 'history': ...}`.

  The tokens are those that a chat with the model has. The end of a turn of the
  model is trained with it; a message of the model with `weight` 0, or `train`
  or `loss` false, is not, nor is what users, systems and tools say. Tags in
  texts are spelled out.

  ```python
  >>> from gemma import gm
  >>> tokenizer = gm.text.Gemma3TinyTokenizer()
  >>> task = gm.data.ChatTask(tokenizer=tokenizer)
  >>> row = task(
  ...   {
  ...     'conversations': [
  ...       {'from': 'human', 'value': 'Hello'},
  ...       {'from': 'gpt', 'value': 'Hi'},
  ...       {'from': 'human', 'value': 'Bye'},
  ...       {'from': 'gpt', 'value': 'See you'},
  ...     ]
  ...   }
  ... )
  >>> tokenizer.decode(row['target'][row['loss_mask']])
  'Hi<end_of_turn>See you<end_of_turn>'

  ```

  Attributes:
    in_chat: Key of the messages, in either of the first two forms, or written
      as JSON; None finds them under the keys above. Prompts, completions and
      other texts are text, even if it is JSON.
    last_only: Whether nothing but the model's last turn is trained.
    thinking: Whether the model is asked to think; for Gemma 4.
    empty_thought: Whether the model's last turn opens with an empty thought, if
      it has none: as chats with the larger sizes of Gemma 4 do (12B, 26B, 31B).
      It is not trained.
    out_input: Key of the tokens, `int32[max_length]`.
    out_target: Key of the token after each, `int32[max_length]`.
    out_target_mask: Key of which are trained, `bool[max_length]`.
    tokenizer: The vocabulary.
    max_length: How long rows are; None leaves each its own length.
    truncate: Whether to cut longer ones at their end.
    keep: Keys that go along as they are, such as that of the images.
  """

  in_chat: Key | None = None
  last_only: bool = False
  thinking: bool = False
  empty_thought: bool = False
  out_input: Key = 'input'
  out_target: Key = 'target'
  out_target_mask: Key = 'loss_mask'

  @property
  def row_keys(self) -> _transform.RowKeys:
    """Where input, target and mask are."""
    return _transform.RowKeys(
      self.out_input, self.out_target, self.out_target_mask
    )

  def map(self, element: _paths.Element) -> dict[str, Any]:
    """The fields and what is kept.

    Args:
      element: The element.

    Raises:
      KeyError: If it has no conversation of a known form.
      ValueError: If its turns do not alternate, it is too long, or another key
        is refused.
    """
    chat = _chat_forms.chat_of(element, self.in_chat, self.name, self.keep)
    encoder = _chat_tokens.Encoder(
      tokenizer=self.tokenizer,
      thinking=self.thinking,
      empty_thought=self.empty_thought,
      last_only=self.last_only,
    )
    tokens = encoder.encode(chat.messages, chat.tools)
    return self.kept(element) | self.row(tokens.ids, tokens.trained)
