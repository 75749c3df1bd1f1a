"""What a turn of a conversation is made of, besides text."""

from collections.abc import Mapping
import dataclasses
import enum
from typing import Any
from typing import TypeAlias


class Media(enum.Enum):
  """What is not text. The value is the name of its special token."""

  IMAGE = 'IMAGE_PLACEHOLDER'
  AUDIO = 'AUDIO_PLACEHOLDER'


@dataclasses.dataclass(frozen=True, eq=False)
class Attachment:
  """An image or a sound.

  Attributes:
    media: What it is.
    source: The image; None if it is given elsewhere.
  """

  media: Media
  source: Any = None


@dataclasses.dataclass(frozen=True)
class Think:
  """Asks the model to think before it answers."""


@dataclasses.dataclass(frozen=True)
class Thought:
  """What the model thought.

  Attributes:
    text: The thought, as it stands between its tags.
  """

  text: str


@dataclasses.dataclass(frozen=True)
class Tool:
  """What the model may call.

  Attributes:
    name: Its name.
    declaration: What it does, and its `parameters`.
  """

  name: str
  declaration: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class ToolCall:
  """The model calls a tool.

  Attributes:
    name: That of the tool.
    arguments: Values by their names.
  """

  name: str
  arguments: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class ToolResponse:
  """What a tool has to say.

  Attributes:
    name: That of the tool.
    response: A mapping, or any other JSON value.
  """

  name: str
  response: Any


Part: TypeAlias = (
  str | Attachment | Think | Thought | Tool | ToolCall | ToolResponse
)
