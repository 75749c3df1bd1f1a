"""Token ids of batches: those that no table has are never taken for others.

Axes: *B batch dims, L length.
"""

from collections.abc import Mapping
from typing import Any
from typing import Protocol
from typing import runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Int
import numpy as np

from gemma.gm.nn import _config
from gemma.gm.vision import _expand

# A target that does not count, as PyTorch and transformers have it.
IGNORED = -100


@runtime_checkable
class Checked(Protocol):
  """A loss that can look at a batch before the device gets it."""

  def check(self, batch: Any, /) -> None:
    """Raises on what is wrong with a batch, as far as it is known."""


def check(
  config: _config.TransformerConfig,
  batch: Mapping[str, Any],
  tokens: str,
  targets: str,
  mask: str,
) -> None:
  """Raises on ids outside of the table.

  Values that are not known yet, inside of `jax.jit`, are passed over. Targets
  that do not count may be anything.

  Args:
    config: Of the model.
    batch: The batch.
    tokens: Name of its inputs.
    targets: Name of its targets.
    mask: Name of the mask of the targets.

  Raises:
    ValueError: With the first such id, and where it is.
  """
  inputs = _known(batch.get(tokens))
  if inputs is not None:
    _check(tokens, inputs, ~np.asarray(are_inputs(config, inputs)), config)
  labels, counts = _known(batch.get(targets)), _known(batch.get(mask))
  if labels is not None and counts is not None:
    bad = ~are_targets(config, labels) & (labels != IGNORED)
    if bad.size == counts.size:  # Shapes that disagree have their own error.
      bad &= counts.reshape(bad.shape) != 0
    _check(targets, labels, bad, config)


def are_inputs(
  config: _config.TransformerConfig, tokens: Int[Any, '...']
) -> Bool[Any, '...']:
  """Which ids a model has a vector for."""
  known = are_targets(config, tokens)
  if config.vision_encoder is not None:
    known |= tokens == _expand.PLACEHOLDER
  return known


def are_targets(
  config: _config.TransformerConfig, targets: Int[Any, '...']
) -> Bool[Any, '...']:
  """Which ids a model can predict."""
  return (targets >= 0) & (targets < config.num_embed)


def counted(
  targets: Int[Array, '*B L'], mask: Any
) -> Bool[Array, '*B L'] | Any:
  """The mask of targets without those that are `IGNORED`."""
  return jnp.where(targets == IGNORED, jnp.zeros_like(mask), mask)


def _known(x: Any) -> np.ndarray | None:
  """An array on this host; None if it is elsewhere, or in a trace."""
  if x is None or isinstance(x, jax.core.Tracer):
    return None
  if isinstance(x, jax.Array) and not x.is_fully_addressable:
    return None
  return np.asarray(x)


def _check(
  name: str,
  ids: np.ndarray,
  bad: np.ndarray,
  config: _config.TransformerConfig,
) -> None:
  if not bad.any():
    return
  place = tuple(int(i) for i in np.argwhere(bad)[0])
  hint = ''
  if 'target' in name:
    hint = f' Targets that do not count are {IGNORED}, or False in the mask.'
  raise ValueError(
    f'batch[{name!r}]{list(place)} is {ids[place]}, but the model has '
    f'{config.num_embed} tokens, from 0 on. Was the text encoded with the '
    f'tokenizer of another model?{hint}'
  )
