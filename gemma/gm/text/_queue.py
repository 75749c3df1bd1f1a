"""Many prompts through a few slots: who is done makes room for who waits."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib

import jax
import numpy as np

from gemma.gm.text import _output
from gemma.gm.text import _request
from gemma.gm.text import _runner
from gemma.gm.text import _state

# New prompts come in groups of this part of the slots: one compilation for all
# of them, and few interruptions of the rows that go on.
_GROUP = 4
Read = Callable[[_state.SamplingState, list[int], list[int], list[int]], list]


def run(
  runner: _runner.Runner,
  request: _request.Request,
  *,
  slots: int,
  read: Read,
  progress: bool,
) -> list[_output.Answer]:
  """Answers to all prompts, in their order.

  Args:
    runner: The model.
    request: The prompts: more than there are slots.
    slots: Rows of the batch.
    read: From a state, rows of it, the prompts in them, and how many tokens of
      each were known, to answers.
    progress: Whether to show a progress bar.
  """
  total = len(request.rows)
  answers: list[_output.Answer | None] = [None] * total
  group = max(1, slots // _GROUP)
  # As many rows as the first batch, which devices share evenly.
  size = slots if request.sharding is not None else group
  waiting = list(range(total))[::-1]
  owner = [waiting.pop() for _ in range(slots)]  # Of each slot; -1 for none.
  state, known = runner.begin(request.take(owner))
  with _progress_bar(total, shown=progress) as advance_bar:
    while True:
      idle = _idle(state, runner)
      done = [slot for slot in idle if owner[slot] >= 0]
      if done:
        prompts = [owner[slot] for slot in done]
        found = read(state, done, prompts, [known[slot] for slot in done])
        for slot, prompt, answer in zip(done, prompts, found, strict=True):
          answers[prompt], owner[slot] = answer, -1
        advance_bar(len(done))
      if all(answer is not None for answer in answers):
        return [answer for answer in answers if answer is not None]
      free = [slot for slot, prompt in enumerate(owner) if prompt < 0]
      if waiting and len(free) >= min(group, len(waiting)):
        taken, prompts = free[:group], waiting[-1 : -1 - group : -1]
        del waiting[-len(prompts) :]
        state, counts = _refill(runner, request, state, taken, prompts, size)
        for slot, prompt, n in zip(taken, prompts, counts, strict=False):
          owner[slot], known[slot] = prompt, n
        continue  # Some may be done with their first token.
      most_idle = min(group, len(waiting)) - 1 if waiting else slots
      state = runner.advance(state, request, most_idle=most_idle, prompts=owner)


def _refill(
  runner: _runner.Runner,
  request: _request.Request,
  state: _state.SamplingState,
  free: Sequence[int],
  prompts: Sequence[int],
  size: int,
) -> tuple[_state.SamplingState, list[int]]:
  """Puts waiting prompts into free slots, always so many rows at a time."""
  # The last group may be short: it is filled up, and the surplus left out.
  short = size - len(prompts)
  nowhere = state.done.shape[0]
  slots = [*free[: len(prompts)], *[nowhere] * short]
  capacity = state.cache.cache_length
  new, known = runner.begin(
    request.take([*prompts, *[prompts[0]] * short]), capacity=capacity
  )
  state = state.grow(new.cache.cache_length)
  return _state.put_rows(state, slots, new), known


def _idle(state: _state.SamplingState, runner: _runner.Runner) -> list[int]:
  """Rows that are at their end."""
  live, full = jax.device_get((state.live, state.full))
  if runner.can_grow(state):
    full = np.zeros_like(full)
  return np.flatnonzero(~live | full).tolist()


@contextlib.contextmanager
def _progress_bar(
  total: int, *, shown: bool
) -> Iterator[Callable[[int], None]]:
  if not shown:
    yield lambda count: None
    return
  from rich import progress as rich_progress

  columns = (
    *rich_progress.Progress.get_default_columns()[:2],
    rich_progress.MofNCompleteColumn(),
    rich_progress.TimeRemainingColumn(),
  )
  with rich_progress.Progress(*columns, transient=True) as bar:
    task = bar.add_task('Sampling', total=total)
    yield lambda count: bar.advance(task, count)
