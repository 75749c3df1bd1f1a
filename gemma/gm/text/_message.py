"""One message of a conversation, as a dict, and the parts that it says."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import json
from typing import Any
from typing import TypeAlias

from gemma.gm.text import _content
from gemma.gm.text import _keys
from gemma.gm.text import _message_keys
from gemma.gm.text import _parts
from gemma.gm.text import _values

Message: TypeAlias = Mapping[str, Any]
ROLES = _message_keys.ROLES


def parts_of(i: int, message: Message) -> tuple[str, list[_parts.Part]]:
  """Role and parts of a message.

  Texts are trimmed, but for those of the system and of tools.

  Args:
    i: Its place in the conversation, for errors.
    message: A dict with `role` and `content`. One of the model may have its
      `reasoning_content` and `tool_calls` too; one of a `tool` has the tool's
      `name`, see `named`.

  Raises:
    TypeError: If it is no dict.
    ValueError: If something is missing, or of another form.
  """
  role = role_of(i, message)
  if ROLES.get(role) == 'tool':
    return role, [_response(i, message)]
  parts = content_of(i, message)
  if ROLES.get(role) == 'model':
    parts = [*_thoughts(i, message), *parts]
    parts += [_call(i, call) for call in _list_of(i, message, 'tool_calls')]
  return role, parts


def role_of(i: int, message: Message) -> str:
  """The role of a message.

  Raises:
    TypeError: If it is no dict.
    ValueError: If it has no role or content, or a key that is refused.
  """
  if not isinstance(message, Mapping):
    raise TypeError(
      f'Message {i} is a {type(message).__name__}, not a dict with role and '
      'content.'
    )
  calls = message.get('tool_calls') or message.get('tool_responses')
  needed = {'role'} if calls else {'role', 'content'}
  if not needed <= message.keys():
    raise ValueError(
      f'Message {i} has keys {sorted(map(str, message))}, but needs role and '
      'content.'
    )
  role = message['role']
  if not isinstance(role, str):
    raise ValueError(
      f'Message {i} has role {_keys.short(role)}; give one of '
      f'{", ".join(ROLES)}.'
    )
  keys = _message_keys.OF_ROLE
  keys.get(ROLES.get(role, ''), keys['other']).check(f'Message {i}', message)
  return role


def content_of(i: int, message: Message) -> list[_parts.Part]:
  """The texts and media in the `content` of a message."""
  content = message.get('content')
  if content is None and message.get('tool_calls'):
    return []
  trim = ROLES.get(message['role']) not in ('system', 'tool')
  return _content.parts_of(f'Message {i}', content, trim=trim)


def expanded(messages: Iterable[Message]) -> list[Message]:
  """Messages in which tools answer in messages of their own.

  Gemma's own form has `tool_responses` in the message of the model: the calls
  come first, then the responses, then the content.

  Args:
    messages: The messages.

  Raises:
    ValueError: If `tool_responses` are of another form.
  """
  out: list[Message] = []
  for i, message in enumerate(messages):
    role_of(i, message)
    responses = _list_of(i, message, 'tool_responses')
    if not responses:
      out.append(message)
      continue
    rest = {key: message[key] for key in message if key != 'tool_responses'}
    out.append({**rest, 'content': ''})
    out += [_responding(i, response) for response in responses]
    if not _keys.is_missing(message.get('content')):
      left = ('tool_calls', 'reasoning', 'reasoning_content')
      out.append({key: rest[key] for key in rest if key not in left})
  return out


def as_messages(
  role: str, parts: Sequence[_parts.Part]
) -> list[dict[str, Any]]:
  """A turn as messages: one, and one more for what each tool responded.

  There is none for a turn that says only how to answer: that is set elsewhere.
  """
  rest = [p for p in parts if not isinstance(p, _parts.Think | _parts.Tool)]
  if len(rest) < len(parts) and not ''.join(map(str, rest)).strip():
    return []
  out: list[dict[str, Any]] = []
  said: list[_parts.Part] = []
  for part in parts:
    if isinstance(part, _parts.ToolResponse):
      out += [_as_message(role, said)] if said else []
      said = []
      out.append({'role': 'tool', 'name': part.name, 'content': part.response})
    else:
      said.append(part)
  return out + ([_as_message(role, said)] if said or not out else [])


def as_calls(calls: Sequence[_parts.ToolCall]) -> list[dict[str, Any]]:
  """Calls in the form of a message's `tool_calls`."""
  return [
    {
      'type': 'function',
      'function': {'name': call.name, 'arguments': call.arguments},
    }
    for call in calls
  ]


