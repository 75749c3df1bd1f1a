"""Conversations of every form, as turns of text and media."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import enum
from typing import Any
from typing import Protocol
from typing import TypeAlias
from typing import TypeGuard
from typing import runtime_checkable

Message: TypeAlias = Mapping[str, Any]
ROLES = {'user': 'user', 'assistant': 'model', 'model': 'model'}
_KINDS = ('Text', 'Image', 'Audio', 'Thought')  # Chunks of `dialog`.


class Media(enum.Enum):
  """What is not text. The value is the name of its special token."""

  IMAGE = 'IMAGE_PLACEHOLDER'
  AUDIO = 'AUDIO_PLACEHOLDER'


Part: TypeAlias = str | Media


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
      {'role': turn.ROLE, 'content': _as_content(_of_chunks(turn.chunks))}
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


def _as_content(parts: Sequence[Part]) -> Any:
  """Parts as the content of a message."""
  if all(isinstance(part, str) for part in parts):
    return ''.join(map(str, parts))
  return [
    {'type': 'text', 'text': part}
    if isinstance(part, str)
    else {'type': part.name.lower()}
    for part in parts
  ]


def text_of(content: Any) -> str:
  """The text of what a model said, trimmed.

  Args:
    content: Text, or parts of it.

  Raises:
    ValueError: If a part is no text: these models say nothing else.
  """
  _, parts = _of_message(0, {'role': 'model', 'content': content})
  media = [part.name.lower() for part in parts if isinstance(part, Media)]
  if media:
    raise ValueError(f'The model says an {media[0]}, but it writes text only.')
  return ''.join(map(str, parts))


def to_dialog(messages: Sequence[Message]) -> Any:
  """Messages as a `dialog.Conversation`.

  Raises:
    ImportError: If the package `dialog` is not installed.
  """
  try:
    import dialog
  except ImportError as e:
    raise ImportError(
      'A dialog.Conversation needs the package dialog: pip install dialog. '
      'ChatSampler.messages has the same without it.'
    ) from e
  kinds = {'system': dialog.System, 'user': dialog.User, 'model': dialog.Model}
  return dialog.Conversation(
    *(kinds[message['role']](message['content']) for message in messages)
  )


def turns_of(messages: Messages) -> list[Turn]:
  """The turns of a conversation, from the user's first on.

  A system message becomes the beginning of the first.

  Args:
    messages: Dicts with role and content, or a `dialog.Conversation`.

  Raises:
    ValueError: If roles do not alternate from `user` on, or if a part is of a
      kind that these models have no tags for.
  """
  if isinstance(messages, Conversation):
    said = [(turn.ROLE, _of_chunks(turn.chunks)) for turn in messages.turns]
  else:
    said = [_of_message(i, message) for i, message in enumerate(messages)]
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
    return Media.IMAGE
  if kind == 'audio':
    return Media.AUDIO
  raise ValueError(
    f'Message {i} has a part {_short(part)} of type {kind!r}. Parts are '
    "{'type': 'text', 'text': ...}, {'type': 'image'} and {'type': 'audio'}."
  )


def _of_chunks(chunks: Sequence[Any]) -> list[Part]:
  """Parts of a turn of `dialog`, which is told by the names of its classes."""
  parts: list[Part] = []
  for chunk in chunks:
    match _kind(chunk):
      case 'Text':
        parts.append(chunk.text)
      case 'Image':
        parts.append(Media.IMAGE)
      case 'Audio':
        parts.append(Media.AUDIO)
      case 'Thought':
        thought = _of_chunks(chunk.chunks)
        parts += ['<start_receiver>thought\n', *thought, '<end_receiver>']
      case _:
        raise ValueError(
          f'The conversation has a {type(chunk).__name__}, for which these '
          f'models have no tags: they know {", ".join(_KINDS)}.'
        )
  return parts


def _kind(chunk: Any) -> str | None:
  """The name of the class, or of the base class, that is known."""
  names = [base.__name__ for base in type(chunk).__mro__]
  return next((name for name in names if name in _KINDS), None)


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 60 else f'{text[:60]}...'
