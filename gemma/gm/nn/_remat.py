"""What of a layer is kept for the backward pass, and what is computed again."""

import enum
from typing import Any

from flax import linen as nn
import jax

from gemma.gm.nn import _block
from gemma.gm.nn import _layers


class Remat(enum.StrEnum):
  """What gradients keep of each layer.

  Attributes:
    NONE: All that they need.
    DOTS: The products with weights; the rest is computed again.
    FULL: The residual stream before it; all else is computed again, which
      makes a third more work in all.
  """

  NONE = 'none'
  DOTS = 'dots'
  FULL = 'full'


_POLICIES: dict[Remat, Any] = {
  Remat.DOTS: jax.checkpoint_policies.save_only_these_names(_layers.PRODUCT),
  Remat.FULL: None,
}


def block_of(remat: str) -> type[_block.Block]:
  """The class of layers that keep what they should.

  Raises:
    ValueError: If there is no such choice.
  """
  if remat not in set(Remat):
    raise ValueError(f'remat={remat!r} is not one of {[*map(str, Remat)]}.')
  if remat == Remat.NONE:
    return _block.Block
  return nn.remat(_block.Block, policy=_POLICIES[Remat(remat)])
