"""An einsum with a weight as two, with a rank between."""

import string
from typing import NamedTuple


class Split(NamedTuple):
  """The factors that stand in for a weight.

  Attributes:
    einsum_str: Inputs, `A` and `B` to outputs.
    a: Shape of `A`.
    b: Shape of `B`.
  """

  einsum_str: str
  a: tuple[int, ...]
  b: tuple[int, ...]


def split(einsum_str: str, shape: tuple[int, ...], *, rank: int) -> Split:
  """The factors of a weight, whose product is its change.

  `A` has the axes of the weight that the inputs have too, then the rank; `B`
  has the rank, then those that are new in the outputs.

  ```python
  >>> from gemma.peft import _einsum
  >>> _einsum.split('BTNH,NHD->BTD', (4, 16, 32), rank=2)
  Split(einsum_str='BTNH,NHr,rD->BTD', a=(4, 16, 2), b=(2, 32))

  ```

  Args:
    einsum_str: `inputs,weights->outputs`.
    shape: Shape of the weight.
    rank: Size of the axis between.

  Raises:
    ValueError: If there are not two operands, or the weight has an ellipsis or
      other axes than the shape.
  """
  inputs, weight, outputs = _operands(einsum_str)
  if len(weight) != len(shape):
    raise ValueError(
      f'The weights in {einsum_str!r} have {len(weight)} axes, but the shape '
      f'{tuple(shape)} has {len(shape)}. They must agree.'
    )
  size = dict(zip(weight, shape, strict=True))
  r = _free_letter(einsum_str)
  shared = ''.join(axis for axis in weight if axis in inputs)
  new = ''.join(
    axis for axis in weight if axis not in inputs and axis in outputs
  )
  return Split(
    f'{inputs},{shared}{r},{r}{new}->{outputs}',
    (*(size[axis] for axis in shared), rank),
    (rank, *(size[axis] for axis in new)),
  )


def summed_axes(einsum_str: str) -> tuple[int, ...]:
  """The axes of the weight that are in `A`: those that the inputs have too."""
  inputs, weight, _ = _operands(einsum_str)
  return tuple(i for i, axis in enumerate(weight) if axis in inputs)


def _operands(einsum_str: str) -> tuple[str, str, str]:
  """Inputs, weights and outputs."""
  parts = einsum_str.replace(' ', '').split('->')
  operands = parts[0].split(',')
  if len(parts) != 2 or len(operands) != 2:
    raise ValueError(
      '`einsum_str` should be `inputs,weights->outputs`, with two operands. '
      f'Got: {einsum_str!r}.'
    )
  inputs, weight = operands
  if '.' in weight:
    raise ValueError(
      f'Weights in `einsum_str` should not contain ellipsis. Got: {weight!r} '
      f'in {einsum_str!r}. Write out their axes.'
    )
  return inputs, weight, parts[1]


def _free_letter(einsum_str: str) -> str:
  """What the rank is called: `r`, unless it has another meaning."""
  letters = ('r', *sorted(string.ascii_letters))
  return next(letter for letter in letters if letter not in einsum_str)
