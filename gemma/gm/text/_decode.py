"""The decode core: prompts into the cache, tokens out of it.

Axes: B batch, L length, C one chunk of L, V vocab, M max_out_length.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import functools
from typing import Any
import zlib

from flax import struct
import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Key
import numpy as np

from gemma.gm.nn import _cache
from gemma.gm.nn import _transformer
from gemma.gm.text import _sampling

PAD = _transformer.PAD
Params = Mapping[str, Any]


class SamplingState(struct.PyTreeNode):
  """Everything between two tokens.

  Attributes:
    step: Tokens sampled by this call so far.
    done: Rows that sampled a stop token.
    last_token: The newest token of each row, sampled but not yet in the cache.
    predicted_tokens: All sampled tokens; 0 behind the end of a row.
    cache: Keys and values of everything before `last_token`.
    rng: One random stream per row.
  """

  step: Int[Array, '']
  done: Bool[Array, 'B']
  last_token: Int[Array, 'B']
  predicted_tokens: Int[Array, 'B M']
  cache: _cache.KVCache
  rng: Key[Array, 'B']

  @property
  def full(self) -> Bool[Array, 'B']:
    """Rows whose last token finds no place in the cache."""
    return self.cache.length >= self.cache.cache_length


class Vocabulary(struct.PyTreeNode):
  """Roles of tokens while sampling.

  Attributes:
    banned: Never sampled.
    stops: End their row.
  """

  banned: Bool[Array, 'V']
  stops: Bool[Array, 'V']


def prefill(
  model: _transformer.Transformer,
  params: Params,
  tokens: Int[np.ndarray, 'B L'],
  cache: _cache.KVCache,
  *,
  buckets: Sequence[int] | None,
) -> tuple[_cache.KVCache, Float[Array, 'B V']]:
  """Puts prompts into the cache, chunk by chunk.

  Args:
    model: The model.
    params: Its parameters.
    tokens: Prompts, padded on the right.
    cache: The cache; its buffers are reused.
    buckets: Sizes of a chunk; None for one chunk of any length.

  Returns:
    The cache, and the logits behind each row's last token.
  """
  logits = jnp.zeros((tokens.shape[0], model.config.num_embed))
  for chunk in _chunks(tokens, buckets):
    cache, logits = _prefill_chunk(model, params, chunk, cache, logits)
  return cache, logits


def start(
  logits: Float[Array, 'B V'],
  cache: _cache.KVCache,
  rng: Key[Array, 'B'],
  *,
  sampling: _sampling.SamplingMethod,
  vocabulary: Vocabulary,
  max_out_length: int,
) -> SamplingState:
  """Samples the first token behind the prompts."""
  rows = logits.shape[0]
  state = SamplingState(
    step=jnp.zeros((), jnp.int32),
    done=jnp.zeros(rows, bool),
    last_token=jnp.zeros(rows, jnp.int32),
    predicted_tokens=jnp.zeros((rows, max_out_length), jnp.int32),
    cache=cache,
    rng=rng,
  )
  return _start(state, logits, vocabulary, sampling=sampling)


@functools.partial(
  jax.jit, static_argnames=('model', 'sampling'), donate_argnames=('state',)
)
def decode(
  params: Params,
  state: SamplingState,
  vocabulary: Vocabulary,
  limit: Int[Array, ''],
  *,
  model: _transformer.Transformer,
  sampling: _sampling.SamplingMethod,
) -> SamplingState:
  """Samples until every row is done or full, or `limit` tokens are there.

  Whole answers and streams run this same loop: a stream stops it often.

  Args:
    params: The parameters.
    state: From `start`, or from here; its buffers are reused.
    vocabulary: Which tokens are banned, and which end a row.
    limit: Value of `state.step` to stop at.
    model: The model.
    sampling: How to pick tokens.
  """

  def running(state: SamplingState) -> Bool[Array, '']:
    return (state.step < limit) & jnp.any(~state.done & ~state.full)

  def step(state: SamplingState) -> SamplingState:
    # Rows that are done or full feed padding, which leaves no trace.
    feed = jnp.where(state.done | state.full, PAD, state.last_token)
    cache, logits = _forward(model, params, feed[:, None], state.cache)
    idle = state.full
    state = state.replace(cache=cache)
    return _sample(state, logits, vocabulary, sampling, idle)

  return jax.lax.while_loop(running, step, state)


def row_keys(
  key: Key[Array, ''], rows: Sequence[Sequence[int]]
) -> Key[Array, 'B']:
  """A random stream for each row, of the seed and its prompt alone.

  So a row is sampled the same whatever else is in its batch. Equal prompts are
  told apart by their order.
  """
  seen: dict[int, int] = {}
  keys = []
  for row in rows:
    digest = zlib.crc32(np.asarray(row, np.int32).tobytes())
    order = seen.setdefault(digest, 0)
    seen[digest] += 1
    keys.append(jax.random.fold_in(jax.random.fold_in(key, digest), order))
  return jnp.stack(keys)


def _chunks(
  tokens: Int[np.ndarray, 'B L'], buckets: Sequence[int] | None
) -> Iterator[Int[np.ndarray, 'B C']]:
  """Cuts prompts in chunks of the largest size, and a last one that fits."""
  length = tokens.shape[1]
  sizes = sorted(buckets) if buckets else [length]
  for begin in range(0, length, sizes[-1]):
    chunk = tokens[:, begin : begin + sizes[-1]]
    size = next(size for size in sizes if size >= chunk.shape[1])
    yield np.pad(chunk, [(0, 0), (0, size - chunk.shape[1])])


@functools.partial(
  jax.jit, static_argnums=0, donate_argnames=('cache', 'logits')
)
def _prefill_chunk(
  model: _transformer.Transformer,
  params: Params,
  chunk: Int[Array, 'B C'],
  cache: _cache.KVCache,
  logits: Float[Array, 'B V'],
) -> tuple[_cache.KVCache, Float[Array, 'B V']]:
  cache, new_logits = _forward(model, params, chunk, cache)
  ended = jnp.all(chunk == PAD, axis=1, keepdims=True)
  return cache, jnp.where(ended, logits, new_logits)


@functools.partial(jax.jit, static_argnames='sampling', donate_argnums=0)
def _start(
  state: SamplingState,
  logits: Float[Array, 'B V'],
  vocabulary: Vocabulary,
  *,
  sampling: _sampling.SamplingMethod,
) -> SamplingState:
  return _sample(
    state, logits, vocabulary, sampling, jnp.zeros_like(state.done)
  )


def _forward(
  model: _transformer.Transformer,
  params: Params,
  tokens: Int[Array, 'B L'],
  cache: _cache.KVCache,
) -> tuple[_cache.KVCache, Float[Array, 'B V']]:
  """Feeds tokens; the logits are those behind each row's last one."""
  out: Any = model.apply(
    {'params': params}, tokens, cache=cache, return_last_only=True
  )
  return out.cache, out.logits


def _sample(
  state: SamplingState,
  logits: Float[Array, 'B V'],
  vocabulary: Vocabulary,
  sampling: _sampling.SamplingMethod,
  idle: Bool[Array, 'B'],
) -> SamplingState:
  """Picks and records a token for each row that is not done, nor idle."""
  keys = jax.vmap(jax.random.split)(state.rng)
  logits = jnp.where(vocabulary.banned[None], -jnp.inf, logits)
  tokens = jax.vmap(sampling.get_next_tokens)(logits, keys[:, 1])
  tokens = tokens.astype(jnp.int32)
  idle |= state.done
  tokens = jnp.where(idle, PAD, tokens)
  return state.replace(
    step=state.step + 1,
    done=state.done | (vocabulary.stops[tokens] & ~idle),
    last_token=jnp.where(idle, state.last_token, tokens),
    predicted_tokens=state.predicted_tokens.at[:, state.step].set(tokens),
    rng=keys[:, 0],
  )
