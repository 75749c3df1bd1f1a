"""The same step on all processes of a run. With one process, just the step."""

from collections.abc import Callable

import jax
import numpy as np


def on_any(here: bool) -> bool:
  """Whether it holds on any process. All of them call this, and wait."""
  if jax.process_count() == 1:
    return here
  from jax.experimental import multihost_utils

  return bool(np.any(multihost_utils.process_allgather(np.array(here))))


def together(work: Callable[[], None]) -> None:
  """Runs it on every process, and raises on all if it raises on one."""
  error = None
  try:
    work()
  except Exception as e:
    error = e
  failed = on_any(error is not None)
  if error is not None:
    raise error
  if failed:
    raise RuntimeError('Another process failed; its error says why.')


def on_first(work: Callable[[], None]) -> None:
  """Runs it on process 0, while the others wait."""
  together(work if jax.process_index() == 0 else lambda: None)
