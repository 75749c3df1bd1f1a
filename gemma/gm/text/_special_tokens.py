"""Ids of the tokens that are not text, written once."""

from collections.abc import Mapping
import enum
from typing import Any


class _Printed(enum.EnumMeta):
  """Enum classes that print their members."""

  def __repr__(cls) -> str:
    members: dict[str, Any] = {**cls.__members__}
    lines = [f'  {name}={int(member)}' for name, member in members.items()]
    return '\n'.join([f'{cls.__name__}:', *lines])


class Format(enum.StrEnum):
  """Which tags stand for control tokens in text."""

  GEMMA3 = 'gemma3'
  GEMMA4 = 'gemma4'


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


class Gemma4Tokens(SpecialTokens):
  """Gemma 4. A prompt has a placeholder where an image or a sound goes.

  Thoughts, tools, their calls and their responses have tags; `QUOTE` is around
  the strings in these. `CUSTOM` is the id of `<unused0>`: unused tokens that
  have become one of the tags cannot be custom tokens.
  """

  PAD = 0
  EOS = 1
  BOS = 2
  UNK = 3
  MASK = 4
  CUSTOM = 6
  BEGIN_OF_TOOL = 46
  END_OF_TOOL = 47
  BEGIN_OF_TOOL_CALL = 48
  END_OF_TOOL_CALL = 49
  BEGIN_OF_TOOL_RESPONSE = 50
  END_OF_TOOL_RESPONSE = 51
  QUOTE = 52
  THINK = 98
  START_OF_CHANNEL = 100
  END_OF_CHANNEL = 101
  START_OF_TURN = 105
  END_OF_TURN = 106
  START_OF_IMAGE = 255999
  START_OF_AUDIO = 256000
  IMAGE_PLACEHOLDER = 258880
  AUDIO_PLACEHOLDER = 258881
  END_OF_IMAGE = 258882
  END_OF_AUDIO = 258883
  VIDEO_PLACEHOLDER = 258884


# Members that stand for a tag in text; the others never come from text.
TAGS: Mapping[str, Mapping[str, str]] = {
  Format.GEMMA3: {
    'START_OF_TURN': '<start_of_turn>',
    'END_OF_TURN': '<end_of_turn>',
    'START_OF_IMAGE': '<start_of_image>',
    'END_OF_IMAGE': '<end_of_image>',
    'START_OF_AUDIO': '<start_of_audio>',
  },
  Format.GEMMA4: {
    'BEGIN_OF_TOOL': '<|tool>',
    'END_OF_TOOL': '<tool|>',
    'BEGIN_OF_TOOL_CALL': '<|tool_call>',
    'END_OF_TOOL_CALL': '<tool_call|>',
    'BEGIN_OF_TOOL_RESPONSE': '<|tool_response>',
    'END_OF_TOOL_RESPONSE': '<tool_response|>',
    'QUOTE': '<|"|>',
    'THINK': '<|think|>',
    'START_OF_CHANNEL': '<|channel>',
    'END_OF_CHANNEL': '<channel|>',
    'START_OF_TURN': '<|turn>',
    'END_OF_TURN': '<turn|>',
    'START_OF_IMAGE': '<|image>',
    'START_OF_AUDIO': '<|audio>',
    'IMAGE_PLACEHOLDER': '<|image|>',
    'AUDIO_PLACEHOLDER': '<|audio|>',
    'END_OF_IMAGE': '<image|>',
    'END_OF_AUDIO': '<audio|>',
    'VIDEO_PLACEHOLDER': '<|video|>',
  },
}


def tags_of(special: type[enum.IntEnum], spelling: str) -> dict[int, list[str]]:
  """The tags of a vocabulary: what the file may have at each of their ids.

  Args:
    special: Its special tokens.
    spelling: A key of `TAGS`.
  """
  out: dict[int, list[str]] = {}
  for name, tag in TAGS[spelling].items():
    if name in special.__members__:
      out.setdefault(special[name], []).append(tag)
  return out
