"""What of a layer is kept for the backward pass, and what is computed again."""

from collections.abc import Callable
import enum
from typing import Any

from flax import linen as nn
import jax

from gemma.gm.math import _partition
from gemma.gm.nn import _block
from gemma.gm.nn import _layers
from gemma.gm.nn import _observed


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


def run(
  remat: str,
  layer: Callable[[nn.Module, jax.Array], jax.Array],
  block: nn.Module,
  x: jax.Array,
  index: jax.Array,
) -> jax.Array:
  """A layer whose backward pass is done before that of the next one begins.

  What is computed again should live for one layer only. Compilers for CPUs see
  no reason to wait, and do it for all layers first; into a branch that is
  always taken, they move nothing.

  Args:
    remat: What gradients keep.
    layer: Calls the layer.
    block: The layer, a module of `block_of`.
    x: What it gets.
    index: Indices of tokens: not negative, which compilers do not know.
  """
  # Only what is compiled is moved, and nothing but `x` comes out of a branch.
  records = block.is_mutable_collection(_observed.INTERMEDIATES)
  seen = records or _observed.interceptors()
  moved = _partition.on_cpu() and isinstance(index, jax.core.Tracer)
  if remat == Remat.NONE or block.is_initializing() or seen or not moved:
    return layer(block, x)
  return nn.cond(index[0, 0] >= 0, layer, lambda block, x: x, block, x)


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
