"""Conversations of every form, as turns of text and other parts."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any
from typing import Protocol
from typing import TypeAlias
from typing import TypeGuard
from typing import runtime_checkable

from gemma.gm.text import _from_dialog
from gemma.gm.text import _message
from gemma.gm.text import _parts

Message: TypeAlias = _message.Message
Said: TypeAlias = tuple[str, list[_parts.Part]]  # A role, and what it says.


@dataclasses.dataclass(frozen=True)
class Turn:
  """What one side says.

  Attributes:
    role: `system`, `user` or `model`; what tools respond is in the turn of the
      model that called them.
    parts: Texts and all that is between them.
  """

  role: str
  parts: tuple[_parts.Part, ...]


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
      message
      for turn in messages.turns
      for message in _message.as_messages(
        turn.ROLE, _from_dialog.parts_of(turn.chunks)
      )
    ]
  if isinstance(messages, str) or not isinstance(messages, Sequence):
    text = repr(messages)
    raise TypeError(
      f'The prompt is a {type(messages).__name__}: '
      f'{text if len(text) <= 60 else f"{text[:60]}..."}. Give a string, a '
      'list of dicts with role and content, or a dialog.Conversation.'
    )
  return _message.expanded(messages)


def images_of(content: Any) -> list[Any]:
  """The images of a message, in order; None where one is given elsewhere.

  Args:
    content: Text, or parts of it.
  """
  parts = _message.content_of(0, {'role': 'user', 'content': content})
  return [p.source for p in parts if is_image(p)]


def is_image(part: _parts.Part) -> TypeGuard[_parts.Attachment]:
  """Whether a part of a message is an image."""
  return (
    isinstance(part, _parts.Attachment) and part.media == _parts.Media.IMAGE
  )


def said_in(messages: Messages) -> list[Said]:
  """Who says what in a conversation.

  Args:
    messages: Dicts with role and content, or a `dialog.Conversation`.

  Raises:
    ValueError: If a message is of no known form.
  """
  if isinstance(messages, Conversation):
    return [
      (turn.ROLE, _from_dialog.parts_of(turn.chunks)) for turn in messages.turns
    ]
  named = _named(_message.expanded(messages))
  return [_message.parts_of(i, message) for i, message in enumerate(named)]


def turns_of(
  said: Sequence[Said], *, system_turn: bool = False, alternates: bool = True
) -> list[Turn]:
  """The turns of a conversation.

  Args:
    said: Who says what.
    system_turn: Whether a system message is a turn of its own, trimmed;
      otherwise it becomes the beginning of the user's first.
    alternates: Whether user and model have to take turns, as in `Format`.

  Raises:
    ValueError: If roles do not alternate from `user` on, if they have to; or if
      a tool responds that nobody called.
  """
  system: list[_parts.Part] = []
  turns: list[Turn] = []
  if said and _message.ROLES.get(said[0][0]) == 'system':
    system, said = said[0][1], said[1:]
    if system_turn:
      turns.append(as_system_turn(system))
  if not said:
    raise ValueError('The conversation has no user turn. Give at least one.')
  first = [] if system_turn or not system else [*system, '\n\n']
  before: str | None = None
  called = False
  for i, (role, parts) in enumerate(said):
    expected = next_roles(before, called=called)
    if not alternates:
      free = () if called and before == 'model' else ('user', 'model')
      expected = tuple(dict.fromkeys((*expected, *free, 'system')))
    kind = checked_role(i, role, expected)
    called = kind == 'model' and bool(calls_in(parts))
    goes_on = before in ('model', 'tool') and kind in ('model', 'tool')
    if goes_on:
      turns[-1] = Turn('model', (*turns[-1].parts, *parts))
    elif kind == 'system':
      turns.append(as_system_turn(parts))
    else:
      turns.append(Turn(kind, (*first, *parts)))
    first = []
    before = kind
  return turns


def as_system_turn(parts: Iterable[_parts.Part]) -> Turn:
  """A system message as a turn of its own."""
  trimmed = (p.strip() if isinstance(p, str) else p for p in parts)
  return Turn('system', tuple(trimmed))


def next_roles(before: str | None, *, called: bool) -> tuple[str, ...]:
  """Who may speak next.

  Args:
    before: Who spoke last.
    called: Whether tools were called then.
  """
  match before:
    case 'user':
      return ('model',)
    case 'tool':
      return ('model', 'tool')
    case 'model' if called:
      return ('user', 'tool')
    case _:
      return ('user',)


def checked_role(i: int, role: str, expected: Sequence[str]) -> str:
  """What a role is called in turns; raises if it is none of the expected."""
  kind = _message.ROLES.get(role, role)
  if kind not in expected:
    wanted = ' or '.join(map(repr, expected))
    rule = 'turns alternate, beginning with the user'
    if 'system' in expected:
      rule = 'a tool responds to a call of the model'
    raise ValueError(
      f'Turn {i} has role {role!r}, but must be {wanted}: {rule}.'
    )
  return kind


def calls_in(parts: Iterable[_parts.Part]) -> list[_parts.ToolCall]:
  """The calls among some parts."""
  return [part for part in parts if isinstance(part, _parts.ToolCall)]


def _named(messages: Sequence[Message]) -> Iterator[Message]:
  """Messages, those of tools with the name of the tool."""
  calls: Sequence[Message] = ()
  answered = 0
  for i, message in enumerate(messages):
    if _message.role_of(i, message) == 'tool' and calls:
      yield _message.named(message, calls, answered)
      answered += 1
    elif message['role'] == 'tool':
      yield message  # That it answers no call is said elsewhere.
    else:
      calls, answered = message.get('tool_calls') or (), 0
      yield message
