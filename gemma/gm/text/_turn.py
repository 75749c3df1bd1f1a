"""A prompt on its way into a conversation."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from gemma.gm.text import _history
from gemma.gm.text import _output
from gemma.gm.text import _state


@dataclasses.dataclass(frozen=True)
class Prompt:
  """What was said to the model, with its tags.

  Attributes:
    text: The text as the model saw it.
  """

  text: str


@dataclasses.dataclass(frozen=True)
class Response:
  """What the model said, with its tags.

  Attributes:
    text: The text as the model wrote it.
  """

  text: str


@dataclasses.dataclass(frozen=True)
class Seen:
  """What the model has seen.

  Attributes:
    ids: Its tokens.
    state: The state behind them, if it was kept.
  """

  ids: list[int] = dataclasses.field(default_factory=list)
  state: _state.SamplingState | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turn:
  """What the model is told next.

  Attributes:
    history: The conversation with the prompt.
    said: Tokens of the prompt.
    ids: What the sampler is given: all of the context, if there is no state.
    lead: What opens the model's turn behind them.
    images: The images in it.
    state: What came before.
    context: All tokens of the conversation, those of `lead` included.
    dropped: Tokens of turns that were dropped to make room.
    kept: The turns before.
    base: What the sampler gave for all but `lead`, if that was apart.
  """

  history: _history.History
  said: list[int]
  ids: list[int]
  lead: list[int]
  images: list[np.ndarray]
  state: _state.SamplingState | None
  context: list[int]
  dropped: int
  kept: Sequence[Any]
  base: _output.SamplerOutput | None = None

  @property
  def options(self) -> dict[str, Any]:
    """What the sampler is told besides."""
    return {
      'images': self.images or None,
      'last_state': self.state,
      'return_state': True,
    }

  @property
  def base_seen(self) -> Seen:
    """What later turns will share with this one, with a state to go on from."""
    base = self.base
    if base is None or base.usage.dropped_tokens:
      return Seen()
    ids = self.context[: len(self.context) - len(self.lead)]
    return Seen(ids, base.state.without_last())

  def as_one(self) -> 'Turn':
    """With what opens the model's turn at the end of what is given."""
    return dataclasses.replace(self, ids=self.ids + self.lead)

  def behind(self, base: _output.SamplerOutput) -> 'Turn':
    """With nothing to be given but what opens the model's turn.

    Args:
      base: What the sampler gave for the rest: a token more, which is dropped.
    """
    state = base.state.without_last()
    return dataclasses.replace(
      self, ids=self.lead, images=[], state=state, base=base
    )

  def can_go_on(self, out: _output.SamplerOutput) -> bool:
    """Whether the state behind an answer holds all of the conversation."""
    dropped = self.usage(out.usage).dropped_tokens
    # A cache behind logits that are not finite may be spoiled.
    return dropped == self.dropped and out.finish_reason != 'nan'

  def usage(self, usage: _output.Usage, cut: int = 0) -> _output.Usage:
    """The tokens of the whole turn.

    Args:
      usage: Those of the sampler's last call.
      cut: Sampled tokens that are not part of the conversation.
    """
    dropped = usage.dropped_tokens + self.dropped
    left = usage.context_tokens - cut
    usage = dataclasses.replace(usage, context_tokens=left)
    if self.base is None:
      return dataclasses.replace(usage, dropped_tokens=dropped)
    base = self.base.usage
    return dataclasses.replace(
      usage,
      prompt_tokens=base.prompt_tokens + usage.prompt_tokens,
      cached_tokens=base.cached_tokens,
      dropped_tokens=dropped + base.dropped_tokens,
    )


def take(
  before: _history.History,
  whole: _history.History,
  *,
  seen: Sequence[Seen],
  kept: Sequence[Any],
  room: int | None,
) -> Turn:
  """What of a conversation is new to the model.

  Args:
    before: The conversation without the prompt.
    whole: The conversation with it.
    seen: What the model has seen, the newest first.
    kept: The turns before.
    room: Most tokens of the context, beyond which the oldest turns are dropped;
      None drops nothing.

  Raises:
    ValueError: If it is not the model's turn.
  """
  if len(whole.turns) == len(before.turns) or whole.turns[-1].role == 'model':
    raise ValueError(
      'The prompt ends with what the model says. End it with a message of the '
      'user; restore() takes up a conversation.'
    )
  lead = whole.lead
  said = whole.since(len(before.turns)) + lead
  if before.turns and seen[0].ids[-1:] == said[:1]:
    said = said[1:]  # The model has ended its turn itself.
  history = whole
  while room is not None and history.can_drop and history.length > room:
    history = history.without_oldest()
  ids = history.ids
  known = next((s for s in seen if s.ids and ids[: len(s.ids)] == s.ids), None)
  state = known.state if known else None
  new = ids if state is None or known is None else ids[len(known.ids) :]
  return Turn(
    history=history,
    said=said,
    ids=new,
    lead=lead,
    images=history.images_in(new),
    state=state,
    context=ids + lead,
    dropped=whole.length - history.length,
    kept=kept,
  )
