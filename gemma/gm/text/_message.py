"""One message of a conversation, as a dict, and what is in it."""

from collections.abc import Mapping
from collections.abc import Sequence
import json
from typing import Any
from typing import TypeAlias

from gemma.gm.text import _parts

Message: TypeAlias = Mapping[str, Any]
# What roles are called in turns.
ROLES = {
  'system': 'system',
  'developer': 'system',
  'user': 'user',
  'assistant': 'model',
  'model': 'model',
  'tool': 'tool',
}
# Keys of an image in a part of a message.
_SOURCES = ('image', 'url', 'path', 'base64')


def parts_of(i: int, message: Message) -> tuple[str, list[_parts.Part]]:
  """Role and parts of a message; all but a system message is trimmed.

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
    thought = message.get('reasoning_content') or message.get('reasoning')
    if thought:
      parts = [_parts.Thought(f'{thought.strip()}\n'), *parts]
    parts += [_call(i, call) for call in message.get('tool_calls') or ()]
  return role, parts


def role_of(i: int, message: Message) -> str:
  """Who says a message; raises if it is none."""
  if not isinstance(message, Mapping):
    raise TypeError(
      f'Message {i} is a {type(message).__name__}, not a dict with role and '
      'content.'
    )
  needed = {'role'} if message.get('tool_calls') else {'role', 'content'}
  if not needed <= message.keys():
    raise ValueError(
      f'Message {i} has keys {sorted(message)}, but needs role and content.'
    )
  return message['role']


def content_of(i: int, message: Message) -> list[_parts.Part]:
  """What the `content` of a message is made of: texts and media."""
  content = message.get('content')
  if content is None and message.get('tool_calls'):
    return []
  if isinstance(content, str):
    content = [{'type': 'text', 'text': content}]
  if not isinstance(content, Sequence):
    raise ValueError(
      f'Message {i} has content of type {type(content).__name__}, but needs a '
      "string, or a list of parts such as {'type': 'text', 'text': ...}."
    )
  parts = [_of_part(i, part) for part in content]
  if message['role'] != 'system':
    parts = [p.strip() if isinstance(p, str) else p for p in parts]
  return parts


def as_content(parts: Sequence[_parts.Part]) -> Any:
  """Texts and media as the content of a message: text, or a list of dicts.

  Other parts are left out: they have keys of their own.
  """
  kept = [p for p in parts if isinstance(p, str | _parts.Attachment)]
  if all(isinstance(part, str) for part in kept):
    return ''.join(map(str, kept))
  out: list[dict[str, Any]] = []
  for part in kept:
    if isinstance(part, str):
      out.append({'type': 'text', 'text': part})
    else:
      kind = part.media.name.lower()
      source = {} if part.source is None else {kind: part.source}
      out.append({'type': kind, **source})
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
    ValueError: If it says no name, and no call tells it.
  """
  if message.get('name'):
    return message
  wanted = message.get('tool_call_id')
  ids = [call.get('id') for call in calls]
  if wanted is not None and wanted in ids:
    n = ids.index(wanted)
  if n >= len(calls):
    raise ValueError(
      f'A message of role tool has neither a name nor a call that it answers: '
      f'{_short(message)}. Give the name of the tool as name.'
    )
  return {**message, 'name': calls[n]['function']['name']}


def _as_message(role: str, said: Sequence[_parts.Part]) -> dict[str, Any]:
  message: dict[str, Any] = {'role': role, 'content': as_content(said)}
  thoughts = [p.text for p in said if isinstance(p, _parts.Thought)]
  if thoughts:
    message['reasoning_content'] = ''.join(thoughts).strip()
  calls = [p for p in said if isinstance(p, _parts.ToolCall)]
  if calls:
    message['tool_calls'] = as_calls(calls)
  return message


def _call(i: int, call: Any) -> _parts.ToolCall:
  try:
    name, arguments = call['function']['name'], call['function']['arguments']
    if isinstance(arguments, str):
      arguments = json.loads(arguments or '{}')
    if not isinstance(arguments, Mapping):
      raise TypeError(f'arguments are a {type(arguments).__name__}')
  except (KeyError, TypeError, ValueError) as e:
    raise ValueError(
      f'Message {i} has a tool call {_short(call)}, of which cannot be read: '
      f"{e!r}. It is {{'type': 'function', 'function': {{'name': ..., "
      "'arguments': {...}}}."
    ) from e
  return _parts.ToolCall(name, arguments)


def _response(i: int, message: Message) -> _parts.ToolResponse:
  content = message['content']
  if not isinstance(content, str | Mapping):
    parts = content_of(i, {'role': 'tool', 'content': content})
    content = as_content(parts)
    if not isinstance(content, str):
      raise ValueError(
        f'Message {i} of a tool has media in it. Give text, or a dict.'
      )
  return _parts.ToolResponse(message.get('name') or '', content)


def _of_part(i: int, part: Any) -> _parts.Part:
  kind = part.get('type') if isinstance(part, Mapping) else None
  if kind == 'text' and isinstance(part.get('text'), str):
    return part['text']
  if kind == 'image':
    return _parts.Attachment(_parts.Media.IMAGE, _source(i, part))
  if kind == 'audio':
    return _parts.Attachment(_parts.Media.AUDIO)
  raise ValueError(
    f'Message {i} has a part {_short(part)} of type {kind!r}. Parts are '
    "{'type': 'text', 'text': ...}, {'type': 'image', 'image': ...} and "
    "{'type': 'audio'}."
  )


def _source(i: int, part: Message) -> Any:
  """The image of a part, under any of the keys that chat formats have."""
  found = [key for key in _SOURCES if part.get(key) is not None]
  if len(found) > 1:
    raise ValueError(
      f'Message {i} has an image part with {" and ".join(found)}. Give the '
      'image once.'
    )
  if not found:
    return None
  source = part[found[0]]
  return f'data:;base64,{source}' if found == ['base64'] else source


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 60 else f'{text[:60]}...'
