"""What happens to examples on the way and is not in them: counted, or said."""

import collections
from collections.abc import Iterator
import contextlib
import contextvars
import warnings

# Of whoever counts at the moment, such as `Batches`.
_COUNTS: contextvars.ContextVar[collections.Counter[str] | None] = (
  contextvars.ContextVar('counts', default=None)
)


@contextlib.contextmanager
def counted() -> Iterator[collections.Counter[str]]:
  """Counts what is noted inside, instead of saying it."""
  counts: collections.Counter[str] = collections.Counter()
  token = _COUNTS.set(counts)
  try:
    yield counts
  finally:
    _COUNTS.reset(token)


def truncated() -> None:
  """Notes that an example was cut, as the user asked for."""
  counts = _COUNTS.get()
  if counts is not None:
    counts['truncated'] += 1


def empty(who: str, max_length: int | None) -> None:
  """Notes an example that has nothing to train on.

  Args:
    who: Who made it.
    max_length: To what length.
  """
  counts = _COUNTS.get()
  if counts is not None:
    counts['empty'] += 1
    return
  # The same text each time, so that Python shows it once.
  warnings.warn(
    f'{who}: an example has no trained token left within '
    f'max_length={max_length}, so it has no part in any loss. Raise '
    'max_length, or leave such examples out; gm.data.Batches does.',
    stacklevel=2,
  )
