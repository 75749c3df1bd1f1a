"""The host's side of sampling: room for tokens, and when to look at them."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import time
from typing import Any
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from gemma.gm.nn import _like
from gemma.gm.sharding import _mesh
from gemma.gm.sharding import _processes
from gemma.gm.text import _album
from gemma.gm.text import _decode
from gemma.gm.text import _drafts
from gemma.gm.text import _filler
from gemma.gm.text import _prefix_cache
from gemma.gm.text import _request
from gemma.gm.text import _settings
from gemma.gm.text import _state
from gemma.gm.text import _step

PAD = _state.PAD
OnFull = Literal['error', 'stop', 'roll']

_CAPACITY = 512  # The smallest cache; it grows by doubling.
_ANSWER = 256  # Tokens of an answer that the first cache has room for.
# A stream looks at the device about this often, in seconds.
_STREAM_INTERVAL = 0.05
_STREAM_STEPS = 64  # And at least after so many tokens.
_WHOLE = 1 << 30  # Passes of the model when nobody looks in between.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runner:
  """A model, and the memory that sampling may take.

  Attributes:
    model: The model.
    params: Its parameters.
    rules: Roles of tokens.
    cache_length: Most tokens of a row.
    on_full: What to do when a row has as many.
    buckets: Sizes of a chunk of a prompt.
    max_out_length: Tokens that an answer may have.
    draft: Who guesses tokens ahead.
    prefix_cache: Keeps prompts for later calls.
  """

  model: _like.TransformerLike
  params: Mapping[str, Any]
  rules: _step.Rules
  cache_length: int
  on_full: OnFull
  buckets: tuple[int, ...] | None
  max_out_length: int
  draft: _drafts.Draft | None = None
  prefix_cache: _prefix_cache.PrefixCache | None = None

  @functools.cached_property
  def mesh(self) -> jax.sharding.Mesh | None:
    """That of the parameters, if they are on one."""
    return _mesh.mesh_of(self.params)

  def capacity(self, tokens: int) -> int:
    """The size of cache for so many tokens: few sizes, few compilations."""
    size = _CAPACITY
    while size < tokens:
      size *= 2
    return min(size, self.cache_length)

  def begin(
    self,
    request: _request.Request,
    last_state: _state.SamplingState | None = None,
    *,
    capacity: int = 0,
  ) -> tuple[_state.SamplingState, list[int]]:
    """Puts prompts into a cache, and samples the first token of each row.

    Args:
      request: The prompts.
      last_state: What they follow; stays intact.
      capacity: Least capacity of the cache.

    Returns:
      The state, and how many tokens of each row did not have to be computed.

    Raises:
      ValueError: If a prompt does not fit.
    """
    filler = self._filler(request)
    contexts, dropped = self.fitting(_request.contexts(request, last_state))
    room = max(map(len, contexts)) + min(max(request.limits), _ANSWER)
    capacity = max(capacity, self.capacity(min(room, self.cache_length)))
    if last_state is None or any(dropped) or not self._fits(last_state):
      caches, known = filler.known(contexts, capacity, most=self.cache_length)
    else:
      known = np.asarray(last_state.cache.length).tolist()
      kept = _prefix_cache.Caches(last_state.cache, last_state.draft_cache)
      capacity = max(capacity, kept.model.cache_length)
      caches = jax.tree.map(jnp.copy, kept).grow(capacity)
    with _mesh.use_mesh(self.mesh):
      caches, ahead = filler.fill(
        caches, [row[n:] for row, n in zip(contexts, known, strict=True)]
      )
    if self.prefix_cache is not None and len(contexts) == 1:
      self.prefix_cache.store(contexts[0], caches)
    state = self._new_state(request, contexts, dropped, caches)
    with _mesh.use_mesh(self.mesh):
      state = _decode.start(
        state, ahead, self._rules(request), program=self._program(request)
      )
    return state, known

  def run(
    self,
    state: _state.SamplingState,
    request: _request.Request,
    *,
    often: bool,
  ) -> Iterator[_state.SamplingState]:
    """States on the way to the last one; only that one unless `often`.

    A state is good until the next one: its buffers are reused.
    """
    steps = 1 if often else _WHOLE
    if often:
      yield state
    while self.unfinished(state):
      request.follow(state)
      began = time.monotonic()
      state = self.advance(state, request, 1 if request.guides else steps)
      if often:
        jax.block_until_ready(state.count)
        steps = _next_steps(steps, time.monotonic() - began)
        if not state.count.is_fully_addressable:
          # Processes whose clocks chose differently would wait forever.
          steps = _processes.of_first(steps)
        yield state
    if not often:
      yield state

  def advance(
    self,
    state: _state.SamplingState,
    request: _request.Request,
    steps: int = _WHOLE,
    *,
    most_idle: int | None = None,
    prompts: Sequence[int] | None = None,
  ) -> _state.SamplingState:
    """Decodes on, and makes room for rows that have none left.

    Args:
      state: From `begin`, or from here; its buffers are reused.
      request: What was asked for.
      steps: Most passes of the model.
      most_idle: Go on only while at most so many rows are idle.
      prompts: The prompt of each row, if they are not in order.

    Raises:
      ValueError: If a row is full and `on_full` is `error`.
    """
    rows = state.done.shape[0]
    with _mesh.use_mesh(self.mesh):
      state = _decode.decode(
        self.params,
        getattr(self.draft, 'params', None),
        state,
        self._rules(request),
        np.int32(steps),
        np.bool_(self.can_grow(state)),
        np.int32(rows if most_idle is None else most_idle),
        program=self._program(request),
      )
    stuck = np.flatnonzero(state.live & state.full)
    if not stuck.size or not self.can_grow(state):
      return state
    capacity = state.cache.cache_length
    if capacity < self.cache_length:
      return state.grow(self.capacity(capacity + 1))
    if self.on_full == 'error':
      row = int(stuck[0])
      prompt = row if prompts is None else prompts[row]
      raise ValueError(
        f'Prompt {prompt} filled the cache of {capacity} tokens after '
        f'{int(state.count[row])} sampled ones. Raise cache_length, lower '
        "max_new_tokens, or choose on_full='stop' or 'roll'."
      )
    return self._roll(state, stuck, request)

  def warmup(self, request: _request.Request, max_length: int) -> None:
    """Runs every shape up to a length once.

    Args:
      request: Prompts of one token; with an image beside them, what prompts
        with images need is compiled too.
      max_length: Tokens of a row.
    """
    rows, filler = len(request.rows), self._filler(request)
    capacity, last = 0, self.capacity(max_length)
    while capacity < last:
      capacity = self.capacity(capacity + 1)
      filler.warm_up(rows, capacity)
      state, _ = self.begin(request, capacity=capacity)
      self.advance(state, request, 1)

  def unfinished(self, state: _state.SamplingState) -> bool:
    """Whether any row is to go on, and can."""
    waiting = state.live if self.can_grow(state) else state.live & ~state.full
    return bool(jnp.any(waiting))

  def can_grow(self, state: _state.SamplingState) -> bool:
    """Whether something is done about a full row."""
    return (
      self.on_full != 'stop' or state.cache.cache_length < self.cache_length
    )

  def fitting(
    self, contexts: list[list[int]]
  ) -> tuple[list[list[int]], list[int]]:
    """Contexts that fit into the cache, and how many tokens each has lost.

    Args:
      contexts: Tokens of each row.

    Raises:
      ValueError: If one does not fit, and nothing may be dropped.
    """
    longest = max(range(len(contexts)), key=lambda i: len(contexts[i]))
    length = len(contexts[longest])
    if length > self.cache_length and self.on_full != 'roll':
      raise ValueError(
        f'Row {longest} has {length} tokens, but the cache holds '
        f'{self.cache_length}. Shorten the prompt, raise cache_length, or '
        "choose on_full='roll' to drop the oldest tokens."
      )
    fitting = [
      self._cut(context) if len(context) > self.cache_length else context
      for context in contexts
    ]
    both = zip(contexts, fitting, strict=True)
    return fitting, [len(old) - len(new) for old, new in both]

  def _fits(self, state: _state.SamplingState) -> bool:
    """Whether a state has caches of this length, and those of this draft."""
    has_draft = state.draft_cache is not None
    lookahead = self.draft.num_tokens if self.draft else 0
    if state.cache.cache_length > self.cache_length:
      return False
    return has_draft == isinstance(self.draft, _drafts.DraftModel) and all(
      layer.lookahead == lookahead for layer in state.cache.layers.values()
    )

  def _cut(self, context: list[int]) -> list[int]:
    """A context without its middle: the first token, and the newest half.

    Of an image in the middle, nothing is kept.
    """
    begin = max(1, len(context) - max(1, self.cache_length // 2))
    begin = _album.outside(context, begin)
    if begin == len(context):
      raise ValueError(
        f'The context ends with an image, and of its {len(context)} tokens the '
        f'cache of {self.cache_length} keeps the newest half when it rolls. '
        'Raise cache_length to twice the tokens of an image.'
      )
    return context[:1] + context[begin:]

  def _filler(self, request: _request.Request) -> _filler.Filler:
    """What puts the prompts of a request into caches."""
    if self.prefix_cache is not None:
      self.prefix_cache.bind(self.draft, *jax.tree.leaves(self.params))
    return _filler.Filler(
      model=self.model,
      params=self.params,
      album=request.album,
      buckets=self.buckets,
      draft=self.draft,
      prefix_cache=self.prefix_cache,
      sharding=request.sharding,
    )

  def _roll(
    self,
    state: _state.SamplingState,
    stuck: np.ndarray,
    request: _request.Request,
  ) -> _state.SamplingState:
    """Drops the oldest tokens of full rows, and computes the others anew."""
    contexts = state.contexts()
    filler = dataclasses.replace(self._filler(request), sharding=None)
    for row in stuck.tolist():
      kept = self._cut(contexts[row])
      # The newest token is sampled, but not in the cache.
      caches, _ = filler.fill(
        filler.empty(1, state.cache.cache_length), [kept[:-1]]
      )
      lost = len(contexts[row]) - len(kept)
      old = _state.take_rows(state, [row])
      new = old.replace(
        cache=caches.model,
        draft_cache=caches.draft,
        context=_padded([kept], state.context.shape[1]),
        dropped=old.dropped + lost,
      )
      state = _state.put_rows(state, [row], new)
    return state

  def _new_state(
    self,
    request: _request.Request,
    contexts: list[list[int]],
    dropped: list[int],
    caches: _prefix_cache.Caches,
  ) -> _state.SamplingState:
    """The state behind the prompts, before the first token."""
    rows, size = len(contexts), self.model.config.num_embed
    capacity = caches.model.cache_length
    seen = None
    if request.penalizes:
      seen = _settings.Seen.of_prompts(contexts, size)
    state = _state.SamplingState(
      count=jnp.zeros(rows, jnp.int32),
      limit=jnp.asarray(request.limits, jnp.int32),
      done=jnp.zeros(rows, bool),
      nan=jnp.zeros(rows, bool),
      match=jnp.zeros(rows, jnp.int32),
      last_token=jnp.zeros(rows, jnp.int32),
      predicted_tokens=jnp.zeros((rows, self.max_out_length), jnp.int32),
      context=_padded(contexts, capacity + 1),
      dropped=jnp.asarray(dropped, jnp.int32),
      cache=caches.model,
      rng=jnp.copy(request.keys),  # Buffers of a state are reused.
      settings=_settings.stack(request.numbers, size, biased=request.biased),
      seen=seen,
      trace=_state.Trace.empty(
        rows,
        self.max_out_length,
        logprobs=request.logprobs,
        hidden=self.model.config.embed_dim if request.hidden_states else None,
      ),
      draft_cache=caches.draft,
    )
    return _mesh.on_mesh(state, self.mesh)

  def _rules(self, request: _request.Request) -> _step.Rules:
    """Roles of tokens in a request."""
    return _mesh.on_mesh(request.rules(self.rules), self.mesh)

  def _program(self, request: _request.Request) -> _step.Program:
    return _step.Program(
      model=self.model,
      method=request.method,
      logits_mask=request.logits_mask,
      draft=_drafts.drafter(self.draft),
    )


def _next_steps(steps: int, seconds: float) -> int:
  """Passes until a stream looks again."""
  per_step = max(seconds, 1e-6) / steps
  return max(1, min(int(_STREAM_INTERVAL / per_step), _STREAM_STEPS))


def _padded(rows: list[list[int]], length: int) -> jax.Array:
  """Rows as `int32[B, length]`."""
  out = np.full((len(rows), length), PAD, np.int32)
  for i, row in enumerate(rows):
    out[i, : len(row)] = row
  return jnp.asarray(out)
