"""Conversations as tokens, and which of these the model is to say."""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import itertools
from typing import Any

from gemma.gm.text import _conversation
from gemma.gm.text import _formats
from gemma.gm.text import _keys
from gemma.gm.text import _message
from gemma.gm.text import _message_keys
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


@dataclasses.dataclass(frozen=True)
class _Turn:
  """A turn, and which of its parts are trained."""

  turn: _conversation.Turn
  trained: tuple[bool, ...]

  @property
  def role(self) -> str:
    return self.turn.role


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
    waits for a tool; what tools respond is not, nor a message of weight 0.

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
        ids = _template.encode_turn(self.tokenizer, turn.turn)
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
  ) -> list[_Turn]:
    """Turns, with which parts of the model's are trained."""
    form = _formats.of(self.tokenizer)
    messages = _message.expanded(messages)
    said = [
      (role, parts or ['']) for role, parts in _conversation.said_in(messages)
    ]
    marks = _marks(messages, said)
    turns = _template.instructed(
      self.tokenizer,
      _conversation.turns_of(
        said, system_turn=form.system_turn, alternates=form.alternates
      ),
      thinking=self.thinking,
      tools=tools,
    )
    left = _template.forgotten(turns) if form.forgets else turns
    out = []
    for turn, rest in zip(turns, left, strict=True):
      is_model = turn.role == 'model'
      own = [next(marks) if is_model else False for _ in turn.parts]
      if len(rest.parts) < len(turn.parts):  # Thoughts were left out.
        both = zip(turn.parts, own, strict=True)
        own = [mark for p, mark in both if not isinstance(p, _parts.Thought)]
      out.append(_Turn(rest, tuple(own)))
    return out

  def _model_turn(
    self, turn: _Turn, *, last: bool, open_end: bool
  ) -> Iterator[tuple[list[int], bool]]:
    """Pieces of a turn of the model, and whether they are trained.

    Args:
      turn: The turn.
      last: Whether it is the model's last one.
      open_end: Whether nothing comes after it.
    """
    special, parts = self.tokenizer.special_tokens, turn.turn.parts
    thinks = any(isinstance(p, _parts.Thought) for p in parts)
    empty = self.empty_thought and last and not thinks and not self.thinking
    yield _template.lead(self.tokenizer, empty_thought=empty), False
    before: type | None = None
    trained = False
    both = zip(parts, turn.trained, strict=True)
    for (mark, is_response), group in itertools.groupby(both, _kind_of):
      own = tuple(part for part, _ in group)
      ids = _template.encode_parts(self.tokenizer, own)
      if is_response and before is _parts.ToolCall:
        yield ids[:1], trained  # By which the model waits for it.
        ids = ids[1:]
      before, trained = type(own[-1]), mark
      yield ids, trained
    if open_end and before is _parts.ToolResponse:
      return
    if open_end and before is _parts.ToolCall:
      yield [int(special.BEGIN_OF_TOOL_RESPONSE)], trained
      return
    end, *rest = _template.turn_end(self.tokenizer)
    yield [int(end)], trained
    yield rest, False


def _kind_of(pair: tuple[_parts.Part, bool]) -> tuple[bool, bool]:
  """Whether a part is trained, and whether a tool responded it."""
  part, mark = pair
  return mark, isinstance(part, _parts.ToolResponse)


def _marks(
  messages: Sequence[_conversation.Message],
  said: Sequence[_conversation.Said],
) -> Iterator[bool]:
  """Whether each part is trained, of those in turns of the model."""
  out: list[bool] = []
  for i, (message, (role, parts)) in enumerate(
    zip(messages, said, strict=True)
  ):
    kind = _message.ROLES.get(role)
    mark = _is_trained(i, message, is_model=kind == 'model')
    if kind in ('model', 'tool'):
      out += [mark] * len(parts)
  return iter(out)


def _is_trained(
  i: int, message: _conversation.Message, *, is_model: bool
) -> bool:
  """Whether a message is trained, by any of the keys that say so."""
  found = {
    key: message[key]
    for key in _message_keys.TRAINED
    if message.get(key) is not None
  }
  for key, value in found.items():
    if not isinstance(value, int | float) or value not in (0, 1):
      raise ValueError(
        f'Message {i} has {key}={_keys.short(value)}. A message is trained or '
        'not: give 1 or 0, true or false.'
      )
    if value and not is_model:
      raise ValueError(
        f'Message {i} of role {message["role"]} has {key}={value!r}, but only '
        'what the model says is trained. Remove it.'
      )
  if len({bool(value) for value in found.values()}) > 1:
    raise ValueError(f'Message {i} has {found}, which disagree. Give one.')
  return is_model and all(found.values())
