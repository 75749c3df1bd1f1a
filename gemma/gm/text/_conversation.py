"""Conversations of every form, as turns of text and media."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import enum
import os
from typing import Any
from typing import Protocol
from typing import TypeAlias
from typing import TypeGuard
from typing import runtime_checkable

import numpy as np

Message: TypeAlias = Mapping[str, Any]
ROLES = {'user': 'user', 'assistant': 'model', 'model': 'model'}
# Keys of an image in a part of a message.
_SOURCES = ('image', 'url', 'path', 'base64')
_KINDS = ('Text', 'Image', 'Audio', 'Thought')  # Chunks of `dialog`.


class Media(enum.Enum):
  """What is not text. The value is the name of its special token."""

  IMAGE = 'IMAGE_PLACEHOLDER'
  AUDIO = 'AUDIO_PLACEHOLDER'


@dataclasses.dataclass(frozen=True, eq=False)
class Attachment:
  """A part that is not text.

  Attributes:
    media: What it is.
    source: The image; None if it is given elsewhere.
  """

  media: Media
  source: Any = None


Part: TypeAlias = str | Attachment
Said: TypeAlias = tuple[str, list[Part]]  # A role, and what it says.


@dataclasses.dataclass(frozen=True)
class Turn:
  """What one side says.

  Attributes:
    role: `user` or `model`.
    parts: Texts, and where media go between them.
  """

  role: str
  parts: tuple[Part, ...]


@runtime_checkable
class Conversation(Protocol):
  """What a `dialog.Conversation` has: turns with a `ROLE` and `chunks`."""

  @property
  def turns(self) -> Sequence[Any]:
    """What was said, in order."""

  def as_text(self) -> str:
    """All of it, with tags."""


Messages: TypeAlias = Sequence[Message] | Conversation


def is_conversation(value: Any) -> TypeGuard[Messages]:
  """Whether `encode_chat` takes it: messages, or a `dialog.Conversation`."""
  if isinstance(value, Conversation):
    return True
  if isinstance(value, str) or not isinstance(value, Sequence):
    return False
  return bool(value) and all(isinstance(message, Mapping) for message in value)


def as_messages(messages: Any) -> list[Message]:
  """A conversation as dicts with `role` and `content`.

  Args:
    messages: Such dicts, or a `dialog.Conversation`.

  Raises:
    TypeError: If it is neither.
  """
  if isinstance(messages, Conversation):  # Not a sequence: told apart here.
    return [
      {'role': turn.ROLE, 'content': as_content(_of_chunks(turn.chunks))}
      for turn in messages.turns
    ]
  if isinstance(messages, str) or not isinstance(messages, Sequence):
    raise TypeError(
      f'The prompt is a {type(messages).__name__}: {_short(messages)}. Give a '
      'string, a list of dicts with role and content, or a '
      'dialog.Conversation.'
    )
  for i, message in enumerate(messages):
    _of_message(i, message)  # Raises if it has no role or content.
  return [*messages]


def as_content(parts: Sequence[Part]) -> Any:
  """Parts as the content of a message: text, or a list of dicts."""
  if all(isinstance(part, str) for part in parts):
    return ''.join(map(str, parts))
  out: list[dict[str, Any]] = []
  for part in parts:
    if isinstance(part, str):
      out.append({'type': 'text', 'text': part})
    else:
      kind = part.media.name.lower()
      source = {} if part.source is None else {kind: part.source}
      out.append({'type': kind, **source})
  return out


def text_of(content: Any) -> str:
  """The text of what a model said, trimmed.

  Args:
    content: Text, or parts of it.

  Raises:
    ValueError: If a part is no text: these models say nothing else.
  """
  _, parts = _of_message(0, {'role': 'model', 'content': content})
  for part in parts:
    if isinstance(part, Attachment):
      kind = part.media.name.lower()
      raise ValueError(f'The model says an {kind}, but it writes text only.')
  return ''.join(map(str, parts))


def images_of(content: Any) -> list[Any]:
  """The images of a message, in order; None where one is given elsewhere.

  Args:
    content: Text, or parts of it.
  """
  _, parts = _of_message(0, {'role': 'user', 'content': content})
  return [p.source for p in parts if is_image(p)]


def is_image(part: Part) -> TypeGuard[Attachment]:
  """Whether a part of a message is an image."""
  return isinstance(part, Attachment) and part.media == Media.IMAGE


def said_in(messages: Messages) -> list[Said]:
  """Who says what in a conversation.

  Args:
    messages: Dicts with role and content, or a `dialog.Conversation`.

  Raises:
    ValueError: If a part is of a kind that these models have no tags for.
  """
  if isinstance(messages, Conversation):
    return [(turn.ROLE, _of_chunks(turn.chunks)) for turn in messages.turns]
  return [_of_message(i, message) for i, message in enumerate(messages)]


def turns_of(said: Sequence[Said]) -> list[Turn]:
  """The turns of a conversation, from the user's first on.

  A system message becomes the beginning of the first.

  Args:
    said: Who says what.

  Raises:
    ValueError: If roles do not alternate from `user` on.
  """
  system: list[Part] = []
  if said and said[0][0] == 'system':
    system = [*said[0][1], '\n\n']
    said = said[1:]
  if not said:
    raise ValueError('The conversation has no user turn. Give at least one.')
  turns = []
  for i, (role, parts) in enumerate(said):
    expected = 'model' if i % 2 else 'user'
    if ROLES.get(role) != expected:
      raise ValueError(
        f'Turn {i} has role {role!r}, but must be {expected!r}: '
        'turns alternate, beginning with the user.'
      )
    turns.append(Turn(expected, (*(system if i == 0 else ()), *parts)))
  return turns


def _of_message(i: int, message: Message) -> tuple[str, list[Part]]:
  """Role and parts of a message; all but a system message is trimmed."""
  if not isinstance(message, Mapping):
    raise TypeError(
      f'Message {i} is a {type(message).__name__}, not a dict with role and '
      'content.'
    )
  if not {'role', 'content'} <= message.keys():
    raise ValueError(
      f'Message {i} has keys {sorted(message)}, but needs role and content.'
    )
  role, content = message['role'], message['content']
  if isinstance(content, str):
    content = [{'type': 'text', 'text': content}]
  if not isinstance(content, Sequence):
    raise ValueError(
      f'Message {i} has content of type {type(content).__name__}, but needs a '
      "string, or a list of parts such as {'type': 'text', 'text': ...}."
    )
  parts = [_of_part(i, part) for part in content]
  if role != 'system':
    parts = [p.strip() if isinstance(p, str) else p for p in parts]
  return role, parts


def _of_part(i: int, part: Any) -> Part:
  kind = part.get('type') if isinstance(part, Mapping) else None
  if kind == 'text' and isinstance(part.get('text'), str):
    return part['text']
  if kind == 'image':
    return Attachment(Media.IMAGE, _source(i, part))
  if kind == 'audio':
    return Attachment(Media.AUDIO)
  raise ValueError(
    f'Message {i} has a part {_short(part)} of type {kind!r}. Parts are '
    "{'type': 'text', 'text': ...}, {'type': 'image', 'image': ...} and "
    "{'type': 'audio'}."
  )


def _source(i: int, part: Mapping[str, Any]) -> Any:
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


def _of_chunks(chunks: Sequence[Any]) -> list[Part]:
  """Parts of a turn of `dialog`, which is told by the names of its classes."""
  parts: list[Part] = []
  for chunk in chunks:
    match _kind(chunk):
      case 'Text':
        parts.append(chunk.text)
      case 'Image':
        parts.append(Attachment(Media.IMAGE, _data_of(chunk)))
      case 'Audio':
        parts.append(Attachment(Media.AUDIO))
      case 'Thought':
        thought = _of_chunks(chunk.chunks)
        parts += ['<start_receiver>thought\n', *thought, '<end_receiver>']
      case _:
        raise ValueError(
          f'The conversation has a {type(chunk).__name__}, for which these '
          f'models have no tags: they know {", ".join(_KINDS)}.'
        )
  return parts


def _data_of(chunk: Any) -> Any:
  """What an `Image` of `dialog` was made from; None if that is missing."""
  match chunk.data:
    case np.ndarray():
      return chunk.data
    case object(path=path):
      return os.fspath(path)
    case object(url=url):
      return url  # Which is not fetched: an error says so.
    case object(data=data):
      return data
    case _:
      return None


def _kind(chunk: Any) -> str | None:
  """The name of the class, or of the base class, that is known."""
  names = [base.__name__ for base in type(chunk).__mro__]
  return next((name for name in names if name in _KINDS), None)


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 60 else f'{text[:60]}...'
