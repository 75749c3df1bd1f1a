"""Prompts in, text out."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import random
import time
from typing import Any
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from gemma.gm.nn import _checks
from gemma.gm.nn import _transformer
from gemma.gm.text import _decode
from gemma.gm.text import _detokenizer
from gemma.gm.text import _prompt
from gemma.gm.text import _sampling
from gemma.gm.text import _tokenizer

FinishReason = Literal['stop', 'length', 'cache_full']

# A stream looks at the device about this often, in seconds.
_STREAM_INTERVAL = 0.05
_STREAM_STEPS = 64  # And at least after so many tokens.


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerOutput:
  """What `Sampler.sample(..., return_state=True)` returns.

  For a batch, text, tokens and finish_reason are lists.

  Attributes:
    text: The sampled text, with the end tag if it is visible.
    state: Where to go on, as `last_state`.
    tokens: The sampled ids, the stop token included.
    finish_reason: `stop` (a stop token), `length` (max_new_tokens), or
      `cache_full`; None while streaming.
  """

  text: str | list[str]
  state: _decode.SamplingState
  tokens: list[int] | list[list[int]]
  finish_reason: FinishReason | list[FinishReason] | None


@dataclasses.dataclass(kw_only=True, eq=False)
class Sampler:
  """Samples text. Keeps nothing between calls.

  Strings are taken verbatim, behind `<bos>`; for a conversation use
  `ChatSampler`, or give a list of messages as a prompt.

  ```python
  >>> from gemma import gm
  >>> tiny = gm.from_pretrained(gm.ckpts.CheckpointPath.GEMMA3_TINY_IT)
  >>> sampler = gm.text.Sampler(
  ...   model=tiny.model, params=tiny.params, tokenizer=tiny.tokenizer
  ... )
  >>> text = sampler.sample('ROMEO:', max_new_tokens=8)

  ```

  Attributes:
    model: The model.
    params: Its parameters.
    tokenizer: Its vocabulary; by default that of `model.INFO`.
    sampling: How to pick tokens.
    forbidden_tokens: Never sampled, besides those of the tokenizer; ids, or
      texts that are one token.
    stop_tokens: End the text, besides end of turn and end of sequence.
    cache_length: Tokens that prompt and answer may have together.
    max_out_length: Tokens that an answer may have.
    pad_length: Sizes of the chunks in which prompts go into the cache: each has
      its own compilation. None compiles for the exact length.
  """

  model: _transformer.Transformer
  params: Mapping[str, Any] = dataclasses.field(repr=False)
  tokenizer: _tokenizer.Tokenizer | None = None
  sampling: _sampling.SamplingMethod = _sampling.Greedy()
  forbidden_tokens: Sequence[str | int] | None = None
  stop_tokens: Sequence[str | int] | None = None
  cache_length: int = 4096
  max_out_length: int = 2048
  pad_length: int | tuple[int, ...] | None = (256, 512, 1024)

  def __post_init__(self):
    self.tokenizer = self.codec
    if self.cache_length < 1 or self.max_out_length < 1:
      raise ValueError(
        f'cache_length={self.cache_length} and max_out_length='
        f'{self.max_out_length} must be at least 1.'
      )

  def sample(
    self,
    prompt: Any,
    *,
    max_new_tokens: int | None = None,
    stream: bool = False,
    sampling: _sampling.SamplingMethod | None = None,
    rng: int | jax.Array | None = None,
    return_state: bool = False,
    last_state: _decode.SamplingState | None = None,
  ) -> Any:
    """Samples an answer to each prompt.

    A row of a batch gives the same tokens as that row alone with the same seed.

    Args:
      prompt: A string; a list of ids; a conversation, as a list of dicts with
        `role` and `content`; or a list or array of these.
      max_new_tokens: Most tokens to sample; by default `max_out_length`.
      stream: Whether to return an iterator over the pieces of the text, one per
        token (for a batch, over lists of pieces).
      sampling: In place of the sampler's own.
      rng: Seed, or random key; by default a new one for each call.
      return_state: Whether to return a `SamplerOutput` in place of text.
      last_state: State of an earlier call to go on from: the prompt follows
        all that was said there, its last token included. It is left intact.

    Returns:
      A string, or a list of strings for a batch; see also the arguments.

    Raises:
      ValueError: If a prompt is empty, does not fit into the cache, or has an
        id outside of the table, or `max_new_tokens` is too large.
    """
    limit = max_new_tokens or self.max_out_length
    if limit < 1:
      raise ValueError(f'max_new_tokens={limit} is below 1.')
    if limit > self.max_out_length:
      raise ValueError(
        'max_new_tokens should be smaller or equal to max_out_length: '
        f'{limit} > {self.max_out_length}. Raise max_out_length.'
      )
    sampling = self.sampling if sampling is None else sampling
    prompts = _prompt.encode(
      self.codec,
      prompt,
      add_bos=last_state is None,
      num_embed=self.model.config.num_embed,
    )
    state = self._begin(prompts.rows, sampling, _as_key(rng), last_state)
    states = self._run(state, sampling, limit, often=stream)
    if stream:
      return self._stream(states, prompts.batched, return_state)
    *_, state = states
    return self._output(state, prompts.batched, return_state)

  @functools.cached_property
  def codec(self) -> _tokenizer.Tokenizer:
    """The tokenizer, whether it was given or is the model's own."""
    return resolve_tokenizer(self.model, self.tokenizer)

  @functools.cached_property
  def _vocabulary(self) -> _decode.Vocabulary:
    """Which ids are never sampled, and which end a text."""
    tokenizer, size = self.codec, self.model.config.num_embed
    special = tokenizer.special_tokens
    real = min(tokenizer.vocab_size, self.model.config.vocab_size or size)
    banned = np.arange(size) >= real  # Rows of the table without a token.
    banned[[_decode.PAD, *self._ids(self.forbidden_tokens)]] = True
    # A small model may have no row for an image token.
    banned[[i for i in tokenizer.FORBIDDEN_TOKENS if i < size]] = True
    stops = np.zeros(size, bool)
    ends = (special.EOS, special.END_OF_TURN)
    stops[[*ends, *self._ids(self.stop_tokens)]] = True
    return _decode.Vocabulary(
      banned=jnp.asarray(banned), stops=jnp.asarray(stops)
    )

  def _ids(self, tokens: Sequence[str | int] | None) -> list[int]:
    rows = self.model.config.num_embed
    return [_single_id(self.codec, token, rows) for token in tokens or ()]

  def _begin(
    self,
    rows: list[list[int]],
    sampling: _sampling.SamplingMethod,
    key: jax.Array,
    last_state: _decode.SamplingState | None,
  ) -> _decode.SamplingState:
    """The state behind the prompts' last tokens, with a first token sampled."""
    keys = _decode.row_keys(key, rows)
    if last_state is None:
      cache = self.model.init_cache(
        batch_size=len(rows),
        dtype=self.params['embedder']['input_embedding'].dtype,
        cache_length=self.cache_length,
      )
    else:
      # Decoding reuses buffers, and the caller's state stays the caller's.
      cache = jax.tree.map(jnp.copy, last_state.cache)
      rows = _continue(rows, last_state)
    _checks.check_room(
      np.asarray(cache.length) + [len(row) for row in rows], cache.cache_length
    )
    buckets = self.pad_length
    cache, logits = _decode.prefill(
      self.model,
      self.params,
      _prompt.pad(rows),
      cache,
      buckets=(buckets,) if isinstance(buckets, int) else buckets,
    )
    return _decode.start(
      logits,
      cache,
      keys,
      sampling=sampling,
      vocabulary=self._vocabulary,
      max_out_length=self.max_out_length,
    )

  def _run(
    self,
    state: _decode.SamplingState,
    sampling: _sampling.SamplingMethod,
    limit: int,
    *,
    often: bool,
  ) -> Iterator[_decode.SamplingState]:
    """States on the way to the last one; only that one unless `often`."""
    step, count = 1, 1 if often else limit
    if often:
      yield state
    while step < limit and not bool(jnp.all(state.done | state.full)):
      began = time.monotonic()
      step = min(step + count, limit)
      state = _decode.decode(
        self.params,
        state,
        self._vocabulary,
        jnp.int32(step),
        model=self.model,
        sampling=sampling,
      )
      if often:
        jax.block_until_ready(state)
        per_token = (time.monotonic() - began) / count
        count = int(_STREAM_INTERVAL / per_token)
        count = max(1, min(count, _STREAM_STEPS))
        yield state
    if not often:
      yield state

  def _stream(
    self,
    states: Iterator[_decode.SamplingState],
    batched: bool,
    return_state: bool,
  ) -> Iterator[Any]:
    """Pieces of text, one step at a time."""
    first, detokenizers = 0, None
    for state in states:
      rows = np.asarray(state.predicted_tokens)
      if detokenizers is None:
        detokenizers = [_detokenizer.Detokenizer(self.codec) for _ in rows]
      for step in range(first, int(state.step)):
        tokens = rows[:, step].tolist()
        pairs = zip(detokenizers, tokens, strict=True)
        texts = [d.add(token) if token else d.flush() for d, token in pairs]
        yield _pack(texts, tokens, state, batched, return_state)
      first = int(state.step)
    rest = [d.flush() for d in detokenizers or ()]
    if any(rest):
      yield _pack(rest, [_decode.PAD] * len(rest), state, batched, return_state)

  def _output(
    self, state: _decode.SamplingState, batched: bool, return_state: bool
  ) -> Any:
    """The result of a whole call."""
    predicted = np.asarray(state.predicted_tokens)
    tokens = [row[row != _decode.PAD].tolist() for row in predicted]
    texts = [self.codec.decode(row) for row in tokens]
    if not return_state:
      return texts if batched else texts[0]
    reasons = finish_reasons(state)
    return SamplerOutput(
      text=texts if batched else texts[0],
      state=state,
      tokens=tokens if batched else tokens[0],
      finish_reason=reasons if batched else reasons[0],
    )


