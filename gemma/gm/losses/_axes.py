"""Targets and masks with a trailing axis, `[*B, L, 1]`, and without.

Data tasks of the published package write that axis for sequences and leave it
out for pairs. Losses take both.
"""

from typing import Any

import jax
import jax.numpy as jnp


def drop_trailing(name: str, x: Any, shape: tuple[int, ...]) -> jax.Array:
  """`x` in the shape given, without its last axis if that is one too many.

  Raises:
    ValueError: If it has another shape.
  """
  x = jnp.asarray(x)
  if x.shape == (*shape, 1):
    return x[..., 0]
  if x.shape != shape:
    raise ValueError(
      f'`{name}` has shape {x.shape}, but there are tokens of shape {shape}.'
    )
  return x


def match(mask: Any, shape: tuple[int, ...]) -> jax.Array:
  """A mask in the shape of values, which may have a last axis more or less.

  Raises:
    ValueError: If it cannot be brought into that shape.
  """
  mask = jnp.asarray(mask)
  if (*mask.shape, 1) == shape:
    mask = mask[..., None]
  elif mask.shape == (*shape, 1):
    mask = mask[..., 0]
  try:
    return jnp.broadcast_to(mask, shape)
  except ValueError:
    raise ValueError(
      f'The mask has shape {mask.shape}, the losses have {shape}.'
    ) from None
