"""Conversations of examples, in each of the usual forms."""

from collections.abc import Collection
from collections.abc import Sequence
import dataclasses
from typing import Any

from gemma.gm.data import _chat_messages
from gemma.gm.data import _paths
from gemma.gm.data import _text
from gemma.gm.text import _keys

Message = _chat_messages.Message

_CONVERSATIONS = ('messages', 'conversations', 'conversation')
_PAIR = ('prompt', 'completion')
_ALPACA = ('instruction', 'input', 'output', 'history')
_FORMS = (
  "{'messages': [{'role', 'content'}, ...]}",
  "{'conversations': [{'from', 'value'}, ...]}",
  "{'prompt', 'completion'}",
  "{'instruction', 'input', 'output', 'history'}",
)
_BESIDE = ('system', 'tools')
_IGNORED = (
  'id', 'idx', 'index', 'uuid', 'prompt_id', 'conversation_id', 'text',
  'source', 'dataset', 'category', 'topic', 'task', 'split', 'language', 'lang',
  'score', 'score_chosen', 'score_rejected', 'quality', 'rating', 'url',
  'title', 'author', 'license', 'model', 'length', 'num_turns', 'created',
  'created_at', 'timestamp', 'date', 'metadata', 'meta', 'parallel_tool_calls',
)  # fmt: skip
_MEDIA = ('image', 'images', 'video', 'videos', 'audio', 'audios')
_REFUSED = {
  **dict.fromkeys(
    _MEDIA,
    "Put {'type': 'image'} where each goes in a message, and the key into "
    'keep= of the task.',
  ),
  **dict.fromkeys(
    ('weight', 'train', 'loss', 'loss_mask'),
    'Leave examples out that are not to be trained, or give weight 0 to '
    'messages.',
  ),
  'functions': 'Give them as tools.',
  'system_prompt': 'Give it as system.',
  'developer': 'Give it as system.',
  'chat_template_kwargs': 'Give thinking= to the task.',
  **dict.fromkeys(
    ('thinking', 'reasoning', 'reasoning_content'),
    'Give it as reasoning_content of a message.',
  ),
  'history': "Its place is beside 'instruction'; else write it as messages.",
}


_TWICE = 'The example has two conversations; name one with in_chat=.'
_UNPAIRED = 'Leave examples with bad completions out, and remove the key.'


@dataclasses.dataclass(frozen=True)
class Chat:
  """A conversation.

  Attributes:
    messages: Dicts with `role` and `content`.
    tools: What the model may call.
  """

  messages: list[Message]
  tools: list[Any]


def chat_of(
  element: _paths.Element,
  key: str | None,
  reader: str,
  keep: Collection[str] = (),
) -> Chat:
  """The conversation of an example.

  Args:
    element: The example, in one of the usual forms.
    key: Where its messages are; None finds out.
    reader: Who wants to know, for errors.
    keep: Keys that somebody else reads.

  Raises:
    KeyError: If it has none of the keys that are known.
    ValueError: If the value there is no conversation, or another key is
      refused.
  """
  if key is not None:
    messages = _chat_messages.messages_of(
      _paths.read(element, key, reader), key
    )
    # Other forms are left alone if somebody says which one is meant.
    others = *_CONVERSATIONS, *_PAIR, *_ALPACA, 'chosen', 'rejected'
    used: Sequence[str] = (key, *others)
  else:
    messages, used = _found(element, reader)
  check_keys(element, used, keep, reader)
  return with_setting(element, messages)


def with_setting(element: _paths.Element, messages: list[Message]) -> Chat:
  """Messages with the `system` and the `tools` that an example has beside.

  Raises:
    ValueError: If there are two system messages that differ, or either key has
      a value of another type.
  """
  system = _text.plain(element.get('system'))
  if not _keys.is_missing(system):
    system = _text.text_of(system, 'A task', 'system')
    first = messages[0]
    if first['role'] != 'system':
      messages = [{'role': 'system', 'content': system}, *messages]
    elif first.get('content') != system:
      raise ValueError(
        f"'system' is {_keys.short(system)}, but the conversation begins with "
        f'another system message, {_keys.short(first.get("content"))}. Leave '
        'one of them out.'
      )
  return Chat(messages, _tools(element.get('tools')))


