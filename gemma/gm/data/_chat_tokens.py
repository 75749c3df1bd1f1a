"""Conversations as tokens, and which of these the model is to say."""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import itertools
from typing import Any

from gemma.gm.text import _conversation
from gemma.gm.text import _formats
from gemma.gm.text import _parts
from gemma.gm.text import _template
from gemma.gm.text import _tokenizer


@dataclasses.dataclass(frozen=True)
class Tokens:
  """A sequence.

  Attributes:
    ids: Its tokens.
    trained: Which of them are trained.
  """

  ids: list[int]
  trained: list[bool]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoder:
  """How conversations become tokens: as `gm.text.encode_chat` has them.

  Attributes:
    tokenizer: The vocabulary.
    thinking: Whether the model is asked to think.
    empty_thought: Whether its last turn opens with an empty thought, if it has
      none of its own and it is not asked to think.
    last_only: Whether nothing but the model's last turn is trained.
  """

  tokenizer: _tokenizer.Tokenizer
  thinking: bool = False
  empty_thought: bool = False
  last_only: bool = False

  def encode(
    self, messages: Sequence[_conversation.Message], tools: Sequence[Any] = ()
  ) -> Tokens:
    """A conversation, up to the last token that is trained.

    What the model says is trained, with the token by which it ends its turn or
    waits for a tool; what tools respond is not.

    Args:
      messages: Dicts with `role` and `content`.
      tools: What the model may call.

    Raises:
      ValueError: If `encode_chat` would.
    """
    turns = self._turns(messages, tools)
    last = max(
      (i for i, turn in enumerate(turns) if turn.role == 'model'), default=-1
    )
    pieces = [([int(self.tokenizer.special_tokens.BOS)], False)]
    for i, turn in enumerate(turns):
      if turn.role != 'model':
        ids = _template.encode_turn(self.tokenizer, turn)
        pieces.append((ids + _template.turn_end(self.tokenizer), False))
        continue
      kept = i == last or not self.last_only
      said = self._model_turn(
        turn, last=i == last, open_end=i == len(turns) - 1
      )
      pieces += [(ids, trained and kept) for ids, trained in said]
    while len(pieces) > 1 and last >= 0 and not pieces[-1][1]:
      pieces.pop()
    return Tokens(
      [*itertools.chain.from_iterable(ids for ids, _ in pieces)],
      [trained for ids, trained in pieces for _ in ids],
    )

  def _turns(
    self, messages: Sequence[_conversation.Message], tools: Sequence[Any]
  ) -> Sequence[_conversation.Turn]:
    form = _formats.of(self.tokenizer)
    turns = _conversation.turns_of(
      _conversation.said_in(messages), system_turn=form.system_turn
    )
    turns = [
      *_template.instructed(
        self.tokenizer, turns, thinking=self.thinking, tools=tools
      )
    ]
    return _template.forgotten(turns) if form.forgets else turns

  def _model_turn(
    self, turn: _conversation.Turn, *, last: bool, open_end: bool
  ) -> Iterator[tuple[list[int], bool]]:
    """Pieces of a turn of the model, and whether it says them.

    Args:
      turn: The turn.
      last: Whether it is the model's last one.
      open_end: Whether nothing comes after it.
    """
    special = self.tokenizer.special_tokens
    thinks = any(isinstance(p, _parts.Thought) for p in turn.parts)
    empty = self.empty_thought and last and not thinks and not self.thinking
    yield _template.lead(self.tokenizer, empty_thought=empty), False
    before: type | None = None
    for is_response, group in itertools.groupby(turn.parts, _is_response):
      parts = tuple(group)
      ids = _template.encode_parts(self.tokenizer, parts)
      if is_response and before is _parts.ToolCall:
        yield ids[:1], True  # By which the model waits for it.
        ids = ids[1:]
      yield ids, not is_response
      before = type(parts[-1])
    if open_end and before is _parts.ToolResponse:
      return
    if open_end and before is _parts.ToolCall:
      yield [int(special.BEGIN_OF_TOOL_RESPONSE)], True
      return
    end, *rest = _template.turn_end(self.tokenizer)
    yield [int(end)], True
    yield rest, False


def _is_response(part: _parts.Part) -> bool:
  return isinstance(part, _parts.ToolResponse)
