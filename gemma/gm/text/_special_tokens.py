"""Ids of the tokens that are not text, written once."""

import enum
from typing import Any


class _Printed(enum.EnumMeta):
  """Enum classes that print their members."""

  def __repr__(cls) -> str:
    members: dict[str, Any] = {**cls.__members__}
    lines = [f'  {name}={int(member)}' for name, member in members.items()]
    return '\n'.join([f'{cls.__name__}:', *lines])


class SpecialTokens(enum.IntEnum, metaclass=_Printed):
  """Base of the special tokens of a vocabulary."""


class Gemma2Tokens(SpecialTokens):
  """Gemma 1 and 2. `CUSTOM` is the id of `<unused0>`."""

  PAD = 0
  EOS = 1
  BOS = 2
  UNK = 3
  MASK = 4
  CUSTOM = 7
  START_OF_TURN = 106
  END_OF_TURN = 107


class Gemma3Tokens(SpecialTokens):
  """Gemma 3. A prompt has `IMAGE_PLACEHOLDER` where an image goes.

  `BEGIN_OF_TOOL_RESPONSE` is `<unused44>` for a model without tools.
  """

  PAD = 0
  EOS = 1
  BOS = 2
  UNK = 3
  MASK = 4
  CUSTOM = 6
  BEGIN_OF_TOOL_RESPONSE = 50
  START_OF_TURN = 105
  END_OF_TURN = 106
  IMAGE_PLACEHOLDER = 255999
  START_OF_IMAGE = 255999
  END_OF_IMAGE = 256000


class Gemma3nTokens(SpecialTokens):
  """Gemma 3n: those of Gemma 3.

  Files differ in what they call 256000: the end of an image, as Gemma 3 does,
  or the start of a sound.
  """

  PAD = 0
  EOS = 1
  BOS = 2
  UNK = 3
  MASK = 4
  CUSTOM = 6
  BEGIN_OF_TOOL_RESPONSE = 50
  START_OF_TURN = 105
  END_OF_TURN = 106
  IMAGE_PLACEHOLDER = 255999
  START_OF_IMAGE = 255999
  END_OF_IMAGE = 256000
  START_OF_AUDIO = 256000


class Gemma3TinyTokens(SpecialTokens):
  """The bundled model: as Gemma 3, with image ids inside its small table."""

  PAD = 0
  EOS = 1
  BOS = 2
  UNK = 3
  MASK = 4
  CUSTOM = 6
  BEGIN_OF_TOOL_RESPONSE = 50
  START_OF_TURN = 105
  END_OF_TURN = 106
  IMAGE_PLACEHOLDER = 110
  START_OF_IMAGE = 110
  END_OF_IMAGE = 111


# Members that stand for a tag in text; the others never come from text.
TAGS = {
  'START_OF_TURN': '<start_of_turn>',
  'END_OF_TURN': '<end_of_turn>',
  'START_OF_IMAGE': '<start_of_image>',
  'END_OF_IMAGE': '<end_of_image>',
  'START_OF_AUDIO': '<start_of_audio>',
}


def tags_of(special: type[enum.IntEnum]) -> dict[int, list[str]]:
  """The tags of a vocabulary: what the file may have at each of their ids."""
  out: dict[int, list[str]] = {}
  for name, tag in TAGS.items():
    if name in special.__members__:
      out.setdefault(special[name], []).append(tag)
  return out
