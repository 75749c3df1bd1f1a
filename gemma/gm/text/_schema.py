"""Forms that a text may be asked to have."""

from collections.abc import Mapping
import dataclasses
import json
import re
from typing import Any
from typing import Protocol
from typing import TypeAlias
from typing import runtime_checkable

# In Lark syntax: comments, strings and regexes; the rest is its own notation.
_QUOTED = re.compile(r'//[^\n]*|"(\\.|[^"\\])*"|/(\\.|[^/\\])*/')


@runtime_checkable
class HasJsonSchema(Protocol):
  """A class or object that knows its schema, such as a pydantic model."""

  def model_json_schema(self) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class Regex:
  """Text that a pattern matches as a whole.

  ```python
  >>> from gemma import gm
  >>> date = gm.text.Regex(r'[0-9]{4}-[0-9]{2}-[0-9]{2}')

  ```

  Attributes:
    pattern: In the syntax of Rust's `regex`, close to that of `re`; without
      look-around and back-references, which no automaton can follow.
  """

  pattern: str


@dataclasses.dataclass(frozen=True)
class Lark:
  """Text of a context-free grammar.

  ```python
  >>> from gemma import gm
  >>> nested = gm.text.Lark('start: "x" | "(" start ")"')

  ```

  Attributes:
    grammar: In Lark syntax, with a rule `start`.
  """

  grammar: str


@dataclasses.dataclass(frozen=True)
class JsonSchema:
  """JSON of a schema. A bare schema is taken as `JsonSchema(schema)`.

  What the schema leaves open is open: unless `additionalProperties` is false,
  an object may have more keys, and those that are not `required` may be left
  out. Keys come in the order in which the schema lists them. Text ends for
  sure only where the schema bounds it: with `enum`, `maxLength`, `maxItems`,
  `maximum`.

  ```python
  >>> from gemma import gm
  >>> compact = gm.text.JsonSchema({'type': 'boolean'}, whitespace='')

  ```

  Attributes:
    schema: A JSON schema as a dict or as text, or a class that has
      `model_json_schema()`, such as a pydantic model.
    whitespace: Regex of what may stand around a key, value, bracket or comma.
      By default at most one space, since a model may else write spaces for
      ever. Empty for compact JSON.
  """

  schema: Any = dataclasses.field(hash=False)  # A dict has no hash.
  whitespace: str = ' ?'


Schema: TypeAlias = (
  Mapping[str, Any] | str | HasJsonSchema | JsonSchema | Regex | Lark
)


def source(schema: Schema) -> str:
  """A schema in the engine's notation.

  Args:
    schema: In any of the forms.

  Raises:
    ImportError: If llguidance is not installed.
    ValueError: If it is none of them. What is inside is read by the engine.
  """
  make = engine().LLMatcher
  if isinstance(schema, Regex):
    return make.grammar_from_regex(schema.pattern)
  if isinstance(schema, Lark):
    if '<' in _QUOTED.sub('', schema.grammar):
      raise ValueError('Control tokens (<...>) cannot be part of the text.')
    return make.grammar_from_lark(schema.grammar)
  if not isinstance(schema, JsonSchema):
    schema = JsonSchema(schema)
  options: dict[str, Any] = {'whitespace_pattern': schema.whitespace}
  if not schema.whitespace:
    options = {'whitespace_flexible': False}
  return make.grammar_from_json_schema(_as_json(schema.schema), None, options)


def _as_json(schema: Any) -> str:
  if isinstance(schema, HasJsonSchema):
    schema = schema.model_json_schema()
  if isinstance(schema, str):
    schema = _parsed(schema)
  if not isinstance(schema, Mapping):
    raise ValueError(
      f'{type(schema).__name__} is no JSON schema: give a dict or its JSON, '
      'a class with model_json_schema(), gm.text.Regex or gm.text.Lark.'
    )
  try:
    return json.dumps(dict(schema), allow_nan=False)
  except (TypeError, RecursionError) as e:
    raise ValueError(f'The schema is not JSON: {e}.') from e


def _parsed(text: str) -> Any:
  try:
    return json.loads(text)
  except (ValueError, RecursionError) as e:
    raise ValueError(
      f'The schema is text, but not JSON: {e}. For a pattern give '
      'gm.text.Regex, for a grammar gm.text.Lark.'
    ) from e


def engine() -> Any:
  """The library that parses; imported where a schema is used."""
  try:
    import llguidance
  except ImportError as e:
    raise ImportError(
      "Structured output needs llguidance: pip install 'gemma[grammar]'"
    ) from e
  return llguidance
