"""Messages as files of examples spell them, and as `encode_chat` takes them."""

from collections.abc import Mapping
from collections.abc import Sequence
import json
from typing import Any

from gemma.gm.data import _text
from gemma.gm.text import _keys

Message = dict[str, Any]

# Roles in files: OpenAI, ShareGPT, LlamaFactory, ms-swift, Axolotl.
_ROLES = {
  'human': 'user',
  'user': 'user',
  'gpt': 'assistant',
  'chatgpt': 'assistant',
  'bing': 'assistant',
  'bard': 'assistant',
  'bot': 'assistant',
  'assistant': 'assistant',
  'model': 'assistant',
  'system': 'system',
  'developer': 'system',
  'tool': 'tool',
  'function': 'tool',
  'observation': 'tool',
  'tool_response': 'tool',
  'function_call': 'call',
  'tool_call': 'call',
}
_NAMES = {'from': 'role', 'value': 'content'}


def messages_of(value: Any, key: str, role: str | None = None) -> list[Message]:
  """Messages of a value: a list of them, one, or the text of one.

  Args:
    value: The value.
    key: Its key, for errors.
    role: The role of a text. None for a field that holds a conversation: its
      text is JSON.

  Raises:
    ValueError: If it is no conversation.
  """
  value = _text.plain(value)
  if isinstance(value, str | bytes) and role is not None:
    return [{'role': role, 'content': _text.text_of(value, 'A task', key)}]
  if isinstance(value, str | bytes):
    value = decoded(value, key)
  if isinstance(value, Mapping):
    value = [value]
  if not isinstance(value, list | tuple) or not value:
    raise ValueError(
      f'{key!r} is no conversation: {_keys.short(value)}. Give '
      f'{"text, or " * (role is not None)}a list of dicts with role and '
      'content.'
    )
  out: list[Message] = []
  for i, message in enumerate(value):
    _add(out, _message(f'{key}[{i}]', message))
  return out


def decoded(value: str | bytes, key: str) -> Any:
  """The value that a text spells as JSON.

  Args:
    value: The text.
    key: Its key, for the error.

  Raises:
    ValueError: If it is no JSON.
  """
  try:
    return json.loads(value)
  except (ValueError, RecursionError) as e:
    raise ValueError(
      f'{key!r} is text, but not JSON: {_keys.short(value)}. Give a list of '
      f'dicts, or the JSON of one. {type(e).__name__}.'
    ) from e


def without_none(value: Any) -> Any:
  """A value without the None that tables have where other rows have a key."""
  value = _text.plain(value)
  if isinstance(value, Mapping):
    return {
      key: without_none(item) for key, item in value.items() if item is not None
    }
  if isinstance(value, list | tuple):
    return [without_none(item) for item in value]
  return value


def _message(where: str, message: Any) -> Message:
  """A message with the names and roles of `encode_chat`."""
  message = _text.plain(message)
  if not isinstance(message, Mapping):
    raise ValueError(
      f'{where} is no message but a {type(message).__name__}: '
      f'{_keys.short(message)}. Give a dict with role and content.'
    )
  out: Message = {}
  for key, value in without_none(message).items():
    name = _NAMES.get(key, key)
    if name in out:
      raise ValueError(
        f'{where} has {key} and another key for the same. Give one of them.'
      )
    out[name] = value
  role = out.get('role')
  if not isinstance(role, str) or role not in _ROLES:
    raise ValueError(
      f'{where} has role {_keys.short(role)}. Known are {", ".join(_ROLES)}.'
    )
  out['role'] = _ROLES[role]
  return _calling(where, out) if out['role'] == 'call' else out


def _calling(where: str, message: Message) -> Message:
  """A message whose content is the JSON of a call, or of several."""
  calls = message.get('content')
  if isinstance(calls, str):
    calls = decoded(calls, f'{where}.content')
  calls = [calls] if isinstance(calls, Mapping) else calls
  if not isinstance(calls, list) or not calls:
    raise ValueError(
      f'{where} has no call of a tool: {_keys.short(calls)}. Give the JSON of '
      'a dict with name and arguments, or of a list of these.'
    )
  for call in calls:
    if not isinstance(call, Mapping) or not {'name', 'arguments'} <= {*call}:
      raise ValueError(
        f'{where} has {_keys.short(call)} as a call of a tool. Give a dict '
        'with name and arguments.'
      )
  return {
    **message,
    'role': 'assistant',
    'content': '',
    'tool_calls': [{'type': 'function', 'function': call} for call in calls],
  }


def _add(out: list[Message], message: Message) -> None:
  """Appends a message; calls of tools side by side are one message."""
  before: Mapping[str, Any] = out[-1] if out else {}
  both = [
    {key: m.get(key) for key in m if key != 'tool_calls'}
    for m in (before, message)
  ]
  calls: Sequence[Any] = before.get('tool_calls') or ()
  if calls and message.get('tool_calls') and both[0] == both[1]:
    out[-1] = {**before, 'tool_calls': [*calls, *message['tool_calls']]}
  else:
    out.append(message)
