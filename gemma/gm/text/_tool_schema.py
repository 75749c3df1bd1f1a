"""Declarations of tools from Python: functions, and classes with a schema."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import enum
import inspect
import re
import types
import typing
from typing import Any

from gemma.gm.text import _keys
from gemma.gm.text import _schema

_TYPES = {
  str: 'string',
  int: 'integer',
  float: 'number',
  bool: 'boolean',
  dict: 'object',
  list: 'array',
  tuple: 'array',
  set: 'array',
}
_SECTION = re.compile(
  r'^(Args|Arguments|Parameters|Returns|Raises|Yields|'
  r'Examples?|Notes?):\s*$',
  re.MULTILINE,
)
_ARGUMENT = re.compile(r'^(\w+)\s*(?:\([^)]*\))?:\s*(.*)$')
_DEPTH = 64  # Of schemas in schemas.


def declaration_of(tool: Any) -> Any:
  """The declaration of a tool, as a dict.

  Args:
    tool: A function, whose parameters have annotations and are described under
      `Args:` of its docstring; or a class with `model_json_schema()`, such as a
      pydantic model. Anything else is returned as it is.

  Raises:
    ValueError: If a parameter has no annotation, or one that JSON has not.
  """
  if isinstance(tool, Mapping):
    return tool
  if isinstance(tool, _schema.HasJsonSchema):
    kind = tool if isinstance(tool, type) else type(tool)
    schema = resolved(tool.model_json_schema(), kind.__name__)
    description = schema.pop('description', None) or ''
    return {
      'name': kind.__name__,
      'description': description,
      'parameters': schema,
    }
  if inspect.isroutine(tool):
    return _of_function(tool)
  return tool


def resolved(schema: Mapping[str, Any], where: str) -> dict[str, Any]:
  """A JSON schema without references, and with `nullable` for null.

  `$ref` is replaced by the definition, and `anyOf` with null by its other
  schema, because Gemma 4 knows neither.

  Args:
    schema: The schema.
    where: Its name, for errors.

  Raises:
    ValueError: If a schema contains itself.
  """
  definitions = {
    f'#/{key}/{name}': value
    for key in ('$defs', 'definitions')
    for name, value in schema.get(key, {}).items()
  }
  out = _resolved(schema, definitions, where, ())
  return {k: v for k, v in out.items() if k not in ('$defs', 'definitions')}


def _resolved(
  schema: Any, definitions: Mapping[str, Any], where: str, inside: Sequence[str]
) -> Any:
  if isinstance(schema, list):
    return [_resolved(one, definitions, where, inside) for one in schema]
  if not isinstance(schema, Mapping):
    return schema
  reference = schema.get('$ref')
  if isinstance(reference, str):
    if reference in inside or reference not in definitions:
      raise ValueError(
        f'{where} has a schema {reference!r} that '
        f'{"contains itself" if reference in inside else "is not defined"}. '
        'Gemma 4 knows no references; take a flat one.'
      )
    rest = {key: value for key, value in schema.items() if key != '$ref'}
    whole = {**definitions[reference], **rest}
    return _resolved(whole, definitions, where, (*inside, reference))
  out = {
    key: _resolved(value, definitions, where, inside)
    for key, value in schema.items()
    if key not in ('$defs', 'definitions')
  }
  return _without_any_of(out)


def _without_any_of(schema: dict[str, Any]) -> dict[str, Any]:
  """A union as one schema with a list of types, if that says the same."""
  options = schema.get('anyOf')
  if not isinstance(options, list):
    return schema
  rest = {key: value for key, value in schema.items() if key != 'anyOf'}
  others = [one for one in options if one.get('type') != 'null']
  nullable = {'nullable': True} if len(others) < len(options) else {}
  if len(others) == 1:
    return {**others[0], **rest, **nullable}
  if all({*one} <= {'type', 'title'} for one in others):
    return {'type': [one['type'] for one in others], **rest, **nullable}
  return schema


def _of_function(function: Callable[..., Any]) -> dict[str, Any]:
  name = function.__name__
  try:
    hints = typing.get_type_hints(function, include_extras=True)
    signature = inspect.signature(function)
  except (NameError, TypeError, ValueError) as e:
    raise ValueError(
      f'The annotations of {name} cannot be read: {e}. Give a declaration, a '
      'dict with name, description and parameters.'
    ) from e
  description, described = _documented(function)
  properties: dict[str, Any] = {}
  required = []
  for parameter in signature.parameters.values():
    where = f'Parameter {parameter.name!r} of {name}'
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
      raise ValueError(f'{where} takes any arguments. Name each of them.')
    if parameter.name not in hints:
      raise ValueError(f'{where} has no annotation. Add one, such as str.')
    schema = _of_type(hints[parameter.name], where)
    text = described.get(parameter.name)
    properties[parameter.name] = schema | (
      {'description': text} if text else {}
    )
    if parameter.default is parameter.empty:
      required.append(parameter.name)
  parameters = {'type': 'object', 'properties': properties}
  if required:
    parameters['required'] = required
  return {'name': name, 'description': description, 'parameters': parameters}


def _documented(
  function: Callable[..., Any],
) -> tuple[str, Mapping[str, str]]:
  """The text before the sections of a docstring, and its arguments'."""
  pieces = _SECTION.split(inspect.getdoc(function) or '')
  head, rest = pieces[0], pieces[1:]
  sections = dict(zip(rest[::2], rest[1::2], strict=True))
  text = next(
    (sections[k] for k in ('Args', 'Arguments', 'Parameters') if k in sections),
    '',
  )
  return head.strip(), dict(_arguments(inspect.cleandoc('\n' + text)))


