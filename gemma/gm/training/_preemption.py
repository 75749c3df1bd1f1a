"""When a machine is taken away: SIGTERM, and some seconds to save."""

import signal
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 128 + signal.SIGTERM  # As of a process that the signal ended.


class Preemption:
  """Hears that this process, or another one of the run, is to end."""

  def __init__(self) -> None:
    self._heard = threading.Event()
    self._before: Any = None

  def listen(self) -> None:
    """Begins to listen; what the signal did before is done no more.

    Of several processes, JAX listens, and signals reach Python's main thread
    alone: elsewhere this does nothing.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if jax.process_count() == 1 and is_main and self._before is None:
      self._before = signal.signal(signal.SIGTERM, self._hear)

  def stop(self) -> None:
    """Puts things back as they were."""
    if self._before is not None:
      signal.signal(signal.SIGTERM, self._before)
      self._before = None

  def reached(self, step: int) -> bool:
    """Whether to save after this step and to end, the same on all processes.

    Args:
      step: The step, which all processes call this for.
    """
    if jax.process_count() == 1:
      return self._heard.is_set()
    try:
      return multihost_utils.reached_preemption_sync_point(step)
    except RuntimeError:  # JAX's service is turned off.
      return False

  def _hear(self, *_: Any) -> None:
    self._heard.set()
