"""A prompt on its way into a conversation."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from gemma.gm.text import _history
from gemma.gm.text import _state


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turn:
  """What the model is told next.

  Attributes:
    history: The conversation with the prompt.
    said: Tokens of the prompt.
    ids: What the sampler is given: all of the context, if there is no state.
    images: The images in it.
    state: What came before.
    context: All tokens of the conversation.
    dropped: Tokens of turns that were dropped to make room.
    kept: The turns before.
  """

  history: _history.History
  said: list[int]
  ids: list[int]
  images: list[np.ndarray]
  state: _state.SamplingState | None
  context: list[int]
  dropped: int
  kept: Sequence[Any]

  @property
  def options(self) -> dict[str, Any]:
    """What the sampler is told besides."""
    return {
      'images': self.images or None,
      'last_state': self.state,
      'return_state': True,
    }


def take(
  whole: _history.History,
  raw: list[int],
  *,
  last_state: _state.SamplingState | None,
  kept: Sequence[Any],
  room: int | None,
) -> Turn:
  """What of a conversation is new to the model.

  Args:
    whole: The conversation with the prompt.
    raw: Tokens that the model has seen.
    last_state: The state behind them.
    kept: The turns before.
    room: Most tokens of the context, beyond which the oldest turns are dropped;
      None drops nothing.
  """
  ids = whole.ids
  said = ids[len(raw) :] if ids[: len(raw)] == raw else ids
  history = whole
  while room is not None and len(history.turns) > 1 and history.length > room:
    history = history.without_oldest()
  context = history.ids
  goes_on = bool(raw) and context[: len(raw)] == raw
  state = last_state if goes_on else None
  new = context if state is None else said
  return Turn(
    history=history,
    said=said,
    ids=new,
    images=history.images_in(new),
    state=state,
    context=context,
    dropped=whole.length - history.length,
    kept=kept,
  )
