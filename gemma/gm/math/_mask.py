"""Which keys a query may see, described rather than drawn.

Axes: B batch, T query, S key, C columns of a caller's dense mask.
"""

from flax import struct
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Int


class Mask(struct.PyTreeNode):
  """Visibility between queries and keys, evaluated one block at a time.

  Every token has an index: how many real tokens of its row came before it.
  Causality and windows compare indices, so the order of keys in memory is
  free: a ring buffer, a padded batch and a plain sequence look the same here.

  Attributes:
    q_index: Index of each query.
    k_index: Index of each key; negative for padding and empty slots, which
      nobody sees.
    dense: A caller's own mask on top, addressed by key index.
    causal: Whether a query sees only keys up to its own index.
    window: If set, a query sees only keys fewer than `window` indices away.
  """

  q_index: Int[Array, 'B T']
  k_index: Int[Array, 'B S']
  dense: Bool[Array, 'B T C'] | None = None
  causal: bool = struct.field(pytree_node=False, default=True)
  window: int | None = struct.field(pytree_node=False, default=None)

  def visible(self) -> Bool[Array, 'B T S']:
    """The whole mask as an array. Quadratic: for blocks and small inputs."""
    q, k = self.q_index[:, :, None], self.k_index[:, None, :]
    out = jnp.broadcast_to(k >= 0, jnp.broadcast_shapes(q.shape, k.shape))
    if self.causal:
      out &= k <= q
    if self.window is not None:
      out &= (q - k < self.window) & (k - q < self.window)
    if self.dense is not None:
      columns = jnp.broadcast_to(jnp.maximum(k, 0), out.shape)
      out &= jnp.take_along_axis(self.dense, columns, axis=2, mode='clip')
    return out

  def any_visible(self) -> Bool[Array, '']:
    """False if no query can see any key, from the ranges of indices alone.

    May be true for a block that is hidden after all; never the other way.
    """
    far = jnp.iinfo(self.k_index.dtype).max
    real = self.k_index >= 0
    last_k = jnp.max(self.k_index)
    first_k = jnp.min(jnp.where(real, self.k_index, far))
    out = last_k >= 0
    if self.causal:
      out &= first_k <= jnp.max(self.q_index)
    if self.window is not None:
      out &= jnp.min(self.q_index) - last_k < self.window
    return out
