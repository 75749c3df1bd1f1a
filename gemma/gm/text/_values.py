"""JSON values in the spelling of Gemma 4, as tokens.

`{city:<|"|>Rome<|"|>,days:[1,2.5],wet:false}`: keys are bare and sorted, and a
string stands between two quotes, each of them one token. So nothing in a string
has to be escaped: text has no such token, whatever it says.

A piece is a text, or the id of a control token.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import json
import math
import re
from typing import Any
from typing import TypeAlias

Piece: TypeAlias = str | int

_DEPTH = 64  # Of values in values.
_BARE_KEY = re.compile(r'[^\s{}\[\],:]+')
_NUMBER = re.compile(r'-?\d+(\.\d+)?([eE][-+]?\d+)?')
_WORDS = {'true': True, 'false': False, 'null': None}
_END = None  # Behind the last symbol.


def write(
  value: Any, quote: int, *, quoted_keys: bool = False, depth: int = 0
) -> Iterator[Piece]:
  """The pieces of a value.

  Args:
    value: What JSON can hold.
    quote: The token around strings.
    quoted_keys: Whether all keys stand between quotes; by default those that
      could not be read back without.
    depth: How many values it is in.

  Raises:
    ValueError: If it is, or has in it, something else.
  """
  if depth > _DEPTH:
    raise ValueError(f'There are more than {_DEPTH} values in each other.')
  match value:
    case None | bool():
      yield json.dumps(value)
    case str():
      yield from (quote, value, quote)
    case float() if not math.isfinite(value):
      raise ValueError(f'{value} is no number of JSON. Give null instead.')
    case float() if value.is_integer():
      yield str(int(value))
    case int() | float():
      yield repr(value)
    case Mapping():
      yield '{'
      for i, name in enumerate(sorted_keys(value)):
        yield ',' * (i > 0)
        yield from (quote, name, quote) if quoted_keys else key(name, quote)
        yield ':'
        yield from write(
          value[name], quote, quoted_keys=quoted_keys, depth=depth + 1
        )
      yield '}'
    case list() | tuple():
      yield '['
      for i, item in enumerate(value):
        yield ',' * (i > 0)
        yield from write(item, quote, quoted_keys=quoted_keys, depth=depth + 1)
      yield ']'
    case _:
      raise ValueError(
        f'{value!r} is a {type(value).__name__}, which JSON has not. Give '
        'strings, numbers, true, false, null, lists, and dicts of these.'
      )


def key(name: str, quote: int) -> Iterator[Piece]:
  """The pieces of a key, which needs quotes only if it is no bare word."""
  bare = _BARE_KEY.fullmatch(name)
  yield from (name,) if bare else (quote, name, quote)


def sorted_keys(value: Mapping[Any, Any]) -> list[str]:
  """Keys in the order of their letters, whatever their case.

  Raises:
    ValueError: If one is not a string.
  """
  for name in value:
    if not isinstance(name, str):
      raise ValueError(
        f'A dict has key {name!r}, but keys in JSON are strings.'
      )
  return sorted(value, key=str.lower)


def read(pieces: Sequence[Piece], quote: int) -> Any:
  """The value of which these are the pieces.

  Args:
    pieces: See `write`. Blanks between them are passed over.
    quote: The token around strings.

  Raises:
    ValueError: If they are no value.
  """
  symbols = [s for p in pieces for s in (p if isinstance(p, str) else [p])]
  reader = _Reader(symbols, quote)
  value = reader.value()
  reader.expect(_END)
  return value


class _Reader:
  """Reads symbols, which are characters and control tokens, one by one."""

  def __init__(self, symbols: Sequence[Piece], quote: int):
    self._symbols = symbols
    self._quote = quote
    self._at = 0
    self._depth = 0

  def value(self) -> Any:
    match self._peek():
      case '{':
        return dict(self._items('}', self._pair))
      case '[':
        return list(self._items(']', self.value))
      case self._quote:
        return self._string()
      case _:
        return self._word()

  def expect(self, symbol: Piece | None) -> None:
    if self._peek() != symbol:
      raise self._error(f'{symbol!r}' if symbol else 'the end')
    self._at += 1

  def _items(self, close: str, item: Any) -> Iterator[Any]:
    self._at += 1
    self._depth += 1
    if self._depth > _DEPTH:
      raise self._error(f'at most {_DEPTH} values in each other')
    if self._peek() != close:
      yield item()
      while self._peek() == ',':
        self._at += 1
        yield item()
    self.expect(close)
    self._depth -= 1

  def _pair(self) -> tuple[str, Any]:
    quoted = self._peek() == self._quote
    key = self._string() if quoted else self._run('a key')
    self.expect(':')
    return key, self.value()

  def _string(self) -> str:
    self._at += 1
    begin = self._at
    while isinstance(self._here(), str):
      self._at += 1
    text = ''.join(map(str, self._symbols[begin : self._at]))
    if self._here() != self._quote:
      raise self._error('the end of a string')
    self._at += 1
    return text

  def _word(self) -> Any:
    begin = self._at
    word = self._run('a value')
    if word in _WORDS:
      return _WORDS[word]
    number = _NUMBER.fullmatch(word)
    if not number:
      self._at = begin
      raise self._error('a value')
    return float(word) if number[1] or number[2] else int(word)

  def _run(self, what: str) -> str:
    """Characters up to one that means something."""
    begin = self._at
    while isinstance(here := self._here(), str) and _BARE_KEY.fullmatch(here):
      self._at += 1
    if begin == self._at:
      raise self._error(what)
    return ''.join(map(str, self._symbols[begin : self._at]))

  def _peek(self) -> Piece | None:
    """The next symbol that is no blank."""
    while isinstance(here := self._here(), str) and here.isspace():
      self._at += 1
    return self._here()

  def _here(self) -> Piece | None:
    return self._symbols[self._at] if self._at < len(self._symbols) else _END

  def _error(self, expected: str) -> ValueError:
    rest = ''.join(
      s if isinstance(s, str) else '<|"|>' if s == self._quote else f'<{s}>'
      for s in self._symbols[self._at : self._at + 20]
    )
    return ValueError(
      f'Expected {expected} at place {self._at} of a value, but there is '
      f'{rest!r}.'
    )
