"""Conversations as files of examples have them, and as messages."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import json
from typing import Any

import numpy as np

from gemma.gm.data import _paths

Message = dict[str, Any]

# What roles are called in files, and what here.
_ROLES = {
  'human': 'user',
  'user': 'user',
  'gpt': 'assistant',
  'chatgpt': 'assistant',
  'assistant': 'assistant',
  'model': 'assistant',
  'system': 'system',
  'developer': 'system',
  'tool': 'tool',
  'function': 'tool',
  'observation': 'tool',
}
_FORMS = (
  "{'messages': [{'role', 'content'}, ...]}",
  "{'conversations': [{'from', 'value'}, ...]}",
  "{'prompt', 'completion'}",
  "{'instruction', 'input', 'output'}",
)


@dataclasses.dataclass(frozen=True)
class Chat:
  """A conversation.

  Attributes:
    messages: Dicts with `role` and `content`.
    tools: What the model may call.
  """

  messages: list[Message]
  tools: list[Any]


def chat_of(element: _paths.Element, key: str | None, reader: str) -> Chat:
  """The conversation of an example.

  Args:
    element: The example, in one of the usual forms.
    key: Where its messages are; None finds out.
    reader: Who wants to know, for errors.

  Raises:
    KeyError: If it has none of the keys that are known.
    ValueError: If what is there is no conversation.
  """
  if key is not None:
    messages = messages_of(_paths.read(element, key, reader), key)
  else:
    messages = _found(element, reader)
  return with_setting(element, messages)


def with_setting(element: _paths.Element, messages: list[Message]) -> Chat:
  """Messages with the `system` and the `tools` that an example has beside."""
  system = element.get('system')
  if isinstance(system, str) and system and messages[0]['role'] != 'system':
    messages = [{'role': 'system', 'content': system}, *messages]
  return Chat(messages, _decoded(element.get('tools')) or [])


def messages_of(value: Any, key: str, role: str = 'user') -> list[Message]:
  """Messages of a value: a list of them, one, or the text of one.

  Args:
    value: The value; a list may be written as JSON.
    key: Its key, for errors.
    role: Who says it, if it is but a text.
  """
  value = _decoded(value)
  if isinstance(value, bytes):
    value = value.decode()
  if isinstance(value, str):
    return [{'role': role, 'content': value}]
  if isinstance(value, Mapping):
    value = [value]
  if not isinstance(value, Sequence) or not value:
    raise ValueError(
      f'{key!r} is no conversation: {value!r:.60}. Give text, or a list of '
      'dicts with role and content.'
    )
  return [_message(i, message, key) for i, message in enumerate(value)]


def _found(element: _paths.Element, reader: str) -> list[Message]:
  for key in ('messages', 'conversations', 'conversation'):
    if element.get(key) is not None:
      return messages_of(element[key], key)
  match element:
    case {'prompt': prompt, 'completion': completion}:
      return [
        *messages_of(prompt, 'prompt'),
        *messages_of(completion, 'completion', 'assistant'),
      ]
    case {'instruction': instruction, 'output': output}:
      texts = [instruction, element.get('input')]
      return [
        {'role': 'user', 'content': '\n\n'.join(t for t in texts if t)},
        {'role': 'assistant', 'content': output},
      ]
  raise KeyError(
    f'{reader} finds no conversation: the element has keys '
    f'{_paths.keys_of(element)}. Known forms are {", ".join(_FORMS)}; or say '
    'where the messages are with in_chat.'
  )


def _message(i: int, message: Any, key: str) -> Message:
  """A message with the names that are used here."""
  if not isinstance(message, Mapping):
    raise ValueError(
      f'{key}[{i}] is no message but a {type(message).__name__}: '
      f'{message!r:.60}. Give a dict with role and content.'
    )
  out = dict(_without_none(message))
  if 'from' in out:
    out['role'] = out.pop('from')
    out['content'] = out.pop('value', '')
  role = out.get('role')
  if role not in _ROLES:
    raise ValueError(
      f'{key}[{i}] has role {role!r}. Known are {", ".join(_ROLES)}.'
    )
  out['role'] = _ROLES[role]
  return out


def _without_none(value: Any) -> Any:
  """Tables have None where a message of another row has a key."""
  if isinstance(value, np.ndarray):
    value = value.tolist()
  if isinstance(value, Mapping):
    return {
      key: _without_none(item)
      for key, item in value.items()
      if item is not None
    }
  if isinstance(value, list | tuple):
    return [_without_none(item) for item in value]
  return value


def _decoded(value: Any) -> Any:
  """A list that may be written as JSON, or be an array of dicts."""
  if isinstance(value, np.ndarray):
    return value.tolist()
  if isinstance(value, str) and value.lstrip().startswith(('[{', '[ {')):
    try:
      return json.loads(value)
    except ValueError:
      return value  # A text that begins with a bracket.
  return value