def _arguments(text: str) -> Iterator[tuple[str, str]]:
  """Names and descriptions of arguments, in Google's style."""
  name, lines = '', ['']
  for line in [*text.splitlines(), 'end:']:
    found = _ARGUMENT.match(line)
    if not found:
      lines.append(line.strip())
      continue
    if name:
      yield name, ' '.join(filter(None, lines))
    name, lines = found[1], [found[2].strip()]


def _of_type(hint: Any, where: str, depth: int = 0) -> dict[str, Any]:
  """The JSON schema of an annotation."""
  if depth > _DEPTH:
    raise ValueError(f'{where} has a type that contains itself.')
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if hint is Any:
    return {}
  if origin is typing.Annotated:
    texts = [text for text in args[1:] if isinstance(text, str)]
    described = {'description': texts[0]} if texts else {}
    return _of_type(args[0], where, depth + 1) | described
  if origin in (typing.Union, types.UnionType):
    return _of_union(args, where, depth)
  if origin is typing.Literal:
    return _of_values(args, where)
  if isinstance(hint, type) and not origin:
    return _of_class(hint, where, depth)
  return _of_container(origin or hint, args, where, depth)


def _of_class(kind: type, where: str, depth: int) -> dict[str, Any]:
  """The JSON schema of a class that is no container of something."""
  if issubclass(kind, enum.Enum):
    return _of_values([member.value for member in kind], where)
  if isinstance(kind, _schema.HasJsonSchema):
    return resolved(kind.model_json_schema(), where)
  if typing.is_typeddict(kind) or dataclasses.is_dataclass(kind):
    return _of_fields(kind, where, depth)
  return _of_container(kind, (), where, depth)


def _of_container(
  kind: Any, args: Sequence[Any], where: str, depth: int
) -> dict[str, Any]:
  if isinstance(kind, type) and issubclass(kind, Mapping):
    more = {}
    if len(args) == 2 and args[1] is not Any:
      more['additionalProperties'] = _of_type(args[1], where, depth + 1)
    return {'type': 'object', **more}
  if kind in (Sequence, list, tuple, set):
    items = [arg for arg in args if arg is not Ellipsis]
    if len({*map(str, items)}) > 1:
      raise ValueError(f'{where} has items of several types. Use one.')
    inside = _of_type(items[0], where, depth + 1) if items else {}
    return {'type': 'array', **({'items': inside} if inside else {})}
  if kind in _TYPES:
    return {'type': _TYPES[kind]}
  raise ValueError(
    f'{where} has annotation {kind!r}, which JSON has not. Use str, int, '
    'float, bool, list, dict, Literal, a dataclass, or a pydantic model.'
  )


def _of_union(args: Sequence[Any], where: str, depth: int) -> dict[str, Any]:
  none = type(None)
  schemas = [_of_type(a, where, depth + 1) for a in args if a is not none]
  schema = _without_any_of({'anyOf': schemas})
  if 'anyOf' in schema:
    raise ValueError(
      f'{where} may be one of several types with schemas of their own, which '
      'Gemma 4 has no words for. Use one.'
    )
  return {**schema, 'nullable': True} if none in args else schema


def _of_values(values: Sequence[Any], where: str) -> dict[str, Any]:
  """The schema of one of some values."""
  if not all(isinstance(value, str) for value in values):
    raise ValueError(
      f'{where} is one of {_keys.short([*values])}, but Gemma 4 knows such '
      'lists of strings only.'
    )
  return {'type': 'string', 'enum': [*values]}


def _of_fields(hint: Any, where: str, depth: int) -> dict[str, Any]:
  """The schema of a dataclass or a `TypedDict`."""
  hints = typing.get_type_hints(hint, include_extras=True)
  if typing.is_typeddict(hint):
    required = sorted(hint.__required_keys__)
    names = [*hints]
  else:
    fields = [field for field in dataclasses.fields(hint) if field.init]
    names = [field.name for field in fields]
    missing = dataclasses.MISSING
    required = [
      field.name
      for field in fields
      if field.default is missing and field.default_factory is missing
    ]
  return {
    'type': 'object',
    'properties': {n: _of_type(hints[n], where, depth + 1) for n in names},
    **({'required': required} if required else {}),
  }