def resolve_tokenizer(
  model: _transformer.Transformer, tokenizer: _tokenizer.Tokenizer | None
) -> _tokenizer.Tokenizer:
  """The tokenizer of a model, or the given one if the two go together."""
  version = model.INFO.tokenizer_version
  if tokenizer is None:
    if not version:
      raise ValueError(
        f'{type(model).__name__} does not say which tokenizer it has. Give '
        'tokenizer=, such as gm.from_pretrained(folder).tokenizer.'
      )
    return _tokenizer.Tokenizer.from_version(version)
  if version and tokenizer.VERSION and version != tokenizer.VERSION:
    raise ValueError(
      f'Incompatible model and tokenizer: {type(model).__name__} needs version '
      f'{version}, {type(tokenizer).__name__} is {tokenizer.VERSION}.'
    )
  return tokenizer


def _as_key(rng: int | jax.Array | None) -> jax.Array:
  """A typed random key from a seed or a key of either kind."""
  if rng is None:
    rng = random.getrandbits(31)
  if isinstance(rng, int | np.integer):
    return jax.random.key(int(rng))
  if jnp.issubdtype(rng.dtype, jax.dtypes.prng_key):
    return rng
  return jax.random.wrap_key_data(rng)


def _continue(
  rows: list[list[int]], last_state: _decode.SamplingState
) -> list[list[int]]:
  """Rows behind the token that each row of the state sampled last."""
  pending = np.asarray(last_state.last_token).tolist()
  if len(pending) != len(rows):
    raise ValueError(
      f'{len(rows)} prompts cannot follow a last_state of {len(pending)} rows.'
    )
  both = zip(pending, rows, strict=True)
  return [([last] if last != _decode.PAD else []) + row for last, row in both]


