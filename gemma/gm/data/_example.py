"""Examples on their way into batches."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any
from typing import NamedTuple

import numpy as np

from gemma.gm.data import _arrays
from gemma.gm.data import _transform


class Ref(NamedTuple):
  """Where an example comes from.

  Attributes:
    epoch: In which epoch,
    place: at which place of its order,
    part: and which of the examples that were made of that.
  """

  epoch: int
  place: int
  part: int


@dataclasses.dataclass(frozen=True)
class Example:
  """What becomes a row of a batch.

  Attributes:
    ref: Where it comes from.
    rows: What has a value for each token along its last axis, by key.
    rest: What else there is.
  """

  ref: Ref
  rows: Mapping[str, np.ndarray]
  rest: Mapping[str, np.ndarray]

  @property
  def length(self) -> int:
    """How many tokens there are."""
    return next(iter(self.rows.values())).shape[-1]

  @property
  def is_pair(self) -> bool:
    """Whether it has several rows of tokens."""
    return any(array.ndim > 1 for array in self.rows.values())


def example_of(
  ref: Ref, element: Mapping[str, Any], keys: _transform.RowKeys
) -> Example:
  """An example of arrays.

  Args:
    ref: Where it comes from.
    element: What transforms made.
    keys: Where its tokens are, if it has any.

  Raises:
    TypeError: If something in it cannot be in a batch.
  """
  arrays = {key: _array(key, value) for key, value in element.items()}
  rows = {key: arrays.pop(key) for key in keys if key in arrays}
  if keys.input in rows:
    ndim = rows[keys.input].ndim
    rows = {key: _without_axis(array, ndim) for key, array in rows.items()}
  sizes = {key: array.shape for key, array in rows.items()}
  if len(set(sizes.values())) > 1:
    raise ValueError(
      f'Shapes {sizes} differ, but each token has one value in each.'
    )
  return Example(ref, rows, arrays)


def trimmed(example: Example, keys: _transform.RowKeys) -> Example:
  """Without the padding at its end.

  Args:
    example: The example.
    keys: Where its tokens are.

  Raises:
    ValueError: If it has none.
  """
  if keys.input not in example.rows or keys.mask not in example.rows:
    raise ValueError(
      f'To be packed or sorted by length, examples need {keys.input!r} and '
      f'{keys.mask!r}, but have {[*example.rows, *example.rest]}. Add a task '
      'to transforms.'
    )
  real = (example.rows[keys.input] != 0) | example.rows[keys.mask]
  places = np.flatnonzero(real.any(axis=tuple(range(real.ndim - 1))))
  length = places[-1] + 1 if places.size else 0
  rows = {key: array[..., :length] for key, array in example.rows.items()}
  return dataclasses.replace(example, rows=rows)


def has_loss(example: Example, keys: _transform.RowKeys) -> bool:
  """Whether it has something to train on, in each of its rows."""
  mask = example.rows.get(keys.mask)
  return mask is None or bool(mask.astype(bool).any(axis=-1).all())


def stack(
  examples: Sequence[Example], length: int | None = None
) -> dict[str, np.ndarray]:
  """A batch of examples.

  Args:
    examples: The examples.
    length: That of their rows, to which they are padded; None if they are all
      of one length already.

  Raises:
    ValueError: If they differ in their keys or shapes.
  """
  rows = [
    {
      key: array if length is None else _arrays.pad(array, length)
      for key, array in example.rows.items()
    }
    | dict(example.rest)
    for example in examples
  ]
  return {key: _stacked(key, rows) for key in rows[0]}


def _stacked(key: str, rows: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
  try:
    arrays = [row[key] for row in rows]
  except KeyError as e:
    raise ValueError(
      f'Some examples of a batch have {key!r} and others have not. Give it to '
      'all, or leave it out with keys=.'
    ) from e
  shapes = {array.shape for array in arrays}
  if len(shapes) > 1:
    raise ValueError(
      f'{key!r} has shapes {sorted(shapes)} in one batch. For tokens, set '
      'max_length of the task, or pack= or buckets= of Batches; make other '
      'arrays equal in a transform.'
    )
  return np.stack(arrays)


def _array(key: str, value: Any) -> np.ndarray:
  """An array of 32 bits at most, as devices have them."""
  array = _arrays.as_numpy(value)
  if array.dtype.kind not in 'biufV':  # bfloat16 is a V.
    raise TypeError(
      f'{key!r} is a {type(value).__name__}, which cannot be in a batch: '
      f'{value!r:.60}. Leave it out with keys=, or make numbers of it.'
    )
  narrow = {'int64': np.int32, 'float64': np.float32}.get(array.dtype.name)
  return array if narrow is None else array.astype(narrow)


def _without_axis(array: np.ndarray, ndim: int) -> np.ndarray:
  """Published tasks have targets of shape `[L, 1]`."""
  if array.ndim == ndim + 1 and array.shape[-1] == 1:
    return array[..., 0]
  return array
