r"""How each generation writes a conversation: one record for each.

Gemma 1 to 3: `<start_of_turn>ROLE\nCONTENT<end_of_turn>\n`, roles `user` and
`model`. Gemma 4: `<|turn>ROLE\nCONTENT<turn|>\n`, a `system` turn as well, and
tags for thoughts and tools. A piece is a text, or the id of a control token.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
from typing import Any

from gemma.gm.text import _declaration
from gemma.gm.text import _keys
from gemma.gm.text import _parts
from gemma.gm.text import _special_tokens
from gemma.gm.text import _tokenizer
from gemma.gm.text import _tool_schema
from gemma.gm.text import _values

# From special tokens and a part to pieces.
Writer = Callable[[Any, Any], Iterator[_values.Piece]]
_BASIC = ('Text', 'Image', 'Audio')  # Parts that every format can have.
# What declarations of tools call the parts of one, if not by these names.
_FIELDS = {'inputSchema': 'parameters', 'outputSchema': 'response'}
_DECLARED = _keys.Keys(
  kind='a declaration of a tool',
  read=('name', 'description', 'parameters', 'response', *_FIELDS),
  ignored=(
    'type', 'title', 'icons', 'meta', '_meta', 'execution', 'strict', 'return',
    'annotations', 'toolAnnotations', 'cache_control', 'examples',
  ),
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
  """How conversations are written.

  Attributes:
    system_turn: Whether a system message is a turn of its own.
    alternates: Whether user and model have to take turns; otherwise what one
      side says twice is two turns of the user, and one of the model.
    forgets: Whether thoughts are left out once the user has spoken again.
    ends: Special tokens that end what the model says, besides `EOS`.
    soft: Special tokens in the place of media, which no model sees as such.
    writers: How the parts are written that are neither text nor media.
  """

  system_turn: bool
  alternates: bool
  forgets: bool
  ends: tuple[str, ...]
  soft: tuple[str, ...]
  writers: Mapping[type, Writer]

  def pieces(self, special: Any, part: Any) -> Iterator[_values.Piece]:
    """A part that is no media as pieces.

    Args:
      special: The special tokens.
      part: The part.

    Raises:
      ValueError: If the models of this format have no tags for it.
    """
    if isinstance(part, str):
      yield part
      return
    if type(part) not in self.writers:
      known = (*_BASIC, *(kind.__name__ for kind in self.writers))
      raise ValueError(
        f'The conversation has a {type(part).__name__}, for which these '
        f'models have no tags: they know {", ".join(known)}.'
      )
    yield from self.writers[type(part)](special, part)


def of(tokenizer: _tokenizer.Tokenizer) -> Format:
  """The format that models with this vocabulary were trained with."""
  return FORMATS[tokenizer.FORMAT]


def tool_of(declaration: Any) -> _parts.Tool:
  """A tool from its declaration.

  Args:
    declaration: `{'type': 'function', 'function': {...}}`, or the dict in it:
      `name`, `description` and `parameters`; `inputSchema` is another name for
      these. Or a function with annotations, or a pydantic class.

  Raises:
    ValueError: If it has no name, or a schema of another form.
  """
  declaration = _tool_schema.declaration_of(declaration)
  if isinstance(declaration, Mapping):
    declaration = declaration.get('function', declaration)
  name = declaration.get('name') if isinstance(declaration, Mapping) else None
  if not isinstance(name, str) or not name:
    raise ValueError(
      f'{_keys.short(declaration)} declares no tool. Give a dict with name, '
      'description and parameters, a JSON schema; or a function.'
    )
  _DECLARED.check(f'Tool {name!r}', declaration)
  tool = _parts.Tool(
    name,
    {
      field: declaration[key]
      for key in _DECLARED.read
      if (field := _FIELDS.get(key, key)) != 'name'
      and declaration.get(key) is not None
    },
  )
  for _ in _declaration.pieces(tool, 0):
    pass  # Raises on a schema of another form, before anything is sampled.
  return tool


def _receiver(special: Any, part: _parts.Thought) -> Iterator[_values.Piece]:
  del special  # These models have no tokens for it.
  yield f'<start_receiver>thought\n{part.text}<end_receiver>'


def _think(special: Any, part: _parts.Think) -> Iterator[_values.Piece]:
  del part
  yield special.THINK


def _channel(special: Any, part: _parts.Thought) -> Iterator[_values.Piece]:
  yield from (special.START_OF_CHANNEL, f'thought\n{part.text}')
  yield special.END_OF_CHANNEL


def _tool(special: Any, part: _parts.Tool) -> Iterator[_values.Piece]:
  yield special.BEGIN_OF_TOOL
  yield from _declaration.pieces(part, special.QUOTE)
  yield special.END_OF_TOOL


def _call(special: Any, part: _parts.ToolCall) -> Iterator[_values.Piece]:
  yield from (special.BEGIN_OF_TOOL_CALL, f'call:{part.name}')
  yield from _values.write(part.arguments, special.QUOTE)
  yield special.END_OF_TOOL_CALL


def _response(
  special: Any, part: _parts.ToolResponse
) -> Iterator[_values.Piece]:
  value = part.response
  if not isinstance(value, Mapping):
    value = {'value': value}
  yield from (special.BEGIN_OF_TOOL_RESPONSE, f'response:{part.name}')
  yield from _values.write(value, special.QUOTE)
  yield special.END_OF_TOOL_RESPONSE


FORMATS: Mapping[str, Format] = {
  _special_tokens.Format.GEMMA3: Format(
    system_turn=False,
    alternates=True,
    forgets=False,
    ends=('END_OF_TURN',),
    soft=(),
    writers={_parts.Thought: _receiver},
  ),
  _special_tokens.Format.GEMMA4: Format(
    system_turn=True,
    alternates=False,
    forgets=True,
    ends=('END_OF_TURN', 'BEGIN_OF_TOOL_RESPONSE'),
    soft=('IMAGE_PLACEHOLDER', 'AUDIO_PLACEHOLDER', 'VIDEO_PLACEHOLDER'),
    writers={
      _parts.Think: _think,
      _parts.Thought: _channel,
      _parts.Tool: _tool,
      _parts.ToolCall: _call,
      _parts.ToolResponse: _response,
    },
  ),
}
