"""Prompts in, text out."""

import asyncio
from collections.abc import AsyncIterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from gemma.gm.math import _numbers
from gemma.gm.nn import _like
from gemma.gm.nn import _place
from gemma.gm.sharding import _mesh
from gemma.gm.sharding import _rules as _shard_rules
from gemma.gm.text import _album
from gemma.gm.text import _calls
from gemma.gm.text import _chunks
from gemma.gm.text import _decode
from gemma.gm.text import _drafts
from gemma.gm.text import _images
from gemma.gm.text import _past
from gemma.gm.text import _prefix_cache
from gemma.gm.text import _prompt
from gemma.gm.text import _request
from gemma.gm.text import _rules
from gemma.gm.text import _runner
from gemma.gm.text import _sampling
from gemma.gm.text import _schema
from gemma.gm.text import _scoring
from gemma.gm.text import _settings
from gemma.gm.text import _state
from gemma.gm.text import _step
from gemma.gm.text import _stop_strings
from gemma.gm.text import _tokenizer

Sampling = _sampling.SamplingMethod | Sequence[_sampling.SamplingMethod]


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
    stop_strings: Texts that end the answer, whatever tokens they are in. The
      text comes without them, whole or streamed; `token_ids` and the state have
      all that was sampled.
    cache_length: Most tokens of a prompt and its answer together. The cache
      begins small, and doubles as it fills.
    max_out_length: Tokens that an answer may have.
    pad_length: Sizes of the chunks in which prompts go into the cache: each has
      its own compilation. None compiles for the exact length.
    on_full: What happens when a row has `cache_length` tokens: `stop` ends it
      (`finish_reason` is `cache_full`), `error` raises, `roll` drops the oldest
      half of its tokens but for the first, and goes on.
    max_batch_size: Most prompts in one batch; of more, the next in line takes
      the place of one that is done.
    draft: Guesses tokens ahead, which the model then checks several at a time:
      a `DraftModel` or `PromptLookup`.
    prefix_cache: Keeps prompts, so that what calls share is computed once.
    sharding: A preset such as `gm.sharding.TENSOR`, for parameters, prompts and
      caches. By default parameters stay where they are; if a preset put them
      there, prompts and caches follow it.
    allow_special: Whether tags such as `<start_of_turn>` in a string become
      control tokens. Turn it off for text that is not your own.
  """

  model: _like.TransformerLike
  params: Mapping[str, Any] = dataclasses.field(repr=False)
  tokenizer: _tokenizer.Tokenizer | None = None
  sampling: Sampling = _sampling.Greedy()
  forbidden_tokens: Sequence[str | int] | None = None
  stop_tokens: Sequence[str | int] | None = None
  stop_strings: Sequence[str] | None = None
  cache_length: int = 4096
  max_out_length: int = 2048
  pad_length: int | tuple[int, ...] | None = (64, 256, 1024)
  on_full: _runner.OnFull = 'stop'
  max_batch_size: int = 16
  draft: _drafts.Draft | None = None
  prefix_cache: _prefix_cache.PrefixCache | None = None
  allow_special: bool = True
  sharding: _shard_rules.Rules | None = None

  def __post_init__(self):
    self.tokenizer = self.codec
    for name in ('cache_length', 'max_out_length', 'max_batch_size'):
      value = getattr(self, name)
      if value < 1:
        raise ValueError(f'{name}={value} must be at least 1.')
      _numbers.whole(1, **{name: value})
    _chunks.sizes_of(self.pad_length)  # Raises if there is no such size.
    if self.on_full not in ('error', 'stop', 'roll'):
      raise ValueError(
        f"on_full={self.on_full!r} is not one of 'error', 'stop', 'roll'."
      )
    if self.on_full == 'roll' and self.cache_length < 2:
      raise ValueError(
        "on_full='roll' keeps the first token and the newest ones, which needs "
        f'cache_length={self.cache_length} to be at least 2.'
      )
    _drafts.check(self.draft, self.model)
    _stop_strings.check(self.stop_strings)

  def sample(
    self,
    prompt: Any,
    *,
    images: Any = None,
    audio: Any = None,
    audio_lengths: Any = None,
    max_new_tokens: int | Sequence[int] | None = None,
    stream: bool = False,
    sampling: Sampling | None = None,
    rng: int | jax.Array | None = None,
    return_state: bool = False,
    last_state: _state.SamplingState | None = None,
    sharding: Any = None,
    schema: _schema.Schema | Sequence[_schema.Schema] | None = None,
    logits_mask: _step.LogitsMask | None = None,
    logprobs: int | None = None,
    return_hidden_states: bool = False,
    progress: bool = True,
  ) -> Any:
    """Samples an answer to each prompt.

    A row of a batch gives the same tokens as that row alone with the same seed.

    Args:
      prompt: A string; a list of ids; a conversation, as a list of dicts with
        `role` and `content`; or a list or array of these.
      images: What `<start_of_image>` in the prompt stands for, one image each:
        an image, a list of them, or an array `N H W C`. For a list of prompts,
        a list with such an entry or None for each, or an array `B H W C` or
        `B N H W C`. An image is anything that `gm.vision.read_image` takes. The
        messages of a conversation may have their images in them instead:
        `{'type': 'image', 'image': ...}`. Images of a conversation that has no
        place for them go before its newest message.
      audio: Sounds; no model hears them yet.
      audio_lengths: Samples of each sound.
      max_new_tokens: Most tokens to sample, by default `max_out_length`; a list
        has one number for each prompt.
      stream: Whether to return an iterator over the pieces of the text, one per
        token (for a batch, over lists of pieces). All prompts are one batch.
      sampling: In place of the sampler's own; a list has one for each prompt.
      rng: Seed, or random key; by default a new one for each call.
      return_state: Whether to return a `SamplerOutput` in place of text. That
        of a stream has a state that is good until the next piece; the last
        one is empty, and has what is known at the end.
      last_state: State of an earlier call to go on from: the prompt follows
        all that was said there, its last token included. It is left intact.
      sharding: Where the batch lies: a `jax.sharding.Sharding`, or a function
        from arrays to shardings.
      schema: What the answer must be: a JSON schema, as a dict or as text, a
        pydantic class, `Regex` or `Lark`; a list has one for each prompt. The
        text then comes without an end tag.
      logits_mask: A function from a row's tokens, `int32[S]`, and their number
        to the tokens that may come next, `bool[V]`. It is compiled in. A row
        for which it leaves nothing ends. Tokens of images are negative.
      logprobs: Record the log-probability of each token, and of so many likely
        ones. They are the model's own, whatever the sampling method.
      return_hidden_states: Record the state that each token came from.
      progress: Whether to show a progress bar when prompts wait in line.

    Returns:
      A string, or a list of strings for a batch; see also the arguments.

    Raises:
      ValueError: If a prompt is empty, does not fit into the cache, or has an
        id outside of the table, if images and their places differ in number,
        if the model does not see or hear, if arguments do not go together, or
        if `last_state` or the parameters were deleted, or are of another model.
        Images that cannot be read raise as `gm.vision.read_image` does, with a
        note on which one it is.
    """
    if audio is not None or audio_lengths is not None:
      raise ValueError(
        f'{type(self.model).__name__} does not hear, but audio was given. '
        'Leave it out.'
      )
    _request.check_logprobs(logprobs, self.model.config.num_embed)
    _past.check_params(self._params)
    _past.check_state(last_state, self.model, self._params)
    prompts = self._encoded(prompt, images, add_bos=last_state is None)
    request = self._new_request(
      prompts.rows,
      album=prompts.album | self._album(last_state),
      limits=_request.limits_of(
        max_new_tokens, len(prompts.rows), most=self.max_out_length
      ),
      sampling=self.sampling if sampling is None else sampling,
      key=_request.as_key(rng),
      schema=schema,
      logits_mask=logits_mask,
      logprobs=logprobs,
      hidden_states=return_hidden_states,
      sharding=self._rows(sharding),
    )
    full = return_state or logprobs is not None or return_hidden_states
    batched = prompts.batched
    if stream:
      parts = self._calls.parts(request, last_state, batched=batched)
      return parts if full else (p.text for p in parts if not p.usage)
    out = self._calls.whole(
      request, last_state, batched=batched, progress=progress
    )
    return out if full else out.text

  async def sample_async(self, prompt: Any, **kwargs: Any) -> Any:
    """`sample` in a thread, while the event loop goes on."""
    return await asyncio.to_thread(self.sample, prompt, **kwargs)

  async def stream_async(
    self, prompt: Any, **kwargs: Any
  ) -> AsyncIterator[Any]:
    """Pieces of `sample(..., stream=True)`, while the event loop goes on."""
    parts = await self.sample_async(prompt, stream=True, **kwargs)
    while (part := await asyncio.to_thread(next, parts, None)) is not None:
      yield part

  def score(
    self, texts: Any, *, images: Any = None, chunk_length: int = 256
  ) -> _scoring.Score | list[_scoring.Score]:
    """How likely the model finds texts, token by token.

    Logits are made for a few tokens at a time, whatever the length.

    Args:
      texts: As the prompts of `sample`.
      images: As those of `sample`. They are seen, but not scored.
      chunk_length: Tokens that go through the model at a time.

    Returns:
      A `Score`, or a list for a batch.
    """
    _past.check_params(self._params)
    prompts = self._encoded(texts, images)
    with _mesh.use_mesh(self._runner.mesh):
      scores = _scoring.score(
        self._model, self._params, prompts, chunk_length=chunk_length
      )
    return scores if prompts.batched else scores[0]

  def embed(
    self,
    texts: Any,
    *,
    images: Any = None,
    pooling: _scoring.Pooling = 'mean',
    normalize: bool = True,
    chunk_length: int = 256,
  ) -> np.ndarray:
    """Vectors of texts, from the states after the final norm.

    Args:
      texts: As the prompts of `sample`.
      images: As those of `sample`.
      pooling: `mean` over the tokens, those of images too, or the `last` one.
      normalize: Whether vectors have length 1.
      chunk_length: Tokens that go through the model at a time.

    Returns:
      `float32[D]`, or `float32[B, D]` for a batch.
    """
    _past.check_params(self._params)
    prompts = self._encoded(texts, images)
    with _mesh.use_mesh(self._runner.mesh):
      out = _scoring.embed(
        self._model,
        self._params,
        prompts,
        pooling=pooling,
        normalize=normalize,
        chunk_length=chunk_length,
      )
    return out if prompts.batched else out[0]

  def warmup(
    self,
    *,
    batch_size: int = 1,
    max_length: int | None = None,
    images: bool = False,
  ) -> None:
    """Compiles all shapes, so that no later call has to.

    Args:
      batch_size: Prompts of the calls to come.
      max_length: Tokens that they and their answers have at most; by default
        `cache_length`.
      images: Whether they will have images.

    Raises:
      ValueError: If there will be images, and the model does not see.
    """
    blank = []
    if images:
      size = _images.check_sees(self.model)
      blank = [np.zeros((size, size, 3), np.uint8)]
    request = self._new_request(
      [[int(self.codec.special_tokens.BOS)]] * batch_size,
      limits=[self.max_out_length] * batch_size,
      sampling=self.sampling,
      key=_request.as_key(0),
      album=_images.album_of(blank, self.model),
      sharding=self._placed,
    )
    # Nothing of this is worth keeping.
    runner = dataclasses.replace(self._runner, prefix_cache=None)
    runner.warmup(request, max_length or self.cache_length)

  @functools.cached_property
  def codec(self) -> _tokenizer.Tokenizer:
    """The tokenizer, whether it was given or is the model's own."""
    return _rules.resolve_tokenizer(self.model, self.tokenizer)

  @functools.cached_property
  def stops(self) -> _stop_strings.StopStrings | None:
    """What finds the stop strings; None if there are none."""
    if not self.stop_strings:
      return None
    return _stop_strings.StopStrings(self.codec, self.stop_strings)

  @functools.cached_property
  def _model(self) -> _like.TransformerLike:
    """The model, free to return what is asked of it."""
    return _drafts.free(self.model)

  @functools.cached_property
  def _runner(self) -> _runner.Runner:
    rules = _rules.make_rules(
      self.codec,
      self.model.config,
      forbidden=self.forbidden_tokens,
      stops=self.stop_tokens,
      texts=self.stops,
    )
    return _runner.Runner(
      model=self._model,
      params=self._params,
      rules=_mesh.on_mesh(rules, _mesh.mesh_of(self._params)),
      cache_length=self.cache_length,
      on_full=self.on_full,
      buckets=_chunks.sizes_of(self.pad_length),
      max_out_length=self.max_out_length,
      draft=self.draft,
      prefix_cache=self.prefix_cache,
    )

  @functools.cached_property
  def _placed(self) -> _shard_rules.Rules | None:
    """The preset on its mesh, or what goes with where the parameters are."""
    if self.sharding is not None:
      return self.sharding.fit(self.params)
    mesh = _mesh.mesh_of(self.params)
    return None if mesh is None else _shard_rules.DATA.on(mesh)

  @functools.cached_property
  def _params(self) -> Mapping[str, Any]:
    """The parameters where they belong."""
    _past.check_params(self.params)
    if self.sharding is None or self._placed is None:
      return _place.automatic(self.params)
    return jax.device_put(self.params, self._placed(self.params))

  def _rows(self, sharding: Any) -> Any:
    """Where the batch of a call lies."""
    if sharding is None:
      return self._placed
    if isinstance(sharding, _shard_rules.Rules):
      return sharding.fit(self.params)
    return sharding

  @property
  def _calls(self) -> _calls.Calls:
    return _calls.Calls(
      runner=self._runner,
      tokenizer=self.codec,
      max_batch_size=self.max_batch_size,
      stop_strings=self.stops,
    )

  def _encoded(
    self, texts: Any, images: Any, *, add_bos: bool = True
  ) -> _prompt.Prompts:
    return _prompt.encode(
      self.codec,
      texts,
      model=self.model,
      images=images,
      add_bos=add_bos,
      allow_special=self.allow_special,
    )

  def _album(self, state: _state.SamplingState | None) -> _album.Album:
    """Images that a state has seen, should it have to be computed anew."""
    if state is None or not state.images:
      return _album.Album()
    images = _images.album_of(state.images, self.model)
    return images.within(state.contexts())

  def _new_request(
    self,
    rows: list[list[int]],
    *,
    sampling: Sampling,
    key: jax.Array,
    schema: _schema.Schema | Sequence[_schema.Schema] | None = None,
    **fields: Any,
  ) -> _request.Request:
    numbers, method = _sampling.resolve(sampling, len(rows))
    guides: list[_request.Guide] = []
    if schema is not None:
      from gemma.gm.text import _grammar

      grammars = _grammar.compile_all(self.codec, schema, len(rows))
      guides = [*map(_request.Guide, grammars)]
    if self.draft is not None and (method is not None or guides):
      raise ValueError(
        'A draft guesses several tokens at once, which goes with the sampling '
        'methods of this library only, and not with a schema. Leave one out.'
      )
    return _request.Request(
      rows=rows,
      keys=_decode.row_keys(key, rows),
      numbers=numbers,
      method=method,
      penalizes=_settings.penalizes(numbers),
      biased=any('bias' in row for row in numbers),
      guides=guides,
      **fields,
    )
