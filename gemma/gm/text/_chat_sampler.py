"""A conversation with a model."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from gemma.gm.nn import _transformer
from gemma.gm.text import _state
from gemma.gm.text import _sampler
from gemma.gm.text import _sampling
from gemma.gm.text import _template
from gemma.gm.text import _tokenizer


@dataclasses.dataclass(frozen=True)
class Prompt:
  """What was said to the model, with its tags.

  Attributes:
    text: The text as the model saw it.
  """

  text: str


@dataclasses.dataclass(frozen=True)
class Response:
  """What the model said, with its tags.

  Attributes:
    text: The text as the model wrote it.
  """

  text: str


@dataclasses.dataclass(kw_only=True, eq=False)
class ChatSampler:
  """Holds a conversation: adds turn tags, keeps what was said.

  The context of a turn is exactly what was said before it, end tags included.
  A prompt is text, whatever it says: tags in it are spelled out.

  ```python
  >>> from gemma import gm
  >>> tiny = gm.from_pretrained(gm.ckpts.CheckpointPath.GEMMA3_TINY_IT)
  >>> chat = gm.text.ChatSampler(
  ...   model=tiny.model, params=tiny.params, tokenizer=tiny.tokenizer
  ... )
  >>> answer = chat.chat('What is 2 + 3?')

  ```

  Attributes:
    model: The model.
    params: Its parameters.
    multi_turn: Whether a call goes on with the conversation by default.
    print_stream: Whether to print the answer as it comes by default.
    tokenizer: See `Sampler`, as all below it.
    sampling: How to pick tokens.
    forbidden_tokens: Never sampled.
    stop_tokens: End the answer.
    cache_length: Tokens that the conversation may have.
    max_out_length: Tokens that an answer may have.
    pad_length: Sizes of the chunks in which prompts go into the cache.
    last_state: State behind the last answer.
    turns: What was said: `Prompt` and `Response` in turn, with all tags.
    finish_reason: Why the last answer ended: `stop` (it was complete), `length`
      (max_new_tokens) or `cache_full`.
  """

  model: _transformer.Transformer
  params: Mapping[str, Any] = dataclasses.field(repr=False)
  multi_turn: bool = False
  print_stream: bool = False
  tokenizer: _tokenizer.Tokenizer | None = None
  sampling: _sampling.SamplingMethod = _sampling.Greedy()
  forbidden_tokens: Sequence[str | int] | None = None
  stop_tokens: Sequence[str | int] | None = None
  cache_length: int = 4096
  max_out_length: int = 2048
  pad_length: int | tuple[int, ...] | None = (256, 512, 1024)
  last_state: _state.SamplingState | None = dataclasses.field(
    default=None, init=False, repr=False
  )
  turns: list[Prompt | Response] = dataclasses.field(
    default_factory=list, init=False
  )
  finish_reason: _sampler.FinishReason | None = dataclasses.field(
    default=None, init=False
  )

  def __post_init__(self):
    self.tokenizer = self.sampler.tokenizer

  @functools.cached_property
  def sampler(self) -> _sampler.Sampler:
    """The sampler of single texts underneath."""
    return _sampler.Sampler(
      model=self.model,
      params=self.params,
      tokenizer=self.tokenizer,
      sampling=self.sampling,
      forbidden_tokens=self.forbidden_tokens,
      stop_tokens=self.stop_tokens,
      cache_length=self.cache_length,
      max_out_length=self.max_out_length,
      pad_length=self.pad_length,
    )

  def chat(
    self,
    prompt: str,
    *,
    sampling: _sampling.SamplingMethod | None = None,
    rng: int | jax.Array | None = None,
    max_new_tokens: int | None = None,
    multi_turn: bool | None = None,
    print_stream: bool | None = None,
  ) -> str:
    """Says something to the model, and returns its answer.

    Args:
      prompt: What to say.
      sampling: In place of the sampler's own.
      rng: Seed, or random key.
      max_new_tokens: Most tokens of the answer.
      multi_turn: Whether to go on with the conversation; otherwise a new one
        begins.
      print_stream: Whether to print the answer as it comes.

    Returns:
      The answer without its end tag.

    Raises:
      ValueError: If the prompt is empty, or does not fit into the cache. The
        conversation is then as before the call.
    """
    if not isinstance(prompt, str) or not prompt.strip():
      raise ValueError(f'prompt={prompt!r} is empty. Give some text.')
    multi_turn = self.multi_turn if multi_turn is None else multi_turn
    state = self.last_state if multi_turn else None
    ids, state = self._encode(prompt, state)
    stream = self.print_stream if print_stream is None else print_stream
    text, state = self._sample(
      ids,
      print_stream=stream,
      last_state=state,
      sampling=sampling,
      rng=rng,
      max_new_tokens=max_new_tokens,
    )
    if not multi_turn:
      self.turns = []
    said = Prompt(text=self.sampler.codec.decode(ids))
    self.turns = [*self.turns, said, Response(text=text)]
    self.last_state = state
    self.finish_reason = _sampler.finish_reasons(state)[0]
    return self._without_end(text)

  def _encode(
    self, prompt: str, state: _state.SamplingState | None
  ) -> tuple[list[int], _state.SamplingState | None]:
    """Tokens of the prompt, and the state that they follow."""
    codec = self.sampler.codec
    message = {'role': 'user', 'content': prompt}
    ids = _template.encode_chat(codec, [message])
    if state is None:
      return ids, None
    special = codec.special_tokens
    ids = codec.encode('\n') + ids[1:]  # In place of BOS.
    last = int(state.last_token[0])
    if last != special.END_OF_TURN:
      ids = [special.END_OF_TURN, *ids]  # An answer cut short is closed.
    if last == special.EOS:
      # The end of everything is no part of a conversation that goes on.
      state = state.replace(last_token=jnp.zeros_like(state.last_token))
    return ids, state

  def _sample(
    self, ids: list[int], *, print_stream: bool, **kwargs: Any
  ) -> tuple[str, _state.SamplingState]:
    """The answer with its end tag, and the state behind it."""
    if not print_stream:
      out = self.sampler.sample(ids, return_state=True, **kwargs)
      return out.text, out.state
    text = ''
    state: Any = None
    pieces = self.sampler.sample(ids, return_state=True, stream=True, **kwargs)
    for out in pieces:
      text, state = text + out.text, out.state
      print(self._without_end(out.text), end='', flush=True)
    print()
    return text, state

  def _without_end(self, text: str) -> str:
    codec = self.sampler.codec
    return text.removesuffix(codec.decode(codec.special_tokens.END_OF_TURN))
