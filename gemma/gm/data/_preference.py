"""Two answers to one conversation, of which one is better."""

import dataclasses
from typing import Any

from gemma.gm.data import _chat_forms
from gemma.gm.data import _chat_messages
from gemma.gm.data import _chat_tokens
from gemma.gm.data import _fields
from gemma.gm.data import _paths
from gemma.gm.data import _task
from gemma.gm.data import _transform

Key = _transform.Key


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferenceTask(_task.Task):
  """A conversation with a chosen and a rejected last turn of the model.

  An example has `chosen` and `rejected`, which are texts, messages, or whole
  conversations; in the first two cases it has a `prompt` too, a text or
  messages. Only the last turn is trained.

  ```python
  >>> from gemma import gm
  >>> tokenizer = gm.text.Gemma3TinyTokenizer()
  >>> task = gm.data.PreferenceTask(tokenizer=tokenizer, max_length=32)
  >>> row = task({'prompt': 'Hello', 'chosen': 'Hi', 'rejected': 'Go'})
  >>> row['tokens'].shape
  (2, 32)
  >>> tokenizer.decode(row['targets'][1][row['mask'][1]])
  'Go<end_of_turn>'

  ```

  Attributes:
    in_prompt: Key of what came before.
    in_chosen: Key of the better answer.
    in_rejected: Key of the worse one.
    thinking: Whether the model is asked to think; for Gemma 4.
    empty_thought: See `ChatTask`.
    out_tokens: Key of the tokens, `int32[2, max_length]`, chosen and rejected.
    out_targets: Key of the token after each, `int32[2, max_length]`.
    out_mask: Key of which are trained, `bool[2, max_length]`.
    tokenizer: The vocabulary.
    max_length: How long rows are; None makes both as long as the longer one.
    truncate: Whether to cut longer ones at their end.
    keep: Keys that go along as they are.
  """

  in_prompt: Key = 'prompt'
  in_chosen: Key = 'chosen'
  in_rejected: Key = 'rejected'
  thinking: bool = False
  empty_thought: bool = False
  out_tokens: Key = 'tokens'
  out_targets: Key = 'targets'
  out_mask: Key = 'mask'

  @property
  def row_keys(self) -> _transform.RowKeys:
    """Where tokens, targets and mask are."""
    return _transform.RowKeys(self.out_tokens, self.out_targets, self.out_mask)

  def map(self, element: _paths.Element) -> dict[str, Any]:
    """The fields and what is kept.

    Args:
      element: The element.

    Raises:
      KeyError: If an answer is missing, or what it answers.
      ValueError: If turns do not alternate, it is too long, or another key is
        refused.
    """
    used = (
      *(self.in_prompt, self.in_chosen, self.in_rejected),
      # The conversation with the chosen answer is there once more.
      *('messages', 'conversations', 'conversation'),
    )
    _chat_forms.check_keys(element, used, self.keep, self.name)
    pair = self.finish.pair(
      self._row(element, self.in_chosen), self._row(element, self.in_rejected)
    )
    return self.kept(element) | dict(zip(self.row_keys, pair, strict=True))

  def _row(self, element: _paths.Element, key: Key) -> _fields.Seq2SeqFields:
    answer = _chat_messages.messages_of(
      _paths.read(element, key, self.name), key, 'assistant'
    )
    if answer[0]['role'] in ('assistant', 'tool'):
      prompt = _paths.read(element, self.in_prompt, self.name)
      asked = _chat_messages.messages_of(prompt, self.in_prompt, 'user')
      answer = [*asked, *answer]
    chat = _chat_forms.with_setting(element, answer)
    encoder = _chat_tokens.Encoder(
      tokenizer=self.tokenizer,
      thinking=self.thinking,
      empty_thought=self.empty_thought,
      last_only=True,
    )
    tokens = encoder.encode(chat.messages, chat.tools)
    return _fields.fields_of(tokens.ids, tokens.trained)
