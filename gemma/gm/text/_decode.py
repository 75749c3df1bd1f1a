"""The decode core: prompts into the cache, tokens out of it.

Axes: B batch, C one chunk of a prompt, N images of it, S soft tokens of an
image, D model, V vocab, M max_out_length.
"""

from collections.abc import Sequence
import functools
from typing import Any
import zlib

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Key
from jaxtyping import UInt32
import numpy as np

from gemma.gm.nn import _cache
from gemma.gm.nn import _compiled
from gemma.gm.nn import _like
from gemma.gm.nn import _place
from gemma.gm.nn import _weights
from gemma.gm.text import _album
from gemma.gm.text import _chunks
from gemma.gm.text import _images
from gemma.gm.text import _speculative
from gemma.gm.text import _state
from gemma.gm.text import _step

PAD = _state.PAD


def prefill(
  model: _like.TransformerLike,
  params: _step.Params,
  rows: Sequence[Sequence[int]],
  cache: _cache.KVCache,
  *,
  album: _album.Album,
  buckets: Sequence[int] | None,
  sharding: Any = None,
) -> tuple[_cache.KVCache, _step.Prediction]:
  """Puts prompts into the cache, chunk by chunk.

  Args:
    model: The model.
    params: Its parameters.
    rows: Prompts.
    cache: The cache; its buffers are reused.
    album: The images of the prompts.
    buckets: Sizes of a chunk; None for one chunk of any length.
    sharding: Where the prompts lie.

  Returns:
    The cache, and the prediction behind each row's last token.
  """
  config = model.config
  dtype = _weights.dtype_of(params)
  ahead = _step.Prediction(
    logits=jnp.zeros((len(rows), config.num_embed)),
    hidden_states=jnp.zeros((len(rows), config.embed_dim), dtype),
  )
  for chunk in _chunks.cut(rows, buckets, _images.soft_tokens_of(model)):
    soft = album.soft_tokens_of(chunk, model, params)
    soft = None if soft is None else _place.place(soft, sharding)
    tokens = _place.place(chunk.tokens, sharding)
    cache, ahead = _prefill_chunk(model, params, tokens, soft, cache, ahead)
  return cache, ahead


@functools.partial(
  jax.jit, static_argnames='program', donate_argnames=('state',)
)
def start(
  state: _state.SamplingState,
  ahead: _step.Prediction,
  rules: _step.Rules,
  *,
  program: _step.Program,
) -> _state.SamplingState:
  """Samples the first token behind the prompts; `state` is reused."""
  index = state.cache.length
  tokens, finite = _step.pick(
    state, ahead.logits, index, rules=rules, program=program
  )
  state = _step.append(state, tokens, ahead, index, state.live, rules, finite)
  return _state.whole(state)


@functools.partial(
  _compiled.jit, static_argnames='program', donate_argnames=('state',)
)
def decode(
  params: _step.Params,
  draft_params: _step.Params | None,
  state: _state.SamplingState,
  rules: _step.Rules,
  steps: Int[Array, ''],
  can_grow: Bool[Array, ''],
  most_idle: Int[Array, ''],
  *,
  program: _step.Program,
) -> _state.SamplingState:
  """Samples on, until the host is needed.

  Whole answers, streams and queues run this same loop: they stop it more or
  less often.

  Args:
    params: The parameters.
    draft_params: Those of the draft model, if there is one.
    state: From `start`, or from here; its buffers are reused.
    rules: Roles of tokens.
    steps: Most passes of the model.
    can_grow: Whether to stop as soon as a row finds no room, or to go on with
      the others.
    most_idle: Go on only while at most so many rows are idle.
    program: The model, and all else that is compiled in.

  Returns:
    The state in which every row is done, or one of the above holds.
  """

  def running(carry: tuple[jax.Array, _state.SamplingState]) -> jax.Array:
    left, state = carry
    active = state.live & ~state.full
    stuck = can_grow & jnp.any(state.live & state.full)
    idle = jnp.sum(~active)
    return (left > 0) & jnp.any(active) & ~stuck & (idle <= most_idle)

  def step(
    carry: tuple[jax.Array, _state.SamplingState],
  ) -> tuple[jax.Array, _state.SamplingState]:
    left, state = carry
    active = state.live & ~state.full
    if program.draft is None:
      state = _one_token(params, state, active, rules=rules, program=program)
    else:
      state = _speculative.step(
        params, draft_params, state, active, rules=rules, program=program
      )
    return left - 1, state

  return _state.whole(jax.lax.while_loop(running, step, (steps, state))[1])


def row_keys(
  key: Key[Array, ''], rows: Sequence[Sequence[int]]
) -> Key[Array, 'B']:
  """A random stream for each row, of the seed and its prompt alone.

  So a row is sampled the same whatever else is in its batch. Equal prompts are
  told apart by their order.
  """
  seen: dict[int, int] = {}
  folds = []
  for row in rows:
    digest = zlib.crc32(np.asarray(row, np.int32).tobytes())
    folds.append((digest, seen.setdefault(digest, 0)))
    seen[digest] += 1
  return _fold(key, jnp.asarray(np.array(folds, np.uint32)))


@jax.jit
def _fold(key: Key[Array, ''], folds: UInt32[Array, 'B 2']) -> Key[Array, 'B']:
  fold = jax.random.fold_in
  return jax.vmap(lambda x: fold(fold(key, x[0]), x[1]))(folds)


@functools.partial(
  _compiled.jit, static_argnums=0, donate_argnames=('cache', 'ahead')
)
def _prefill_chunk(
  model: _like.TransformerLike,
  params: _step.Params,
  chunk: Int[Array, 'B C'],
  soft_tokens: Float[Array, 'B N S D'] | None,
  cache: _cache.KVCache,
  ahead: _step.Prediction,
) -> tuple[_cache.KVCache, _step.Prediction]:
  cache, new = _step.forward(model, params, chunk, cache, soft_tokens)
  ended = jnp.all(chunk == PAD, axis=1, keepdims=True)
  ahead = jax.tree.map(lambda old, x: jnp.where(ended, old, x), ahead, new)
  return cache, ahead


def _one_token(
  params: _step.Params,
  state: _state.SamplingState,
  active: Bool[Array, 'B'],
  *,
  rules: _step.Rules,
  program: _step.Program,
) -> _state.SamplingState:
  """The next token of each active row. The others feed padding: no trace."""
  feed = jnp.where(active, state.last_token, PAD)
  cache, ahead = _step.forward(
    program.model, params, feed[:, None], state.cache
  )
  state = state.replace(cache=cache)
  index = cache.length
  tokens, finite = _step.pick(
    state, ahead.logits, index, rules=rules, program=program
  )
  return _step.append(state, tokens, ahead, index, active, rules, finite)
