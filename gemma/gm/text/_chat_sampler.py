"""A conversation with a model."""

import asyncio
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import os
from typing import Any

import jax

from gemma.gm.nn import _lora
from gemma.gm.sharding import _rules as _shard_rules
from gemma.gm.text import _conversation
from gemma.gm.text import _dialog
from gemma.gm.text import _drafts
from gemma.gm.text import _history
from gemma.gm.text import _output
from gemma.gm.text import _reply
from gemma.gm.text import _runner
from gemma.gm.text import _sampler
from gemma.gm.text import _sampling
from gemma.gm.text import _state
from gemma.gm.text import _tokenizer
from gemma.gm.text import _turn


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

  The context of a turn is exactly what was said before it, end tags included,
  but for thoughts. A prompt is text, whatever it says: tags in it are spelled
  out, but for those that say where images go, if there are images.

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
    print_stream: Whether to print the answer as it comes by default; or where
      to, an object with `write` or `add`.
    tokenizer: See `Sampler`, as all below it.
    sampling: How to pick tokens.
    forbidden_tokens: Never sampled.
    stop_tokens: End the answer.
    cache_length: Tokens that the conversation may have.
    max_out_length: Tokens that an answer may have.
    pad_length: Sizes of the chunks in which prompts go into the cache.
    on_full: What happens when the conversation has `cache_length` tokens; with
      `roll` its oldest turns are dropped, but for the system message.
    draft: Guesses tokens ahead.
    thinking: Whether the model thinks before it answers, as Gemma 4 can. What
      it thought is in `reply`, and no part of what later turns see.
    show_thoughts: Whether answers have thoughts in them, in their tags.
    sharding: See `Sampler`.
    tools: What the model may call, see `encode_chat`. Its calls are in `reply`;
      say what came of them in messages of the role `tool`.
    last_state: State behind the last answer.
    turns: What was said: `Prompt` and `Response` in turn, with all tags.
    finish_reason: Why the last answer ended: `stop` (it was complete), `eos`,
      `length` (max_new_tokens) or `cache_full`.
    reply: The last answer, taken apart: its text, thought and calls of tools.
  """

  model: _lora.Model
  params: Mapping[str, Any] = dataclasses.field(repr=False)
  multi_turn: bool = False
  print_stream: Any = False
  tokenizer: _tokenizer.Tokenizer | None = None
  sampling: _sampling.SamplingMethod = _sampling.Greedy()
  forbidden_tokens: Sequence[str | int] | None = None
  stop_tokens: Sequence[str | int] | None = None
  cache_length: int | None = 4096
  max_out_length: int = 2048
  pad_length: int | tuple[int, ...] | None = (64, 256, 1024)
  on_full: _runner.OnFull = 'stop'
  draft: _drafts.Draft | None = None
  thinking: bool = False
  show_thoughts: bool = False
  tools: Sequence[Any] = ()
  sharding: _shard_rules.Rules | None = None
  last_state: _state.SamplingState | None = dataclasses.field(
    default=None, repr=False
  )
  turns: list[Prompt | Response] = dataclasses.field(default_factory=list)
  finish_reason: _output.FinishReason | None = dataclasses.field(
    default=None, init=False
  )
  reply: _reply.Reply | None = dataclasses.field(default=None, init=False)

  _said: _history.History = dataclasses.field(init=False, repr=False)
  _raw: list[int] = dataclasses.field(init=False, repr=False)
  _base: _turn.Seen = dataclasses.field(init=False, repr=False)
  _usage: _output.Usage | None = dataclasses.field(init=False, repr=False)

  def __post_init__(self):
    if self.turns:
      raise ValueError(
        'A ChatSampler begins without turns. Give a conversation to restore().'
      )
    if self.cache_length is None:
      self.cache_length = 4096
    self.tokenizer = self.sampler.tokenizer
    self._silence.since(0)  # Raises if the model can neither think nor call.
    self.new_conversation()

  @functools.cached_property
  def sampler(self) -> _sampler.Sampler:
    """The sampler of single texts underneath."""
    fields = {f.name for f in dataclasses.fields(_sampler.Sampler)}
    mine = {k: v for k, v in vars(self).items() if k in fields}
    return _sampler.Sampler(**mine)

  @property
  def messages(self) -> list[dict[str, Any]]:
    """The conversation as dicts with `role` and `content`, for `restore`."""
    return self._said.messages

  @property
  def conversation(self) -> Any:
    """The conversation as a `dialog.Conversation`; needs that package."""
    return _dialog.to_dialog(self._said)

  @property
  def usage(self) -> _output.Usage | None:
    """Tokens of the last turn, and of the conversation; None before it."""
    return self._usage

  def new_conversation(self) -> None:
    """Forgets what was said."""
    self._begin(self._silence)

  def restore(self, messages: _conversation.Messages) -> None:
    """Takes up a conversation, for the next turn to go on with.

    Args:
      messages: Dicts with `role` and `content`, the last of them the model's;
        or a `dialog.Conversation`. Those of `messages` go on identically.

    Raises:
      ValueError: If roles do not alternate, or the user spoke last.
    """
    history = self._silence.extend(messages)
    if history.turns and history.turns[-1].role != 'model':
      raise ValueError(
        f"The last turn is the {history.turns[-1].role}'s. Give it to chat()."
      )
    self._begin(history)

  def save(self, path: str | os.PathLike[str]) -> None:
    """Writes the conversation to a JSON file."""
    self._said.save(path)

  def load(self, path: str | os.PathLike[str]) -> None:
    """Takes up a conversation that `save` wrote; it goes on identically."""
    self._begin(_history.read(path, self._silence))

  def chat(
    self,
    prompt: Any,
    *,
    images: Any = None,
    sampling: _sampling.SamplingMethod | None = None,
    rng: int | jax.Array | None = None,
    max_new_tokens: int | None = None,
    multi_turn: bool | None = None,
    print_stream: Any = None,
    sharding: Any = None,
    **options: Any,
  ) -> str:
    """Says something to the model, and returns its answer.

    Args:
      prompt: What to say: text; or messages, as dicts with `role` and
        `content`, or a `dialog.Conversation`, that end with the user's, or with
        those of tools that the model has called.
      images: One image, a list of them, or an array `N H W C`; an image is
        anything that `gm.vision.read_image` takes. They go where the text has
        `<start_of_image>` or `<|image|>`, which otherwise are just text; if it
        has neither, before the text. Messages may have their images in them
        instead: `{'type': 'image', 'image': ...}`.
      sampling: In place of the sampler's own.
      rng: Seed, or random key.
      max_new_tokens: Most tokens of the answer.
      multi_turn: Whether to go on with the conversation; otherwise a new one
        begins.
      print_stream: Whether to print the answer as it comes, or where to.
      sharding: See `Sampler.sample`.
      **options: Others of `Sampler.sample`, such as `schema`.

    Returns:
      The answer without its end tag and, unless `show_thoughts`, without what
      the model thought.

    Raises:
      ValueError: If the prompt is empty, or does not fit into the cache, or
        images are not as many as their places, or cannot be read. The
        conversation is then as before the call.
      TypeError: If the prompt is of no such form.
    """
    where = self.print_stream if print_stream is None else print_stream
    options |= {
      'sampling': sampling,
      'rng': rng,
      'max_new_tokens': max_new_tokens,
      'sharding': sharding,
    }
    if not where:
      turn = self._ask(prompt, images, multi_turn, sharding)
      out = self.sampler.sample(turn.ids, **turn.options, **options)
      return self._record(turn, out, out.token_ids)
    text = ''
    options |= {'images': images, 'multi_turn': multi_turn}
    for piece in self.stream(prompt, **options):
      text += piece
      _show(piece, where)
    _show('\n', where)
    return text

  async def chat_async(self, prompt: Any, **kwargs: Any) -> str:
    """`chat` in a thread, while the event loop goes on."""
    return await asyncio.to_thread(self.chat, prompt, **kwargs)

  def stream(
    self,
    prompt: Any,
    *,
    images: Any = None,
    multi_turn: bool | None = None,
    **options: Any,
  ) -> Iterator[str]:
    """Says something to the model, and yields its answer piece by piece.

    Close the iterator to end the answer: what was said up to then is part of
    the conversation.

    Args:
      prompt: See `chat`.
      images: See `chat`.
      multi_turn: See `chat`.
      **options: See `chat`, and `Sampler.sample`.

    Raises:
      ValueError: See `chat`; raised at once.
    """
    turn = self._ask(prompt, images, multi_turn, options.get('sharding'))
    outs = self.sampler.sample(turn.ids, stream=True, **turn.options, **options)
    return self._pieces(turn, outs)

  def _pieces(
    self, turn: _turn.Turn, outs: Iterator[_output.SamplerOutput]
  ) -> Iterator[str]:
    """Pieces of the answer, which is recorded at the end."""
    tokens: list[int] = []
    out: Any = None
    speech = self._speech
    try:
      for out in outs:
        tokens += out.token_ids
        if text := ''.join(map(speech.add, out.token_ids)):
          yield text
      if text := speech.end():
        yield text
    except GeneratorExit:
      # The device may be ahead of what was said: its state is no good.
      self._record(turn, None, tokens)
      raise
    self._record(turn, out, tokens)

  def _ask(
    self, prompt: Any, images: Any, multi_turn: bool | None, sharding: Any
  ) -> _turn.Turn:
    """The conversation with the prompt, and what of it is new to the model.

    If later turns will not see all of the model's turn, what they will see of
    this one is put into a state that they can go on from.
    """
    multi_turn = self.multi_turn if multi_turn is None else multi_turn
    before = self._said if multi_turn else self._silence
    before = dataclasses.replace(
      before, thinking=self.thinking, tools=tuple(self.tools)
    )
    seen = [_turn.Seen(self._raw, self.last_state), self._base]
    # Room for the answer: a quarter of the cache.
    room = (self.cache_length or 0) * 3 // 4
    turn = _turn.take(
      before,
      before.extend(prompt, images),
      seen=seen if multi_turn else [],
      kept=self.turns if multi_turn else [],
      room=room if self.on_full == 'roll' else None,
    )
    if not turn.lead or not turn.history.forgets:
      return turn.as_one()
    base = self.sampler.sample(
      turn.ids,
      max_new_tokens=1,
      sampling=_sampling.Greedy(),
      rng=0,
      sharding=sharding,
      **turn.options,
    )
    return turn.behind(base)

  def _record(
    self,
    turn: _turn.Turn,
    out: _output.SamplerOutput | None,
    tokens: list[int],
  ) -> str:
    """Makes the turn part of the conversation; returns the answer."""
    codec = self.sampler.codec
    reply = _reply.parse_reply(codec, tokens)
    self._said = turn.history.answer(reply.message, tokens)
    said = Prompt(text=codec.decode(turn.said))
    self.turns = [*turn.kept, said, Response(text=codec.decode(tokens))]
    self.last_state, self.finish_reason, self._usage = None, None, None
    self.reply = reply
    if turn.lead:  # Else the model's turn went on, and so did its thoughts.
      self._base = turn.base_seen
    end = bool(tokens) and tokens[-1] == codec.special_tokens.EOS
    # The end of everything is no part of a conversation that goes on.
    self._raw = turn.context + (tokens[:-1] if end else tokens)
    if out is not None:
      self.finish_reason = out.finish_reason
      self._usage = turn.usage(out.usage)
      kept = self._usage.dropped_tokens == turn.dropped
      if kept and out.finish_reason != 'nan':  # Its cache may be spoiled.
        state = out.state
        self.last_state = state.without_last() if end else state
    return self._speech.whole(tokens)

  def _begin(self, history: _history.History) -> None:
    """Takes up a conversation that the model has not seen yet."""
    self._said, self._usage, self._base = history, None, _turn.Seen()
    self.last_state, self.finish_reason, self.reply = None, None, None
    self.turns = [
      Response(text=text) if turn.role == 'model' else Prompt(text=text)
      for turn, text in zip(history.turns, history.texts, strict=True)
    ]
    end = self.sampler.codec.special_tokens.END_OF_TURN
    self._raw = [*history.ids, end] if history.turns else []

  @property
  def _silence(self) -> _history.History:
    """A conversation in which nothing was said."""
    return _history.History(
      self.sampler.codec,
      self.model,
      thinking=self.thinking,
      tools=tuple(self.tools),
    )

  @property
  def _speech(self) -> _reply.Speech:
    """The text of an answer to come."""
    return _reply.Speech(self.sampler.codec, thoughts=self.show_thoughts)


def _show(text: str, where: Any) -> None:
  """Prints a piece, or hands it over."""
  if where is True:
    print(text, end='', flush=True)
  elif hasattr(where, 'add'):  # A stream of `dialog`.
    where.add(text)
  else:
    where.write(text)