def check_keys(
  element: _paths.Element,
  used: Collection[str],
  keep: Collection[str],
  reader: str,
) -> None:
  """Raises on keys that would change what is trained; warns of unknown ones.

  Args:
    element: The example.
    used: Keys that are read, and keys of other forms that go unread.
    keep: Keys that somebody else reads.
    reader: Who reads, for errors.
  """
  roots = {path.split('.')[0].split('[')[0] for path in (*used, *keep)}
  keys = _keys.Keys(
    kind=f'an example of {reader}',
    read=(*used, *keep, *roots, *_BESIDE),
    ignored=_IGNORED,
    refused={
      **_REFUSED,
      **dict.fromkeys(_CONVERSATIONS, _TWICE),
      **({'label': _UNPAIRED} if used == _PAIR else {}),
    },
  )
  keys.check('The example', element)


def _found(
  element: _paths.Element, reader: str
) -> tuple[list[Message], Sequence[str]]:
  """Messages, and the keys that they account for."""
  for key in _CONVERSATIONS:
    if element.get(key) is not None:
      # Preference data has all of these beside the conversation.
      used = (key, 'prompt', 'chosen', 'rejected')
      return _chat_messages.messages_of(element[key], key), used
  match element:
    case {'prompt': prompt, 'completion': completion}:
      messages = [
        *_chat_messages.messages_of(prompt, 'prompt', 'user'),
        *_chat_messages.messages_of(completion, 'completion', 'assistant'),
      ]
      return messages, _PAIR
    case {'instruction': _, 'output': _}:
      return _alpaca(element), _ALPACA
  raise KeyError(
    f'{reader} finds no conversation: the element has keys '
    f'{_paths.keys_of(element)}. Known forms are {", ".join(_FORMS)}; or say '
    'where the messages are with in_chat.'
  )


def _alpaca(element: _paths.Element) -> list[Message]:
  """The rounds of `history`, an instruction with its input, and the output."""
  texts = [_text.text_of(element['instruction'], 'A task', 'instruction')]
  if not _keys.is_missing(more := _text.plain(element.get('input'))):
    texts.append(_text.text_of(more, 'A task', 'input'))
  output = _text.text_of(element['output'], 'A task', 'output')
  rounds = [*_history(element.get('history')), ('\n\n'.join(texts), output)]
  return [
    {'role': role, 'content': text}
    for both in rounds
    for role, text in zip(('user', 'assistant'), both, strict=True)
  ]


def _history(value: Any) -> list[tuple[str, str]]:
  """Earlier rounds: pairs of what the user and the model said."""
  value = _text.plain(value)
  if _keys.is_missing(value):
    return []
  if isinstance(value, str | bytes):
    value = _chat_messages.decoded(value, 'history')
  out = []
  pairs = value if isinstance(value, list | tuple) else [value]
  for i, pair in enumerate(map(_text.plain, pairs)):
    if not isinstance(pair, list | tuple) or len(pair) != 2:
      raise ValueError(
        f"'history' has {_keys.short(pair)} as round {i} of "
        f'{_keys.short(value)}. Give a list of pairs [instruction, output].'
      )
    asked, said = (
      _text.text_of(text, 'A task', f'history[{i}]') for text in pair
    )
    out.append((asked, said))
  return out


def _tools(value: Any) -> list[Any]:
  """The tools of an example: a list, or the JSON of one."""
  value = _text.plain(value)
  if _keys.is_missing(value):
    return []
  if isinstance(value, str | bytes):
    value = _chat_messages.decoded(value, 'tools')
  if not isinstance(value, list | tuple):
    raise ValueError(
      f"'tools' is a {type(value).__name__}: {_keys.short(value)}. Give a list "
      'of declarations.'
    )
  return [_chat_messages.without_none(tool) for tool in value]
