"""How far loading is, on a terminal."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib

from rich import console as rich_console
from rich import progress


@contextlib.contextmanager
def bar() -> Iterator[Callable[[int, int], None] | None]:
  """A bar of bytes on a terminal, gone when loading is over.

  It is shown from the first byte on: a download before has bars of its own.
  """
  console = rich_console.Console(stderr=True)
  if not console.is_terminal:
    yield None
    return
  columns = (
    progress.TextColumn('Loading'),
    progress.BarColumn(),
    progress.DownloadColumn(),
    progress.TimeRemainingColumn(),
  )
  shown = progress.Progress(*columns, console=console, transient=True)
  task = shown.add_task('Loading')

  def update(done: int, total: int) -> None:
    shown.start()
    shown.update(task, completed=done, total=total)

  try:
    yield update
  finally:
    shown.stop()
