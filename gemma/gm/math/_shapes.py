"""Shapes of exported programs, whose sizes may be symbols."""

from typing import Any


def is_known(size: Any) -> bool:
  """Whether a size is a number, not a symbol of `jax.export`.

  Choices between equal programs by size take the general one for a symbol.
  """
  return isinstance(size, int)
