"""Shapes of exported programs, whose sizes may be symbols."""

from typing import Any
from typing import TypeAlias

Size: TypeAlias = Any  # A number, or a symbol.


def is_known(size: Size) -> bool:
  """Whether a size is a number, not a symbol of `jax.export`.

  Choices between equal programs by size take the general one for a symbol.
  """
  return isinstance(size, int)
