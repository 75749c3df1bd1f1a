"""Declarations of tools as Gemma 4 knows them.

`declaration:NAME{description:..,parameters:{properties:{..},required:[..],type:
..}}`. The published template (2026-07-09) prints some keys of a JSON schema and
drops the others; so does this. Property names are sorted whatever their case.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

from gemma.gm.text import _keys
from gemma.gm.text import _parts
from gemma.gm.text import _values

Pieces = Iterator[_values.Piece]

_PRINTED = ('description', 'type', 'properties', 'required', 'nullable')
# Keys of a schema under which there is another, and those with a list of them.
_ONE = ('items', 'not')
_SEVERAL = ('allOf', 'anyOf', 'oneOf')
_DEPTH = 64  # Of schemas in schemas.


def pieces(tool: _parts.Tool, quote: int) -> Pieces:
  """The pieces of a declaration, without the tags around it.

  Args:
    tool: The tool.
    quote: The token around strings.

  Raises:
    ValueError: If a key that is printed has a value of another type.
  """
  fields, where = tool.declaration, f'Tool {tool.name!r}'
  yield f'declaration:{tool.name}{{description:'
  yield from _text(fields.get('description') or '', quote, where)
  parameters = _mapping(fields.get('parameters') or {}, f'{where}: parameters')
  if parameters:
    yield ',parameters:{'
    properties = parameters.get('properties')
    if properties:
      yield 'properties:{'
      yield from _properties(properties, quote, where)
      yield '},'
    if parameters.get('required'):
      yield from _required(parameters, quote, where)
      yield ','
    yield 'type:'
    yield from _text(_type_of(parameters, where) or 'OBJECT', quote, where)
    yield '}'
  response = fields.get('response')
  if response is not None:
    yield ',response:{'
    yield from _response(_mapping(response, f'{where}: response'), quote, where)
    yield '}'
  yield '}'


def with_upper_types(schema: Any) -> Any:
  """A JSON schema with its types in upper case."""
  if not isinstance(schema, Mapping):
    return schema  # True and false are schemas too.
  out: dict[str, Any] = {}
  for key, value in schema.items():
    if key == 'type':
      several = isinstance(value, list | tuple)
      out[key] = [str(k).upper() for k in value] if several else value.upper()
    elif key in _ONE:
      out[key] = with_upper_types(value)
    elif key in _SEVERAL:
      out[key] = [with_upper_types(item) for item in value]
    elif key == 'properties':
      out[key] = {name: with_upper_types(item) for name, item in value.items()}
    elif key != '$schema':
      out[key] = value
  return out


def _response(response: Mapping[str, Any], quote: int, where: str) -> Pieces:
  if response.get('description'):
    yield 'description:'
    yield from _text(response['description'], quote, where)
    yield ','
  yield 'type:'
  yield from _text(_type_of(response, where) or 'OBJECT', quote, where)


def _properties(
  properties: Any, quote: int, where: str, depth: int = 0
) -> Pieces:
  """Properties by their names, without the braces around them."""
  if depth > _DEPTH:
    raise ValueError(f'{where} has more than {_DEPTH} schemas in each other.')
  properties = _mapping(properties, f'{where}: properties')
  for i, name in enumerate(_values.sorted_keys(properties)):
    yield ',' * (i > 0)
    yield from _values.key(name, quote)
    yield ':{'
    inside = f'{where}, property {name!r}'
    schema = properties[name]
    if not isinstance(schema, bool):
      schema = _mapping(schema, inside)
    yield from _property(schema or {}, quote, inside, depth)
    yield '}'


def _property(schema: Any, quote: int, where: str, depth: int) -> Pieces:
  """One property, without the braces around it."""
  schema = schema if isinstance(schema, Mapping) else {}
  kind = _type_of(schema, where)
  if schema.get('description'):
    yield 'description:'
    yield from _text(schema['description'], quote, where)
    yield ','
  if kind == 'STRING' and schema.get('enum'):
    yield 'enum:'
    yield from _values.write(schema['enum'], quote, quoted_keys=True)
    yield ','
  items = schema.get('items')
  if kind == 'ARRAY' and isinstance(items, Mapping) and items:
    yield 'items:{'
    yield from _items(items, quote, f'{where}, items', depth)
    yield '},'
  if schema.get('nullable'):
    yield 'nullable:true,'
  if kind == 'OBJECT':
    yield from _object(schema, quote, where, depth)
  yield 'type:'
  yield from _text(kind, quote, where)


def _object(
  schema: Mapping[str, Any], quote: int, where: str, depth: int
) -> Pieces:
  """What an object has besides its description and type."""
  properties = schema.get('properties')
  if not isinstance(properties, Mapping):
    # The template takes the other keys of the schema for its properties.
    left = {key: schema[key] for key in schema if key not in _PRINTED}
    properties = {
      key: value if isinstance(value, Mapping) else True
      for key, value in left.items()
    }
  yield 'properties:{'
  yield from _properties(properties, quote, where, depth + 1)
  yield '},'
  if schema.get('required'):
    yield from _required(schema, quote, where)
    yield ','


def _items(
  items: Mapping[str, Any], quote: int, where: str, depth: int
) -> Pieces:
  """The schema of an array's items, of which every key is printed."""
  keys = [key for key in _values.sorted_keys(items) if items[key] is not None]
  for i, key in enumerate(keys):
    yield ',' * (i > 0)
    if key == 'required':
      yield from _required(items, quote, where)
      continue
    yield from _values.key(key, quote)
    yield ':'
    value = items[key]
    if key == 'properties':
      yield '{'
      yield from _properties(value, quote, where, depth + 1)
      yield '}'
    elif key == 'type':
      yield from _values.write(_upper(value, where), quote)
    else:
      yield from _values.write(value, quote, quoted_keys=True)


def _required(schema: Mapping[str, Any], quote: int, where: str) -> Pieces:
  names = schema['required']
  if not isinstance(names, list | tuple) or not all(
    isinstance(name, str) for name in names
  ):
    raise ValueError(
      f'{where} has required={_keys.short(names)}. Give a list of names.'
    )
  yield 'required:'
  yield from _values.write(names, quote)


def _type_of(schema: Mapping[str, Any], where: str) -> str:
  """The type as one text, in upper case; empty if there is none."""
  kind = schema.get('type')
  if kind is None:
    return ''
  upper = _upper(kind, where)
  # As the template prints a list.
  return upper if isinstance(upper, str) else str(upper)


def _upper(kind: Any, where: str) -> str | list[str]:
  if isinstance(kind, str):
    return kind.upper()
  if not isinstance(kind, list | tuple) or not all(
    isinstance(one, str) for one in kind
  ):
    raise ValueError(
      f'{where} has type {_keys.short(kind)}. Give the name of a JSON type, or '
      'a list of these.'
    )
  return [one.upper() for one in kind]


def _text(text: Any, quote: int, where: str) -> Pieces:
  if not isinstance(text, str):
    raise ValueError(
      f'{where} has description {_keys.short(text)}. Give a string.'
    )
  yield from (quote, text, quote)


def _mapping(value: Any, where: str) -> Mapping[Any, Any]:
  if not isinstance(value, Mapping):
    raise ValueError(
      f'{where} is a {type(value).__name__}, {_keys.short(value)}. Give a dict.'
    )
  return value
