"""One answer at a time: which call may add a turn to a conversation."""

import threading
from typing import Any
import warnings


class Call:
  """A call that is to add a turn.

  Attributes:
    cancelled: Whether nobody waits for its answer any more.
  """

  def __init__(self):
    """Starts a call."""
    self.cancelled = False


def warn_left_behind(call: Call) -> None:
  """Says that the answer of a call is not recorded, if anybody waits for it."""
  if not call.cancelled:
    warnings.warn(
      'This answer is not part of the conversation: new_conversation(), '
      'restore(), load() or a call with multi_turn=False came before its end.',
      RuntimeWarning,
      stacklevel=3,
    )


class Gate:
  """Admits one call to a conversation, until its turn is recorded.

  Attributes:
    lock: Held while a conversation changes, and by calls without a stream until
      they return, so that others wait. One thread may take it several times.
  """

  def __init__(self):
    """Opens the gate."""
    self.lock = threading.RLock()
    self._inside: Call | None = None

  def enter(self, call: Call, *, renew: bool) -> None:
    """Admits a call. To be used under the lock.

    Args:
      call: The call.
      renew: Whether a new conversation begins, without a call that is inside.

    Raises:
      RuntimeError: If another call is inside, or this one was cancelled.
    """
    if call.cancelled:
      raise RuntimeError('The call was cancelled before its turn came.')
    if self._inside is not None and not renew:
      raise RuntimeError(
        'The last answer of this conversation is still being streamed. Exhaust '
        'its iterator or close() it first. If it is out of reach, '
        'chat.restore(chat.messages) goes on without it.'
      )
    self._inside = call

  def admits(self, call: Call) -> bool:
    """Whether a call is inside, and may record its turn."""
    return self._inside is call and not call.cancelled

  def leave(self, call: Call) -> None:
    """Takes a call out, if it is inside."""
    # Without the lock for all others: this may run while garbage is collected,
    # in any thread, and must not wait for a long call.
    if self._inside is call:
      with self.lock:
        if self._inside is call:
          self._inside = None

  def clear(self) -> None:
    """Leaves the call that is inside behind. To be used under the lock."""
    self._inside = None

  def __reduce__(self) -> tuple[Any, ...]:
    return Gate, ()  # A copy of a conversation has a gate of its own.
