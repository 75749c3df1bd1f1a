"""Tools from declarations, functions and classes."""

import collections.abc
import dataclasses
import enum
import json
import typing
from typing import Annotated
from typing import Any
from typing import Literal
from typing import Optional

import pytest

from gemma import gm
from gemma.gm.text import _tool_schema
import gemma4

USER = {'role': 'user', 'content': 'Hi'}


def declared(tool):
  tokenizer = gemma4.tokenizer()
  text = tokenizer.decode(gm.text.encode_chat(tokenizer, [USER], tools=[tool]))
  return text.split('<|tool>')[1].split('<tool|>')[0].replace('<|"|>', '"')


# Functions.


def get_weather(
  city: str,
  days: int = 3,
  unit: Literal['C', 'F'] = 'C',
  tags: list[str] | None = None,
  limit: int | float = 1.0,
  by_name: Optional[dict[str, int]] = None,  # noqa: UP045
):
  """Weather of a city.

  As far as it is known.

  Args:
    city: Name of the city,
      in English.
    days: How many days.
    unit: Celsius or Fahrenheit: `C` or `F`.
    tags: Words to look for.
    limit: Most rain.
    by_name: Numbers.

  Returns:
    The weather.
  """
  del city, days, unit, tags, limit, by_name


def now() -> str:
  """The time."""
  return ''


def test_a_function_is_a_tool():
  assert declared(get_weather) == (
    'declaration:get_weather{description:"Weather of a city.\n\n'
    'As far as it is known.",parameters:{properties:{'
    'by_name:{description:"Numbers.",nullable:true,properties:{'
    'additionalProperties:{type:"INTEGER"}},type:"OBJECT"},'
    'city:{description:"Name of the city, in English.",type:"STRING"},'
    'days:{description:"How many days.",type:"INTEGER"},'
    """limit:{description:"Most rain.",type:"['INTEGER', 'NUMBER']"},"""
    'tags:{description:"Words to look for.",items:{type:"STRING"},'
    'nullable:true,type:"ARRAY"},'
    'unit:{description:"Celsius or Fahrenheit: `C` or `F`.",enum:["C","F"],'
    'type:"STRING"}},required:["city"],type:"OBJECT"}}'
  )
  assert declared(now) == (
    'declaration:now{description:"The time.",parameters:{type:"OBJECT"}}'
  )


@pytest.mark.parity
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('function', [get_weather, now], ids=['weather', 'now'])
def test_schemas_of_functions_are_those_of_transformers(function):
  utils = pytest.importorskip('transformers.utils')
  theirs = utils.get_json_schema(function)['function']
  theirs.pop('return', None)
  ours = _tool_schema.declaration_of(function)
  assert json.dumps(ours) == json.dumps(theirs)


class Color(enum.Enum):
  """A list of words."""

  RED = 'red'
  BLUE = 'blue'


@dataclasses.dataclass
class Point:
  """Fields, of which one has a default."""

  x: int
  y: float = 0.0


class Seat(typing.TypedDict):
  """Keys of a dict."""

  row: int
  color: Color


@pytest.mark.parametrize(
  'hint, schema',
  [
    (Any, {}),
    (bool, {'type': 'boolean'}),
    (list, {'type': 'array'}),
    (tuple[int, ...], {'type': 'array', 'items': {'type': 'integer'}}),
    (
      collections.abc.Sequence[Color],
      {'type': 'array', 'items': {'type': 'string', 'enum': ['red', 'blue']}},
    ),
    (dict[str, Any], {'type': 'object'}),
    (Annotated[int, 'How.'], {'type': 'integer', 'description': 'How.'}),
    (
      Point,
      {
        'type': 'object',
        'properties': {'x': {'type': 'integer'}, 'y': {'type': 'number'}},
        'required': ['x'],
      },
    ),
    (
      Seat | None,
      {
        'type': 'object',
        'properties': {
          'row': {'type': 'integer'},
          'color': {'type': 'string', 'enum': ['red', 'blue']},
        },
        'required': ['color', 'row'],
        'nullable': True,
      },
    ),
  ],
  ids=str,
)  # fmt: skip
def test_annotations(hint, schema):
  def tool(x):
    del x

  tool.__annotations__ = {'x': hint}
  parameters = _tool_schema.declaration_of(tool)['parameters']
  assert parameters['properties'] == {'x': schema}


class Loop:
  """Contains itself."""

  inner: 'Loop'


Loop = dataclasses.dataclass(Loop)


