"""Keys and values of the tokens seen so far.

Axes: B batch, T new tokens, S slots of a layer, K kv heads, H head_dim.

A layer that sees everything has a slot for every token. A sliding layer has a
ring of one window: token `i` lives in slot `i % S`. Rows advance on their own
and hold real tokens only, never padding, so what a slot holds follows from the
number of tokens that its row has seen.

The newest tokens of a row can be taken back by setting its length: then a ring
needs slots beyond its window, as many as may be taken back (`lookahead`).
"""

from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int

from gemma.gm.math import _partition
from gemma.gm.nn import _config

# On a CPU, JAX before 0.12 puts a single token into a copy of all slots: of
# bfloat16, one in float32. To choose between new and old in every slot works in
# place, and so does a second token that goes nowhere.
_COPIES = jax.__version_info__ < (0, 12)


class LayerKV(struct.PyTreeNode):
  """Slots of one layer. Keys are stored normed and rotated, but unscaled.

  Attributes:
    k: Keys.
    v: Values.
    window: How far the layer sees; None if without limit.
    lookahead: Newest tokens that may be taken back.
  """

  k: Float[Array, 'B S K H']
  v: Float[Array, 'B S K H']
  window: int | None = struct.field(pytree_node=False, default=None)
  lookahead: int = struct.field(pytree_node=False, default=0)

  @property
  def is_ring(self) -> bool:
    """Whether new tokens may overwrite old ones."""
    slots = self.k.shape[1]
    return self.window is not None and slots == self.window + self.lookahead

  def grow(self, cache_length: int) -> 'LayerKV':
    """The same tokens with more slots, up to those of a ring.

    A ring is filled once before it wraps, so no token changes its slot.
    """
    slots = _slots(self.window, self.lookahead, cache_length)
    more = [(0, 0), (0, slots - self.k.shape[1]), (0, 0), (0, 0)]
    return self.replace(k=jnp.pad(self.k, more), v=jnp.pad(self.v, more))

  def extend(
    self,
    k: Float[Array, 'B T K H'],
    v: Float[Array, 'B T K H'],
    index: Int[Array, 'B T'],
    length: Int[Array, 'B'],
  ) -> tuple['LayerKV', 'KeyValues']:
    """Stores new tokens, and returns all that their queries may look at.

    Args:
      k: Keys of the new tokens.
      v: Values of the new tokens.
      index: Index of each new token in its row; negative for padding.
      length: Tokens that each row had before.

    Returns:
      The layer with the new tokens in it, and the keys and values to attend.
    """
    new_length = length + jnp.sum(index >= 0, axis=1)
    stored = self._write(k, v, index, new_length)
    slots, tokens = self.k.shape[1], k.shape[1]
    # A ring may overwrite what the first of several queries still needs.
    if self.is_ring and slots < (self.window or 0) + tokens - 1:
      before = slot_index(slots, length)
      return stored, KeyValues(
        k=jnp.concatenate([self.k, k.astype(self.k.dtype)], axis=1),
        v=jnp.concatenate([self.v, v.astype(self.v.dtype)], axis=1),
        index=jnp.concatenate([before, index], axis=1),
      )
    seen = KeyValues(
      k=stored.k, v=stored.v, index=slot_index(slots, new_length)
    )
    return stored, seen

  def _write(
    self, k: jax.Array, v: jax.Array, index: jax.Array, new_length: jax.Array
  ) -> 'LayerKV':
    """Puts each token in its slot; padding and what is overrun go nowhere."""
    slots = self.k.shape[1]
    slot = index % slots if self.is_ring else index
    kept = (index >= 0) & (index >= new_length[:, None] - slots)
    slot = jnp.where(kept, slot, slots)  # Out of range, dropped below.
    return self.replace(k=_put(self.k, slot, k), v=_put(self.v, slot, v))


def _put(
  old: Float[Array, 'B S K H'],
  slot: Int[Array, 'B T'],
  new: Float[Array, 'B T K H'],
) -> Float[Array, 'B S K H']:
  """`_put_here`, on each device of a mesh for its rows and heads."""
  if not _partition.sizes():
    return _put_here(old, slot, new)
  rows, _, heads, _ = _partition.spec_of(old.shape, 'B_KH')
  both, rows = PartitionSpec(rows, None, heads), PartitionSpec(rows)
  put = _partition.run_local(_put_here, (both, rows, both), both)
  return put(old, slot, new)


