"""A conversation with a model."""

import asyncio
from collections.abc import Generator
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import os
from typing import Any

import jax

from gemma.gm.nn import _like
from gemma.gm.sharding import _rules as _shard_rules
from gemma.gm.text import _conversation
from gemma.gm.text import _dialog
from gemma.gm.text import _drafts
from gemma.gm.text import _gate
from gemma.gm.text import _history
from gemma.gm.text import _output
from gemma.gm.text import _reply
from gemma.gm.text import _runner
from gemma.gm.text import _sampler
from gemma.gm.text import _sampling
from gemma.gm.text import _saved
from gemma.gm.text import _state
from gemma.gm.text import _stop_strings
from gemma.gm.text import _stream
from gemma.gm.text import _tokenizer
from gemma.gm.text import _turn

_OF_TURN = ('images', 'multi_turn')  # Options that are not the sampler's.


@dataclasses.dataclass(kw_only=True, eq=False)
class ChatSampler:
  """Holds a conversation: adds turn tags, keeps what was said.

  The context of a turn is exactly what was said before it, end tags included,
  but for thoughts. A prompt is text, whatever it says: tags in it are spelled
  out, but for those that say where images go, if there are images.

  One answer at a time: a call waits for those that are in `chat`, in other
  threads and tasks. While a stream is open, a call that goes on with the
  conversation raises. `new_conversation`, `restore`, `load` and a call with
  `multi_turn=False` leave an open stream behind: it goes on, but its answer is
  not recorded, and it warns at its end.

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
    stop_strings: Texts that end the answer, and are no part of it.
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

  model: _like.TransformerLike
  params: Mapping[str, Any] = dataclasses.field(repr=False)
  multi_turn: bool = False
  print_stream: Any = False
  tokenizer: _tokenizer.Tokenizer | None = None
  sampling: _sampling.SamplingMethod = _sampling.Greedy()
  forbidden_tokens: Sequence[str | int] | None = None
  stop_tokens: Sequence[str | int] | None = None
  stop_strings: Sequence[str] | None = None
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
  turns: list[_turn.Prompt | _turn.Response] = dataclasses.field(
    default_factory=list
  )
  finish_reason: _output.FinishReason | None = dataclasses.field(
    default=None, init=False
  )
  reply: _reply.Reply | None = dataclasses.field(default=None, init=False)

  _said: _history.History = dataclasses.field(init=False, repr=False)
  _raw: list[int] = dataclasses.field(init=False, repr=False)
  _base: _turn.Seen = dataclasses.field(init=False, repr=False)
  _usage: _output.Usage | None = dataclasses.field(init=False, repr=False)
  _entry: _gate.Gate = dataclasses.field(
    default_factory=_gate.Gate, init=False, repr=False
  )

  def __post_init__(self):
    if self.turns or self.last_state is not None:
      raise ValueError(
        'A ChatSampler begins without turns and last_state. Give a '
        'conversation to restore().'
      )
    if self.cache_length is None:
      self.cache_length = 4096
    self.tokenizer = self.sampler.tokenizer
    self._silence.since(0)  # Raises if the model can neither think nor call.
    self.new_conversation()

  def __getstate__(self) -> dict[str, Any]:
    return {**vars(self), '_entry': _gate.Gate()}  # A copy has its own.

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
    """Forgets what was said. A stream that is open is left behind."""
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
    _saved.write(path, self.messages)

  def load(self, path: str | os.PathLike[str]) -> None:
    """Takes up a conversation that `save` wrote; it goes on identically."""
    self.restore(_saved.read(path))

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
    options |= {
      'images': images,
      'sampling': sampling,
      'rng': rng,
      'max_new_tokens': max_new_tokens,
      'multi_turn': multi_turn,
      'sharding': sharding,
    }
    return self._chat(_gate.Call(), prompt, print_stream, options)

  async def chat_async(
    self, prompt: Any, *, print_stream: Any = None, **options: Any
  ) -> str:
    """`chat` in a thread, while the event loop goes on.

    If the task is cancelled, the conversation is as before the call.

    Args:
      prompt: See `chat`.
      print_stream: See `chat`.
      **options: See `chat`.

    Returns:
      The answer.
    """
    call = _gate.Call()
    try:
      return await asyncio.to_thread(
        self._chat, call, prompt, print_stream, options
      )
    except asyncio.CancelledError:
      call.cancelled = True
      raise

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
    the conversation. Until it is exhausted or closed, other calls that go on
    with the conversation raise.

    Args:
      prompt: See `chat`.
      images: See `chat`.
      multi_turn: See `chat`.
      **options: See `chat`, and `Sampler.sample`.

    Raises:
      ValueError: See `chat`; raised at once.
      RuntimeError: See `chat`; raised at once.
    """
    options |= {'images': images, 'multi_turn': multi_turn}
    return self._stream(_gate.Call(), prompt, options)

  def _chat(
    self, call: _gate.Call, prompt: Any, where: Any, options: dict[str, Any]
  ) -> str:
    where = self.print_stream if where is None else where
    with self._entry.lock:  # Others wait.
      if where:
        return _stream.show(self._stream(call, prompt, options), where)
      try:
        turn, out = self._begun(call, prompt, options)
        if not self._record(call, turn, out, out.token_ids):
          _gate.warn_left_behind(call)
        return self._speech.whole(self._spoken(out.token_ids)[0])
      finally:
        self._entry.leave(call)

  def _stream(
    self, call: _gate.Call, prompt: Any, options: dict[str, Any]
  ) -> Generator[str, None, None]:
    with self._entry.lock:
      try:
        turn, outs = self._begun(call, prompt, {**options, 'stream': True})
      except BaseException:
        self._entry.leave(call)
        raise
      pieces = self._pieces(call, turn, outs)
      next(pieces)  # Into its `try`: closing it will be noticed.
      return pieces

  def _begun(
    self, call: _gate.Call, prompt: Any, options: dict[str, Any]
  ) -> tuple[_turn.Turn, Any]:
    """A prompt as a turn, and what the sampler gives for it."""
    rest = {k: v for k, v in options.items() if k not in _OF_TURN}
    multi_turn = options.get('multi_turn')
    multi_turn = self.multi_turn if multi_turn is None else multi_turn
    self._entry.enter(call, renew=not multi_turn)
    images, sharding = options.get('images'), options.get('sharding')
    turn = self._ask(prompt, images, multi_turn, sharding)
    return turn, self.sampler.sample(turn.ids, **turn.options, **rest)

  def _pieces(
    self,
    call: _gate.Call,
    turn: _turn.Turn,
    outs: Iterator[_output.SamplerOutput],
  ) -> Generator[str, None, None]:
    """Nothing, then pieces of the answer, which is recorded at the end."""
    tokens: list[int] = []
    out: Any = None
    speech, held = self._speech, _stop_strings.Held(self.sampler.stops)
    try:
      yield ''
      for out in outs:
        tokens += out.token_ids
        certain = [t for token in out.token_ids for t in held.add(token)]
        if text := ''.join(map(speech.add, certain)):
          yield text
      if text := speech.whole(held.end()):
        yield text
      if not self._record(call, turn, out, tokens):
        _gate.warn_left_behind(call)
    except GeneratorExit:
      # The device may be ahead of what was said: its state is no good.
      if said := tokens[: len(tokens) - held.count]:
        self._record(call, turn, None, said)
      raise
    finally:
      self._entry.leave(call)

  def _ask(
    self, prompt: Any, images: Any, multi_turn: bool, sharding: Any
  ) -> _turn.Turn:
    """The conversation with the prompt, and what of it is new to the model.

    If later turns will not see all of the model's turn, what they will see of
    this one is put into a state that they can go on from.
    """
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
    call: _gate.Call,
    turn: _turn.Turn,
    out: _output.SamplerOutput | None,
    tokens: list[int],
  ) -> bool:
    """Makes the turn part of the conversation; False if it may not be."""
    if not self._entry.admits(call):  # Asked first: others may hold the lock.
      return False
    codec, sampled = self.sampler.codec, len(tokens)
    tokens, whole = self._spoken(tokens)
    reply = _reply.parse_reply(codec, tokens)
    history = turn.history.answer(reply.message, tokens)
    said = _turn.Prompt(text=codec.decode(turn.said))
    turns = [*turn.kept, said, _turn.Response(text=codec.decode(tokens))]
    usage = None if out is None else turn.usage(out.usage, sampled - whole)
    with self._entry.lock:
      if not self._entry.admits(call):
        return False
      self._said, self.turns, self.reply = history, turns, reply
      self.finish_reason = None if out is None else out.finish_reason
      self.last_state, self._usage = None, usage
      if turn.lead:  # Else the model's turn went on, and so did its thoughts.
        self._base = turn.base_seen
      end = bool(tokens) and tokens[-1] == codec.special_tokens.EOS
      # The end of everything is no part of a conversation that goes on.
      self._raw = turn.context + (tokens[:-1] if end else tokens[:whole])
      if out is not None and turn.can_go_on(out):
        self.last_state = out.state.without(sampled - whole + end)
      return True

  def _spoken(self, tokens: list[int]) -> tuple[list[int], int]:
    """An answer without a stop string, and how many tokens were sampled so."""
    stops = self.sampler.stops
    if stops is None:
      return tokens, len(tokens)
    return stops.cut(tokens), stops.split(tokens)[0]

  def _begin(self, history: _history.History) -> None:
    """Takes up a conversation that the model has not seen yet."""
    turns: list[_turn.Prompt | _turn.Response] = [
      _turn.Response(text) if turn.role == 'model' else _turn.Prompt(text)
      for turn, text in zip(history.turns, history.texts, strict=True)
    ]
    end = self.sampler.codec.special_tokens.END_OF_TURN
    raw = [*history.ids, end] if history.turns else []
    with self._entry.lock:
      self._entry.clear()
      self._said, self._usage, self._base = history, None, _turn.Seen()
      self.last_state, self.finish_reason, self.reply = None, None, None
      self.turns, self._raw = turns, raw

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