def _single_id(
  tokenizer: _tokenizer.Tokenizer, token: str | int, rows: int
) -> int:
  if not isinstance(token, str):
    if not 0 <= token < rows:
      raise ValueError(
        f'Stop or forbidden token {token} is outside of the table of {rows} '
        'rows.'
      )
    return int(token)
  ids = tokenizer.encode(token)
  if len(ids) != 1:
    raise ValueError(
      f'Stop and forbidden tokens must map to single token ids; {token!r} is '
      f'{tokenizer.split(token)}.'
    )
  return ids[0]


def finish_reasons(state: _decode.SamplingState) -> list[FinishReason]:
  """Why each row ended, read off the state behind its last token."""
  done, full = np.asarray(state.done), np.asarray(state.full)
  return [
    'stop' if d else 'cache_full' if f else 'length'
    for d, f in zip(done, full, strict=True)
  ]


def _pack(
  texts: list[str],
  tokens: list[int],
  state: _decode.SamplingState,
  batched: bool,
  return_state: bool,
) -> Any:
  """One step of a stream in the form that was asked for."""
  if not return_state:
    return texts if batched else texts[0]
  new = [[token] if token != _decode.PAD else [] for token in tokens]
  return SamplerOutput(
    text=texts if batched else texts[0],
    state=state,
    tokens=new if batched else new[0],
    finish_reason=None,
  )
