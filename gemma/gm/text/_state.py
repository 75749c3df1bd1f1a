"""Everything between two tokens.

Axes: B batch, V vocab, S capacity of the cache, P = S + 1 places of a row, M
max_out_length, D model, C alternatives, Y X Z rows, columns and channels of an
image.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Key
from jaxtyping import UInt8
import numpy as np

from gemma.gm.math import _partition
from gemma.gm.nn import _cache
from gemma.gm.nn import _transformer
from gemma.gm.text import _settings

PAD = _transformer.PAD


class Trace(struct.PyTreeNode):
  """What is recorded of each sampled token, if asked for.

  Attributes:
    logprobs: Log-probability in the model's own distribution.
    top_logprobs: Those of the likeliest tokens.
    top_tokens: Their ids.
    hidden_states: The state after the final norm that the token came from.
  """

  logprobs: Float[Array, 'B M'] | None = None
  top_logprobs: Float[Array, 'B M C'] | None = None
  top_tokens: Int[Array, 'B M C'] | None = None
  hidden_states: Float[Array, 'B M D'] | None = None

  @classmethod
  def empty(
    cls, rows: int, length: int, *, logprobs: int | None, hidden: int | None
  ) -> 'Trace':
    """Room for what is asked for.

    Args:
      rows: Rows.
      length: Tokens of each row.
      logprobs: Alternatives of each token; None for no log-probabilities.
      hidden: Width of hidden states; None for none.
    """
    shape = (rows, length)
    trace = cls()
    if logprobs is not None:
      trace = trace.replace(logprobs=jnp.zeros(shape))
    if logprobs:
      trace = trace.replace(
        top_logprobs=jnp.zeros((*shape, logprobs)),
        top_tokens=jnp.zeros((*shape, logprobs), jnp.int32),
      )
    if hidden:
      trace = trace.replace(hidden_states=jnp.zeros((*shape, hidden)))
    return trace


class SamplingState(struct.PyTreeNode):
  """Everything between two tokens; each leaf but images has a row per prompt.

  Attributes:
    count: Tokens sampled by this call so far.
    limit: Tokens that it may sample.
    done: Rows that sampled a stop token.
    last_token: The newest token of each row, not in the cache yet. It is 0 if
      all are.
    predicted_tokens: The sampled tokens; 0 behind the end of a row.
    context: Every token of the row from the first on, the newest included;
      negative where the soft tokens of an image are.
    dropped: Tokens that were dropped from the front of the context.
    cache: Keys and values of everything before `last_token`.
    rng: A random stream per row; a token's key follows from its place.
    settings: How each row picks its tokens.
    seen: Tokens so far, if any row has a penalty.
    trace: What is recorded of each token.
    draft_cache: The cache of a draft model, if there is one.
    images: Those in the contexts, should they have to be computed anew. Only
      states that a caller gets to see have them, and no compiled program.
  """

  count: Int[Array, 'B']
  limit: Int[Array, 'B']
  done: Bool[Array, 'B']
  last_token: Int[Array, 'B']
  predicted_tokens: Int[Array, 'B M']
  context: Int[Array, 'B P']
  dropped: Int[Array, 'B']
  cache: _cache.KVCache
  rng: Key[Array, 'B']
  settings: _settings.Settings
  seen: _settings.Seen | None = None
  trace: Trace = Trace()
  draft_cache: _cache.KVCache | None = None
  images: tuple[UInt8[Array | np.ndarray, 'Y X Z'], ...] = ()

  @property
  def full(self) -> Bool[Array, 'B']:
    """Rows whose last token finds no place in the cache."""
    return self.cache.length >= self.cache.cache_length

  @property
  def live(self) -> Bool[Array, 'B']:
    """Rows that are to go on, if there is room for them."""
    return ~self.done & (self.count < self.limit)

  @property
  def step(self) -> Int[Array, '']:
    """Tokens of the longest answer."""
    return jnp.max(self.count)

  @property
  def last_token_pos(self) -> Int[Array, 'B']:
    """Position of each row's last token."""
    return self.cache.length

  @property
  def init_cache_length(self) -> Int[Array, '']:
    """Tokens of the longest prompt, and of all that came before it."""
    return jnp.max(self.used_cache_length - self.count)

  @property
  def used_cache_length(self) -> Int[Array, 'B']:
    """Tokens of each row, the newest included."""
    return self.cache.length + (self.last_token != PAD)

  @property
  def full_attention_mask(self) -> Bool[Array, 'B S']:
    """Places of the cache that hold a token."""
    place = jnp.arange(self.cache.cache_length)[None]
    return place < self.cache.length[:, None]

  @property
  def attention_mask_for_step(self) -> Bool[Array, 'B S']:
    """What the newest token sees: all before it, and itself."""
    place = jnp.arange(self.cache.cache_length)[None]
    return place <= self.cache.length[:, None]

  @property
  def cache_info(self) -> 'CacheInfo':
    """How full the cache is."""
    return CacheInfo(
      end_index=self.cache.length,
      total_cache_length=self.cache.cache_length,
    )

  def grow(self, capacity: int) -> 'SamplingState':
    """The same state with room for more tokens."""
    more = capacity - self.cache.cache_length
    draft = self.draft_cache
    return self.replace(
      cache=self.cache.grow(capacity),
      context=jnp.pad(self.context, [(0, 0), (0, more)]),
      draft_cache=None if draft is None else draft.grow(capacity),
    )

  def without_last(self) -> 'SamplingState':
    """The same state, as if the newest token had not been sampled."""
    return self.replace(last_token=jnp.full_like(self.last_token, PAD))

  def contexts(self) -> list[list[int]]:
    """Every token of each row, as lists."""
    rows, used = jax.device_get((self.context, self.used_cache_length))
    return [row[:n].tolist() for row, n in zip(rows, used, strict=True)]


