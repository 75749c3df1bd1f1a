"""How far a run is, on a terminal or in a log."""

from collections.abc import Mapping
import os
import sys

import jax
from rich import console as rich_console
from rich import progress as rich_progress
from rich import text as rich_text

from gemma.gm.training import _metrics

_LINES = 20  # Of a log, over the whole run.
_EVERY = 50  # Steps between lines, if nobody knows how many there are.
_RECENT = 20  # Steps that the speed is the mean of.


class Progress:
  """A bar on a terminal; elsewhere a line now and then. Both go to stderr."""

  def __init__(self, steps: int | None, *, show: bool):
    """Shows nothing yet.

    Args:
      steps: Of the whole run, if known.
      show: Whether to show anything.
    """
    self._steps = steps
    self._every = max(1, steps // _LINES) if steps else _EVERY
    self._show = show
    self._console = rich_console.Console(stderr=True)
    self._bar: rich_progress.Progress | None = None
    self._recent: list[tuple[float, float]] = []  # Seconds, tokens.

  def start(self, step: int) -> None:
    """Begins at a step."""
    if not self._show or not self._console.is_terminal:
      return
    self._bar = rich_progress.Progress(
      rich_progress.MofNCompleteColumn(),
      rich_progress.BarColumn(),
      _About(),
      rich_progress.TimeRemainingColumn(),
      console=self._console,
    )
    self._task = self._bar.add_task('', total=self._steps, about='')
    self._bar.update(self._task, completed=step)
    self._bar.start()

  def update(self, row: Mapping[str, float]) -> None:
    """Shows a row of metrics."""
    if not self._show:
      return
    step, about = int(row[_metrics.STEP]), self._about(row)
    if self._bar is not None:
      self._bar.update(self._task, completed=step, about=about)
    elif step == 1 or step % self._every == 0 or step == self._steps:
      of = f'/{self._steps}' if self._steps else ''
      print(f'step {step}{of}  {about}', file=sys.stderr, flush=True)

  def stop(self) -> None:
    """Leaves what is shown as it is."""
    if self._bar is not None:
      self._bar.stop()
      self._bar = None

  def _about(self, row: Mapping[str, float]) -> str:
    """Loss, speed and memory."""
    parts = [f'loss {row["loss"]:.4f}'] if 'loss' in row else []
    self._recent.append((row[_metrics.SECONDS], row.get('tokens', 0.0)))
    self._recent = self._recent[-_RECENT - 1 :]
    seconds = self._recent[-1][0] - self._recent[0][0]
    tokens = sum(tokens for _, tokens in self._recent[1:])
    if tokens and seconds:
      parts.append(f'{tokens / seconds:,.0f} tokens/s')
    used = memory_in_use()
    if used is not None:
      parts.append(f'{used / 2**30:.2f} GiB')
    return '  '.join(parts)


class _About(rich_progress.ProgressColumn):
  """The numbers beside the bar."""

  def render(self, task: rich_progress.Task) -> rich_text.Text:
    return rich_text.Text(task.fields['about'])


def memory_in_use() -> int | None:
  """Bytes on the first device; without such a number, of the process."""
  stats = jax.local_devices()[0].memory_stats()
  if stats and 'bytes_in_use' in stats:
    return stats['bytes_in_use']
  try:
    with open('/proc/self/statm') as file:
      pages = int(file.read().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE')
  except OSError:  # Not on Linux.
    return None