def named(message: Message, calls: Sequence[Message], n: int) -> Message:
  """The message of a tool, with the tool's name.

  Args:
    message: The message.
    calls: The `tool_calls` that it answers one of.
    n: How many of them are answered already.

  Raises:
    ValueError: If it says no name, and no call tells it; or if it answers a
      call that there is not.
  """
  name = message.get('name')
  if name is not None and not isinstance(name, str):
    raise ValueError(
      f'A message of role tool has name {_keys.short(name)}. Give a string.'
    )
  wanted = message.get('tool_call_id')
  ids = [call.get('id') for call in calls]
  if wanted is not None and wanted in ids:
    return {**message, 'name': calls[ids.index(wanted)]['function']['name']}
  if name:
    return message
  if wanted is not None and calls and None not in ids:
    raise ValueError(
      f'A message of role tool has tool_call_id {_keys.short(wanted)}, but the '
      f'calls have {_keys.short(ids)}. Give one of these, or a name.'
    )
  if n >= len(calls):
    raise ValueError(
      f'A message of role tool has neither a name nor a call that it answers: '
      f'{_keys.short(message)}. Give the name of the tool as name.'
    )
  return {**message, 'name': calls[n]['function']['name']}


def _as_message(role: str, said: Sequence[_parts.Part]) -> dict[str, Any]:
  message: dict[str, Any] = {'role': role, 'content': _content.as_content(said)}
  thoughts = [p.text for p in said if isinstance(p, _parts.Thought)]
  if thoughts:
    message['reasoning_content'] = ''.join(thoughts).strip()
  calls = [p for p in said if isinstance(p, _parts.ToolCall)]
  if calls:
    message['tool_calls'] = as_calls(calls)
  return message


def _thoughts(i: int, message: Message) -> list[_parts.Part]:
  """The thought of a message, under either of its keys."""
  keys = [key for key in ('reasoning_content', 'reasoning') if message.get(key)]
  texts = [message[key] for key in keys]
  for key, text in zip(keys, texts, strict=True):
    if not isinstance(text, str):
      raise ValueError(
        f'Message {i} has {key}={_keys.short(text)}, a {type(text).__name__}. '
        'Give a string.'
      )
  if len({*texts}) > 1:
    raise ValueError(
      f'Message {i} has reasoning_content and reasoning, which differ. Give '
      'one of them.'
    )
  return [_parts.Thought(f'{text.strip()}\n') for text in texts[:1]]


def _list_of(i: int, message: Message, key: str) -> Sequence[Any]:
  """The list under a key; empty if there is none."""
  value = message.get(key)
  if value is None:
    return ()
  if not isinstance(value, list | tuple):
    raise ValueError(
      f'Message {i} has {key}={_keys.short(value)}, a {type(value).__name__}. '
      'Give a list of dicts.'
    )
  return value


def _call(i: int, call: Any) -> _parts.ToolCall:
  try:
    if call.get('type') not in (None, 'function'):
      raise ValueError(f'type is {_keys.short(call["type"])}')
    name = call['function']['name']
    arguments = call['function'].get('arguments', {})
    if isinstance(arguments, str):
      arguments = json.loads(arguments or '{}')
    if not isinstance(arguments, Mapping | None):
      raise TypeError(f'arguments are a {type(arguments).__name__}')
    if not isinstance(name, str) or not name:
      raise TypeError(f'name is {_keys.short(name)}')
    arguments = arguments or {}
    for _ in _values.write(arguments, 0):
      pass  # Raises on values that JSON has not.
  except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as e:
    raise ValueError(
      f'Message {i} has a tool call {_keys.short(call)}, of which cannot be '
      f"read: {e!r}. It is {{'type': 'function', 'function': {{'name': ..., "
      "'arguments': {...}}}."
    ) from e
  _message_keys.CALL.check(f'A tool call of message {i}', call)
  _message_keys.FUNCTION.check(f'A tool call of message {i}', call['function'])
  return _parts.ToolCall(name, arguments)


def _response(i: int, message: Message) -> _parts.ToolResponse:
  content = message['content']
  if isinstance(content, list | tuple):
    parts = content_of(i, message)
    content = _content.as_content(parts)
    if not isinstance(content, str):
      raise ValueError(
        f'Message {i} of a tool has media in it. Give text, or a dict.'
      )
  elif not isinstance(content, str | Mapping | int | float):
    raise ValueError(
      f'Message {i} of a tool has content of type {type(content).__name__}. '
      'Give text, or a dict.'
    )
  return _parts.ToolResponse(message.get('name') or '', content)


def _responding(i: int, response: Any) -> Message:
  """One of `tool_responses` as a message of the tool."""
  if not isinstance(response, Mapping) or 'response' not in response:
    raise ValueError(
      f'Message {i} has {_keys.short(response)} in tool_responses. Give dicts '
      'with name and response.'
    )
  _message_keys.RESPONSE.check(
    f'One of tool_responses of message {i}', response
  )
  message = {'role': 'tool', 'content': response['response']}
  name = response.get('name')
  return {**message, 'name': name} if name else message
