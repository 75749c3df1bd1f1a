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

from gemma.gm.text import _parts
from gemma.gm.text import _tokenizer
from gemma.gm.text import _values

# From special tokens and a part to pieces.
Writer = Callable[[Any, Any], Iterator[_values.Piece]]
_BASIC = ('Text', 'Image', 'Audio')  # Parts that every format can have.
# Keys of a schema under which there is another, and those with a list of them.
_ONE = ('items', 'not')
_SEVERAL = ('allOf', 'anyOf', 'oneOf')
# What declarations of tools call the parts of one, if not by these names.
_FIELDS = {
  'inputSchema': 'parameters',
  'outputSchema': 'response',
  'annotations': 'toolAnnotations',
}
_NOT_DECLARED = ('name', 'title', 'icons', 'meta', 'execution', 'strict')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
  """How conversations are written.

  Attributes:
    system_turn: Whether a system message is a turn of its own.
    forgets: Whether thoughts are left out once the user has spoken again.
    ends: Special tokens that end what the model says, besides `EOS`.
    soft: Special tokens in the place of media, which no model sees as such.
    writers: How the parts are written that are neither text nor media.
  """

  system_turn: bool
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
    declaration: `{'type': 'function', 'function': {...}}`, or what is in it:
      `name`, `description` and `parameters`; `inputSchema` is another name for
      these.

  Raises:
    ValueError: If it has no name.
  """
  if isinstance(declaration, Mapping):
    declaration = declaration.get('function', declaration)
  if not isinstance(declaration, Mapping) or not declaration.get('name'):
    raise ValueError(
      f'{declaration!r} declares no tool. Give a dict with name, description '
      'and parameters, a JSON schema.'
    )
  fields: dict[str, Any] = {
    str(_FIELDS.get(key, key)): value
    for key, value in declaration.items()
    if key not in _NOT_DECLARED and value is not None
  }
  for key in ('parameters', 'response'):
    if key in fields:
      fields[key] = _schema(fields[key])
  return _parts.Tool(declaration['name'], fields)


def _schema(schema: Any) -> Any:
  """A JSON schema with types in upper case, as these models know them."""
  if not isinstance(schema, Mapping):
    return schema  # True and false are schemas too.
  out: dict[str, Any] = {}
  for key, value in schema.items():
    if key == 'type':
      out[key] = _upper(value)
    elif key in _ONE:
      out[key] = _schema(value)
    elif key in _SEVERAL:
      out[key] = [_schema(item) for item in value]
    elif key == 'properties':
      out[key] = {name: _schema(item) for name, item in value.items()}
    elif key != '$schema':
      out[key] = value
  return out


def _upper(kind: Any) -> Any:
  return kind.upper() if isinstance(kind, str) else [k.upper() for k in kind]


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
  yield from (special.BEGIN_OF_TOOL, f'declaration:{part.name}')
  yield from _values.write(part.declaration, special.QUOTE)
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
  'gemma3': Format(
    system_turn=False,
    forgets=False,
    ends=('END_OF_TURN',),
    soft=(),
    writers={_parts.Thought: _receiver},
  ),
  'gemma4': Format(
    system_turn=True,
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
