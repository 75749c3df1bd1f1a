"""Schemas of files: which keys are read, and which values they may have."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import math
from typing import Any
import warnings

_SHOWN = 80  # Characters of a value in an error.


@dataclasses.dataclass(frozen=True)
class Check:
  """The values that a key may have.

  Attributes:
    expected: Their description, for errors.
    accepts: Whether a value is one of them.
  """

  expected: str
  accepts: Callable[[Any], bool]

  def __or__(self, other: 'Check') -> 'Check':
    return Check(
      f'{self.expected} or {other.expected}',
      lambda x: self.accepts(x) or other.accepts(x),
    )


@dataclasses.dataclass(frozen=True)
class Schema:
  """The keys of a file, or of an object in it.

  Attributes:
    name: The file, and where in it.
    read: Keys that are read here.
    ignored: Keys that change nothing here, with the values that others write.
    required: Keys of `read` that must be there.
    unknown: Whether other keys are an error (`refuse`), or one warning.
  """

  name: str
  read: Mapping[str, Check]
  ignored: Mapping[str, Check] = dataclasses.field(default_factory=dict)
  required: tuple[str, ...] = ()
  unknown: str = 'warn'

  def check(self, values: Any) -> dict[str, Any]:
    """The keys that are read.

    Raises:
      ValueError: If a key is missing, unknown and refused, or has another
        value.
    """
    if not isinstance(values, Mapping):
      raise ValueError(f'{self.name} must be an object, got {shown(values)}.')
    for key in self.required:
      if key not in values:
        raise ValueError(
          f'{key} is missing in {self.name}. Add it: {self.read[key].expected}.'
        )
    known = {**self.ignored, **self.read}
    for key, value in values.items():
      check = known.get(key)
      if check is not None and not check.accepts(value):
        raise ValueError(
          f'{key}={shown(value)} in {self.name} is not supported. It must be '
          f'{check.expected}.'
        )
    self._report([key for key in values if key not in known])
    return {key: x for key, x in values.items() if key in self.read}

  def _report(self, unknown: Iterable[str]) -> None:
    """Refuses keys that no table has, or warns of them once."""
    keys = sorted(map(str, unknown))
    if not keys:
      return
    listed = ', '.join(key[:_SHOWN] for key in keys[:10])
    if self.unknown == 'refuse':
      raise ValueError(
        f'{listed} in {self.name} is not supported. Known keys are '
        f'{sorted(self.read)}. Remove it if it changes nothing.'
      )
    warnings.warn(
      f'{self.name} has keys that are not read: {listed}. Check that the '
      'results do not depend on them, and remove them.',
      stacklevel=2,
    )


def shown(value: Any) -> str:
  """A value for an error, cut if it is long."""
  try:
    text = repr(value)
  except ValueError:  # An integer of thousands of digits.
    text = type(value).__name__
  return text if len(text) <= _SHOWN else f'{text[:_SHOWN]}...'


def integer(low: int, high: int) -> Check:
  return Check(
    f'an integer from {low:,} to {high:,}',
    lambda x: _is_int(x) and low <= x <= high,
  )


def number(low: float, high: float = math.inf) -> Check:
  """A finite number, above `low` or equal to it."""
  limit = f' to {high:g}' if high < math.inf else ''
  return Check(
    f'a finite number from {low:g}{limit}', lambda x: _is_within(x, low, high)
  )


def above(low: float) -> Check:
  """A finite number above `low`."""
  return Check(
    f'a finite number above {low:g}',
    lambda x: _is_within(x, low, math.inf) and x > low,
  )


def one_of(*values: Any) -> Check:
  return Check(
    ' or '.join(map(_json_of, values)),
    lambda x: any(type(x) is type(value) and x == value for value in values),
  )


def list_of(check: Check, most: int) -> Check:
  return Check(
    f'a list of at most {most:,}, each {check.expected}',
    lambda x: (
      isinstance(x, list) and len(x) <= most and all(map(check.accepts, x))
    ),
  )


def pairs_of(check: Check) -> Check:
  """An object whose values pass a check."""
  return Check(
    f'an object whose values are each {check.expected}',
    lambda x: isinstance(x, Mapping) and all(map(check.accepts, x.values())),
  )


def _is_int(x: Any) -> bool:
  return isinstance(x, int) and not isinstance(x, bool)


def _is_within(x: Any, low: float, high: float) -> bool:
  if not (_is_int(x) or isinstance(x, float)):
    return False
  # Integers beyond the floats are no numbers either.
  return abs(x) <= 1e300 and low <= x <= high


def _json_of(value: Any) -> str:
  names = {None: 'null', True: 'true', False: 'false'}
  simple = value is None or isinstance(value, bool)
  return names[value] if simple else f'{value!r}'


NULL = one_of(None)
FLAG = one_of(True, False)
TEXT = Check('a string', lambda x: isinstance(x, str))
OBJECT = Check('an object', lambda x: isinstance(x, Mapping))
ANYTHING = Check('any value', lambda x: True)
