"""Checks of the numbers that users set."""

import numbers
from typing import Any

import jax
import numpy as np

# Far inside float32, so that products of several settings are finite too.
LARGEST = 1e30
SMALLEST = 1e-30
_INT32 = (1 << 31) - 1


def real(name: str, value: Any) -> None:
  """Raises unless a value is a finite number.

  Raises:
    TypeError: If it is not a number.
    ValueError: If it is NaN, infinite, or beyond `LARGEST`.
  """
  if not isinstance(value, numbers.Real | jax.Array | np.ndarray):
    raise TypeError(
      f'{name}={value!r} is a {type(value).__name__}. Give a number.'
    )
  if not -LARGEST <= float(value) <= LARGEST:
    raise ValueError(
      f'{name}={value} must be finite, and at most {LARGEST:g} in size.'
    )


def given(**fields: Any) -> dict[str, Any]:
  """Those that are not None."""
  return {name: value for name, value in fields.items() if value is not None}


def finite(**fields: Any) -> None:
  """Raises unless all values are finite numbers, see `real`."""
  for name, value in fields.items():
    real(name, value)


def at_least(least: float, **fields: Any) -> None:
  """Raises unless all values are finite numbers from `least` on."""
  for name, value in fields.items():
    real(name, value)
    if value < least:
      greedy = ' 0 is greedy.' if name == 'temperature' else ''
      raise ValueError(f'{name}={value} is below {least}.{greedy}')


def above(limit: float, **fields: Any) -> None:
  """Raises unless all values are finite numbers above `limit`."""
  for name, value in fields.items():
    real(name, value)
    if value <= limit:
      raise ValueError(f'{name}={value}. Give a number above {limit}.')


def share(below: float = 1, **fields: Any) -> None:
  """Raises unless all values are in [0, `below`)."""
  for name, value in fields.items():
    real(name, value)
    if not 0 <= value < below:
      raise ValueError(f'{name}={value} is no share. Give 0 to below {below}.')


def whole(least: int, **fields: Any) -> None:
  """Raises unless all values are whole numbers from `least` on, in int32."""
  for name, value in fields.items():
    real(name, value)
    if value != int(value):
      raise ValueError(f'{name}={value} is not a whole number.')
    if value < least:
      raise ValueError(f'{name}={value} is below {least}.')
    if value > _INT32:
      raise ValueError(f'{name}={value} is above {_INT32}.')


def probability(p: Any) -> None:
  """Raises unless a value is in (0, 1]."""
  real('p', p)
  if not SMALLEST <= p <= 1:
    raise ValueError(f'p={p} is not a probability above 0.')