@pytest.mark.parametrize(
  'hint, error',
  [
    (bytes, "Parameter 'x' of tool has annotation .*bytes"),
    (complex, 'which JSON has not. Use str'),
    (Literal[1, 2], 'is one of .1, 2., but Gemma 4 knows such lists'),
    (int | list[int] | dict, 'one of several types with schemas'),
    (tuple[int, str], 'items of several types'),
    (Loop, 'a type that contains itself'),
    ('Missing', 'annotations of tool cannot be read'),
  ],
  ids=str,
)  # fmt: skip
def test_annotations_that_are_none(hint, error):
  def tool(x):
    del x

  tool.__annotations__ = {'x': hint}
  with pytest.raises(ValueError, match=error):
    declared(tool)


def test_functions_that_are_no_tools():
  def bare(x):
    del x

  def many(*args: int):
    del args

  with pytest.raises(ValueError, match="'x' of bare has no annotation"):
    declared(bare)
  with pytest.raises(ValueError, match="'args' of many takes any arguments"):
    declared(many)


# Classes.


def test_a_pydantic_class_is_a_tool():
  """References are resolved, and null is `nullable`."""
  pydantic = pytest.importorskip('pydantic')

  class Guest(pydantic.BaseModel):
    name: str
    age: int | None = pydantic.Field(None, description='In years.')

  class Book(pydantic.BaseModel):
    """Books a table."""

    host: Guest
    guests: list[Guest] = pydantic.Field([])
    code: int | str = 1

  guest = (
    'properties:{age:{description:"In years.",nullable:true,type:"INTEGER"},'
    'name:{type:"STRING"}},required:["name"],'
  )
  assert declared(Book) == (
    'declaration:Book{description:"Books a table.",parameters:{properties:{'
    """code:{type:"['INTEGER', 'STRING']"},"""
    f'guests:{{items:{{{guest}title:"Guest",type:"OBJECT"}},type:"ARRAY"}},'
    f'host:{{{guest}type:"OBJECT"}}'
    '},required:["host"],type:"OBJECT"}}'
  )

  def book(guest: Guest):
    del guest

  assert f'guest:{{{guest}type:"OBJECT"}}' in declared(book)


@pytest.mark.parametrize(
  'schema, error',
  [
    ({'$ref': '#/$defs/A', '$defs': {}}, 'is not defined'),
    (
      {
        '$ref': '#/$defs/A',
        '$defs': {'A': {'properties': {'a': {'$ref': '#/$defs/A'}}}},
      },
      'contains itself',
    ),
  ],
)
def test_references_that_cannot_be_resolved(schema, error):
  kind = type('Tree', (), {'model_json_schema': staticmethod(lambda: schema)})
  with pytest.raises(ValueError, match=f'Tree has a schema .*{error}'):
    declared(kind)


# Declarations.


@pytest.mark.parametrize(
  'tool, error',
  [
    ({'name': 7}, 'declares no tool'),
    ({'name': 'f', 'description': 7}, "'f' has description 7. Give a string"),
    ({'name': 'f', 'parameters': 'x'}, "'f': parameters is a str, 'x'"),
    (
      {'name': 'f', 'parameters': {'properties': ['a']}},
      "'f': properties is a list",
    ),
    (
      {'name': 'f', 'parameters': {'properties': {'a': 'string'}}},
      "'f', property 'a' is a str, 'string'. Give a dict",
    ),
    (
      {'name': 'f', 'parameters': {'properties': {'a': {'type': 7}}}},
      "property 'a' has type 7",
    ),
    ({'name': 'f', 'parameters': {'required': 'a'}}, "has required='a'"),
    (
      {'name': 'f', 'parameters': {'properties': {1: {}}}},
      'A dict has key 1, but keys in JSON are strings',
    ),
    ({'name': 'f', 'response': 7}, "'f': response is a int"),
  ],
  ids=str,
)
def test_declarations_of_the_wrong_type(tool, error):
  with pytest.raises(ValueError, match=error):
    declared(tool)


def test_keys_of_declarations():
  with pytest.warns(UserWarning, match="'mood' of a declaration of a tool is"):
    text = declared({'name': 'f', 'mood': 1, 'strict': True, 'title': 'F'})
  assert text == 'declaration:f{description:""}'


def test_a_declaration_that_contains_itself():
  schema = {'type': 'object', 'properties': {}}
  schema['properties']['a'] = schema
  with pytest.raises(ValueError, match='more than 64 schemas in each other'):
    declared({'name': 'f', 'parameters': schema})
