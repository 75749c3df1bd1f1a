"""Sequences of one length."""

from collections.abc import Sequence
import numbers
from typing import Any
from typing import TypeGuard

import jax
import jax.numpy as jnp
import numpy as np


def pad(
  element: Any,
  max_length: int,
  *,
  truncate: bool = False,
  fill_value: int = 0,
  axis: int = -1,
) -> Any:
  """Pads sequences at their end to one length.

  ```python
  >>> from gemma import gm
  >>> gm.data.pad([5, 6, 7], 5)
  array([5, 6, 7, 0, 0])
  >>> gm.data.pad({'a': [1], 'b': [1, 2]}, 2)
  {'a': array([1, 0]), 'b': array([1, 2])}

  ```

  Args:
    element: An array, of which the last axis is the sequence; a list or tuple
      of numbers; or any pytree of these.
    max_length: Their length afterwards.
    truncate: Whether to cut what is longer.
    fill_value: What to pad with.
    axis: -1, the last one.

  Returns:
    The same pytree. NumPy arrays and lists of numbers become NumPy arrays, JAX
    arrays stay such; the dtypes stay, and an empty list is one of integers.

  Raises:
    NotImplementedError: If another axis is asked for.
    TypeError: If there is something that is no sequence.
    ValueError: If a sequence is longer, and `truncate` is false.
  """
  if axis != -1:
    raise NotImplementedError(
      f'axis={axis}, but sequences are padded along the last axis, -1. Move '
      'the axis there: np.moveaxis(array, axis, -1).'
    )
  if max_length < 0:
    raise ValueError(f'max_length={max_length}. Give 0 or more.')
  return jax.tree.map(
    lambda leaf: _pad(leaf, max_length, truncate, fill_value),
    element,
    is_leaf=is_numbers,
  )


def is_numbers(value: Any) -> TypeGuard[Sequence[Any]]:
  """Whether it is a list or tuple that is one array, and not a pytree."""
  return isinstance(value, list | tuple) and all(
    isinstance(item, numbers.Number | np.bool_ | np.number)
    or (isinstance(item, np.ndarray | jax.Array) and not item.ndim)
    for item in value
  )


def is_ids(value: Any) -> bool:
  """Whether it is a list or an array of token ids."""
  if not is_numbers(value) and not isinstance(value, np.ndarray | jax.Array):
    return False
  array = as_numpy(value)
  return array.ndim == 1 and np.issubdtype(array.dtype, np.integer)


def as_numpy(value: Any) -> np.ndarray:
  """A list of numbers or an array as a NumPy array; integers if empty."""
  if isinstance(value, list | tuple) and not value:
    return np.zeros(0, np.int64)
  return np.asarray(value)


def _pad(leaf: Any, length: int, truncate: bool, fill_value: int) -> Any:
  if not isinstance(leaf, np.ndarray | jax.Array) and not is_numbers(leaf):
    raise TypeError(
      f'A {type(leaf).__name__} is no sequence: {leaf!r:.60}. Pad takes arrays '
      'and lists of numbers.'
    )
  array = leaf if isinstance(leaf, jax.Array) else as_numpy(leaf)
  if not array.ndim:
    raise TypeError(f'The number {array} is no sequence. Give a list or array.')
  missing = length - array.shape[-1]
  if missing < 0 and not truncate:
    raise ValueError(
      f'Cannot pad sequence of length {array.shape[-1]} to max_length={length}.'
      ' Raise max_length, or cut it with truncate=True.'
    )
  array = array[..., :length]
  widths = [(0, 0)] * (array.ndim - 1) + [(0, max(missing, 0))]
  library: Any = jnp if isinstance(leaf, jax.Array) else np
  return library.pad(array, widths, constant_values=fill_value)