def _put_here(
  old: Float[Array, 'B S K H'],
  slot: Int[Array, 'B T'],
  new: Float[Array, 'B T K H'],
) -> Float[Array, 'B S K H']:
  """`old` with `new` in its slots; none if the slot is out of range."""
  new = new.astype(old.dtype)
  one = _COPIES and slot.shape[1] == 1 and jax.default_backend() == 'cpu'
  if one and old.dtype == jnp.bfloat16:
    here = (jnp.arange(old.shape[1])[None] == slot)[:, :, None, None]
    out = jnp.where(here, new, old)
  else:
    if one:
      slot = jnp.pad(slot, [(0, 0), (0, 1)], constant_values=old.shape[1])
      new = jnp.pad(new, [(0, 0), (0, 1), (0, 0), (0, 0)])
    row = jnp.arange(old.shape[0])[:, None]
    out = old.at[row, slot].set(new, mode='drop')
  # Else the compiler may write twice, for the cache and for its reader, and
  # then needs copies of it.
  return jax.lax.optimization_barrier(out)


class KeyValues(struct.PyTreeNode):
  """What the queries of one layer attend to.

  Attributes:
    k: Keys.
    v: Values.
    index: Index of each key in its row; negative where there is none.
  """

  k: Float[Array, 'B S K H']
  v: Float[Array, 'B S K H']
  index: Int[Array, 'B S']


class KVCache(struct.PyTreeNode, Mapping[str, Any]):
  """The state of a decoding model: one pytree for all layers.

  Also reads like the published nested dict: `cache['layer_0']['k']`.

  Attributes:
    layers: Slots of each layer that has its own.
    length: Tokens seen so far by each row.
    cache_length: Tokens that a row can hold.
  """

  layers: dict[str, LayerKV]
  length: Int[Array, 'B']
  cache_length: int = struct.field(pytree_node=False)

  @property
  def nbytes(self) -> int:
    """Bytes of all keys and values."""
    arrays = jax.tree.leaves(self.layers)
    return sum(x.size * x.dtype.itemsize for x in arrays)

  @property
  def batch_size(self) -> int:
    return self.length.shape[0]

  def grow(self, cache_length: int) -> 'KVCache':
    """The same tokens, with room for more.

    Args:
      cache_length: Tokens that a row can hold then.
    """
    if cache_length < self.cache_length:
      raise ValueError(
        f'cache_length={cache_length} is below the {self.cache_length} that '
        'the cache already has.'
      )
    return self.replace(
      layers={
        name: layer.grow(cache_length) for name, layer in self.layers.items()
      },
      cache_length=cache_length,
    )

  def __getitem__(self, name: str) -> dict[str, Array]:
    layer = self.layers[name]
    return {
      'k': layer.k,
      'v': layer.v,
      'positions': slot_index(layer.k.shape[1], self.length),
      'end_index': self.length,
    }

  def __iter__(self) -> Iterator[str]:
    return iter(self.layers)

  def __len__(self) -> int:
    return len(self.layers)


def slot_index(slots: int, length: Int[Array, 'B']) -> Int[Array, 'B S']:
  """Index of the token in each slot; negative where the slot is empty.

  The newest token of slot `s` is the largest `i` below `length` for which
  `i % slots == s`.
  """
  last = length[:, None] - 1
  return last - (last - jnp.arange(slots)[None]) % slots


# The published name.
Cache = KVCache


def init_cache(
  config: _config.TransformerConfig,
  *,
  batch_size: int,
  dtype: DTypeLike,
  cache_length: int,
  lookahead: int = 0,
) -> KVCache:
  """An empty cache; see `Transformer.init_cache`."""
  if cache_length < 1 or batch_size < 1:
    raise ValueError(
      f'cache_length={cache_length} and batch_size={batch_size} must be at '
      'least 1.'
    )

  def layer(spec: _config.LayerSpec) -> LayerKV:
    slots = _slots(spec.window, lookahead, cache_length)
    shape = (batch_size, slots, spec.num_kv_heads, spec.head_dim)
    return LayerKV(
      k=jnp.zeros(shape, dtype),
      v=jnp.zeros(shape, dtype),
      window=spec.window,
      lookahead=lookahead,
    )

  return KVCache(
    layers={
      f'layer_{i}': layer(spec)
      for i, spec in enumerate(config.layers())
      if spec.kv_source is None
    },
    length=jnp.zeros(batch_size, jnp.int32),
    cache_length=cache_length,
  )


def _slots(window: int | None, lookahead: int, cache_length: int) -> int:
  """A slot for every token, or a ring if that is less."""
  if window is None:
    return cache_length
  return min(window + lookahead, cache_length)
