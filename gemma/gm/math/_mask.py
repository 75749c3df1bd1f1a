"""Which keys a query may see, described rather than drawn.

Axes: B batch, T query, S key, C columns of a caller's dense mask.
"""

from flax import struct
import jax
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
    q_last: Last index that each query sees where causal; its own by default.
      The tokens of an image all see its last one, and so each other. An index
      and not a group: whatever order the keys lie in, and in a cache too, there
      is nothing to be known about keys.
    q_first: First index that each query sees; all of them by default. Of
      several sequences in one row, each sees its own, if they stand side by
      side.
    causal: Whether a query sees nothing behind its own index or `q_last`.
    window: If set, a query sees only keys fewer than `window` indices away.
  """

  q_index: Int[Array, 'B T']
  k_index: Int[Array, 'B S']
  dense: Bool[Array, 'B T C'] | None = None
  q_last: Int[Array, 'B T'] | None = None
  q_first: Int[Array, 'B T'] | None = None
  causal: bool = struct.field(pytree_node=False, default=True)
  window: int | None = struct.field(pytree_node=False, default=None)

  def visible(self) -> Bool[Array, 'B T S']:
    """The whole mask as an array. Quadratic: for blocks and small inputs."""
    q, k = self.q_index[:, :, None], self.k_index[:, None, :]
    out = jnp.broadcast_to(k >= 0, jnp.broadcast_shapes(q.shape, k.shape))
    if self.causal:
      out &= k <= self._last[:, :, None]
    if self.q_first is not None:
      out &= k >= self.q_first[:, :, None]
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
      out &= first_k <= jnp.max(self._last)
    if self.q_first is not None:
      out &= last_k >= jnp.min(self.q_first)
    if self.window is not None:
      out &= jnp.min(self.q_index) - last_k < self.window
    return out

  @property
  def positions(self) -> Int[Array, 'B T']:
    """Number of tokens of its sequence before each query."""
    return self.q_index if self.q_first is None else self.q_index - self.q_first

  @property
  def _last(self) -> Int[Array, 'B T']:
    return self.q_index if self.q_last is None else self.q_last


def first_of_runs(
  index: Int[Array, 'B T'], segment_ids: Int[Array, 'B T']
) -> Int[Array, 'B T']:
  """`Mask.q_first` where each token sees its own segment alone.

  Args:
    index: Index of each token.
    segment_ids: Equal in an unbroken run of tokens that are one segment.
  """
  before = jnp.pad(segment_ids[:, :-1], [(0, 0), (1, 0)], constant_values=-1)
  starts = jnp.where(segment_ids != before, index, 0)
  return jax.lax.cummax(starts, axis=1)


def last_of_runs(
  index: Int[Array, 'B T'], inside: Bool[Array, 'B T']
) -> Int[Array, 'B T']:
  """`Mask.q_last` where tokens in an unbroken run all see each other.

  Args:
    index: Index of each token.
    inside: Whether it is in a run; two runs have a token between them.
  """
  place = jnp.arange(index.shape[1])[None]
  # A token whose successor is in its run is not the end of anything.
  goes_on = inside & jnp.pad(inside[:, 1:], [(0, 0), (0, 1)])
  ends = jnp.where(goes_on, index.shape[1], place)
  ends = jax.lax.cummin(ends, axis=1, reverse=True)
  return jnp.take_along_axis(index, ends, axis=1)
