r"""The chat format of Gemma 1, 2 and 3: conversations to token ids.

`<start_of_turn>ROLE\nCONTENT<end_of_turn>\n`, roles `user` and `model`. Only
this file writes control tokens; content is spelled out, whatever it says.
"""

from collections.abc import Mapping
from collections.abc import Sequence

from gemma.gm.text import _tokenizer

Message = Mapping[str, str]
_ROLES = {'user': 'user', 'assistant': 'model', 'model': 'model'}


def encode_chat(
  tokenizer: _tokenizer.Tokenizer,
  messages: Sequence[Message],
  *,
  add_generation_prompt: bool = True,
) -> list[int]:
  r"""Token ids of a conversation, from `<bos>` on.

  A system message becomes the beginning of the first user turn, as these models
  were trained. Content is trimmed.

  ```python
  >>> from gemma import gm
  >>> tokenizer = gm.text.Gemma3TinyTokenizer()
  >>> ids = gm.text.encode_chat(
  ...   tokenizer, [{'role': 'user', 'content': 'Hi'}]
  ... )
  >>> tokenizer.decode(ids)
  '<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n'

  ```

  Args:
    tokenizer: The vocabulary.
    messages: Dicts with `role` (`system`, `user`, `assistant` or `model`) and
      `content`.
    add_generation_prompt: Whether to open a turn for the model at the end.

  Raises:
    ValueError: If roles do not alternate from `user` on.
  """
  ids: list[int] = [tokenizer.special_tokens.BOS]
  newline = tokenizer.encode('\n')
  for role, content in _turns(messages):
    ids += encode_turn(tokenizer, role, content) + newline
  if add_generation_prompt:
    ids += open_turn(tokenizer)
  return ids


def encode_turn(
  tokenizer: _tokenizer.Tokenizer, role: str, content: str
) -> list[int]:
  """Token ids of one turn, up to its end tag."""
  special = tokenizer.special_tokens
  text = tokenizer.encode(f'{role}\n{content}', allow_special=False)
  return [special.START_OF_TURN, *text, special.END_OF_TURN]


def open_turn(tokenizer: _tokenizer.Tokenizer) -> list[int]:
  """The tokens after which the model speaks."""
  start = tokenizer.special_tokens.START_OF_TURN
  return [start, *tokenizer.encode('model\n')]


def _turns(messages: Sequence[Message]) -> list[tuple[str, str]]:
  """Roles and contents, with a system message folded into the first turn."""
  for i, message in enumerate(messages):
    if not {'role', 'content'} <= message.keys():
      raise ValueError(
        f'Message {i} has keys {sorted(message)}, but needs role and content.'
      )
  system = ''
  if messages and messages[0]['role'] == 'system':
    system = messages[0]['content'] + '\n\n'
    messages = messages[1:]
  out = []
  for i, message in enumerate(messages):
    expected = 'model' if i % 2 else 'user'
    if _ROLES.get(message['role']) != expected:
      raise ValueError(
        f'Turn {i} has role {message["role"]!r}, but must be {expected!r}: '
        'turns alternate, beginning with the user.'
      )
    content = message['content'].strip()
    out.append((expected, system + content if i == 0 else content))
  if not out:
    raise ValueError('The conversation has no user turn. Give at least one.')
  return out