@dataclasses.dataclass(frozen=True)
class CacheInfo:
  """How full a cache is.

  Attributes:
    end_index: Tokens in each row.
    total_cache_length: Tokens that a row can hold at present.
  """

  end_index: Int[Array, 'B']
  total_cache_length: int

  @property
  def is_full(self) -> Bool[Array, '']:
    """Whether any row has no room left."""
    return jnp.any(self.end_index >= self.total_cache_length)


def whole(state: SamplingState) -> SamplingState:
  """All but keys and values whole on each device, for every host to read.

  For use inside of `jax.jit`; of a state on a mesh.
  """

  def leaf(path: Any, x: Any) -> Any:
    name = jax.tree_util.keystr(path[-1:], simple=True)
    return x if name in 'kv' else _partition.constrain(x, '_' * x.ndim)

  return jax.tree_util.tree_map_with_path(leaf, state)


def take_rows(state: Any, rows: Sequence[int] | np.ndarray) -> Any:
  """Some rows of a state, or of any tree whose leaves have rows."""
  return _take_rows(state, np.asarray(rows, np.int32))


def put_rows(state: Any, rows: Sequence[int] | np.ndarray, new: Any) -> Any:
  """A state with some of its rows replaced; its buffers are reused.

  Args:
    state: The state.
    rows: Which rows. A row outside of the state is left out.
    new: The rows to put there, of the same capacity.
  """
  return _put_rows(state, jnp.asarray(np.asarray(rows, np.int32)), new)


@jax.jit
def _take_rows(state: Any, index: Int[Array, 'R']) -> Any:
  return jax.tree.map(lambda x: x[index], state)


@functools.partial(jax.jit, donate_argnums=0)
def _put_rows(state: Any, index: Int[Array, 'R'], new: Any) -> Any:
  return jax.tree.map(
    lambda old, x: old.at[index].set(x, mode='drop'), state, new
  )
