"""A request to its answers: at once, piece by piece, or in turns."""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

from gemma.gm.text import _output
from gemma.gm.text import _queue
from gemma.gm.text import _request
from gemma.gm.text import _runner
from gemma.gm.text import _state
from gemma.gm.text import _stop_strings
from gemma.gm.text import _stream
from gemma.gm.text import _tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calls:
  """What answers requests.

  Attributes:
    runner: The model, and the memory that sampling may take.
    tokenizer: The vocabulary.
    max_batch_size: Most prompts in one batch.
    stop_strings: Texts that end an answer.
  """

  runner: _runner.Runner
  tokenizer: _tokenizer.Tokenizer
  max_batch_size: int
  stop_strings: _stop_strings.StopStrings | None

  def whole(
    self,
    request: _request.Request,
    last_state: _state.SamplingState | None,
    *,
    batched: bool,
    progress: bool,
  ) -> _output.SamplerOutput:
    """The answers when all of them are there.

    Args:
      request: What is asked for.
      last_state: What the prompts follow.
      batched: Whether to give a list with an answer for each row.
      progress: Whether to show a progress bar when prompts wait in line.
    """
    if len(request.rows) > self.max_batch_size and last_state is None:
      answers, state = self._in_turns(request, progress), None
    else:
      answers, state = self._at_once(request, last_state)
    length = self.runner.max_out_length
    return _output.pack(answers, state, length, batched=batched)

  def parts(
    self,
    request: _request.Request,
    last_state: _state.SamplingState | None,
    *,
    batched: bool,
  ) -> Iterator[_output.SamplerOutput]:
    """The pieces of a stream, and behind them what is known at its end.

    What is wrong with the prompts is said at once; see `whole` for arguments.
    """
    rows = len(request.rows)
    request, last_state = _evened(request, last_state)
    state, known = self.runner.begin(request, last_state)
    return self._parts(request, state, known, rows=rows, batched=batched)

  def _parts(
    self,
    request: _request.Request,
    state: _state.SamplingState,
    known: Sequence[int],
    *,
    rows: int,
    batched: bool,
  ) -> Iterator[_output.SamplerOutput]:
    newest = _first(state, rows)

    def states() -> Iterator[_state.SamplingState]:
      nonlocal newest
      for now in self.runner.run(state, request, often=True):
        newest = _first(now, rows).replace(images=request.images)
        yield newest

    yield from _stream.pieces(
      states(),
      self.tokenizer,
      batched=batched,
      keep_end=not request.guides,
      stop_strings=self.stop_strings,
    )
    index = range(rows)
    answers = self._read(request, newest, index, index, known[:rows])
    length = self.runner.max_out_length
    out = _output.pack(answers, newest, length, batched=batched)
    # What was yielded is not said again.
    nothing: Any = ([''] * rows, [[] for _ in index]) if batched else ('', [])
    yield dataclasses.replace(out, text=nothing[0], token_ids=nothing[1])

  def _at_once(
    self,
    request: _request.Request,
    last_state: _state.SamplingState | None,
  ) -> tuple[list[_output.Answer], _state.SamplingState]:
    """Answers of one batch, and the state behind them."""
    rows = range(len(request.rows))
    request, last_state = _evened(request, last_state)
    state, known = self.runner.begin(request, last_state)
    *_, state = self.runner.run(state, request, often=False)
    state = _first(state, len(rows))
    answers = self._read(request, state, rows, rows, known[: len(rows)])
    return answers, state.replace(images=request.images)

  def _in_turns(
    self, request: _request.Request, progress: bool
  ) -> list[_output.Answer]:
    """Answers of more prompts than a batch may have."""
    size = self.max_batch_size
    self.runner.fitting(request.rows)  # Raises before anything is sampled.
    if request.guides:  # They look at every token anyway.
      rows = range(len(request.rows))
      groups = [rows[i : i + size] for i in rows[::size]]
      batches = [self._at_once(request.take(g), None)[0] for g in groups]
      return [answer for batch in batches for answer in batch]
    read = functools.partial(self._read, request)
    return _queue.run(
      self.runner, request, slots=size, read=read, progress=progress
    )

  def _read(
    self,
    request: _request.Request,
    state: _state.SamplingState,
    rows: Sequence[int],
    prompts: Sequence[int],
    known: Sequence[int],
  ) -> list[_output.Answer]:
    return _output.read_answers(
      state,
      self.tokenizer,
      rows=rows,
      prompt_lengths=[len(request.rows[i]) for i in prompts],
      cached=known,
      cache_length=self.runner.cache_length,
      keep_end=not request.guides,
      stop_strings=self.stop_strings,
    )


def _evened(
  request: _request.Request, last_state: _state.SamplingState | None
) -> tuple[_request.Request, _state.SamplingState | None]:
  """The same with rows that a preset's devices share evenly.

  The surplus repeats the first prompt, for one token.
  """
  rows = len(request.rows)
  parts = getattr(request.sharding, 'row_parts', 1)
  if rows % parts == 0:
    return request, last_state
  short = -rows % parts
  index = [*range(rows), *[0] * short]
  request = request.take(index)
  limits = [*request.limits[:rows], *[1] * short]
  if last_state is not None:
    # What images it has seen, the request knows.
    last_state = _state.take_rows(last_state.replace(images=()), index)
  return dataclasses.replace(request, limits=limits), last_state


def _first(state: _state.SamplingState, rows: int) -> _state.SamplingState:
  """A state without its surplus rows, if it has some."""
  if state.done.shape[0] == rows:
    return state
  return _state.take_rows(state, range(rows))
