"""What a model wrote, taken apart: its thought, its text, its calls of tools.

This is done by tokens and not by text: text that looks like a tag is none.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
from typing import Any

from gemma.gm.text import _detokenizer
from gemma.gm.text import _formats
from gemma.gm.text import _message
from gemma.gm.text import _parts
from gemma.gm.text import _tokenizer
from gemma.gm.text import _values

_CALL = 'call:'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reply:
  """What a model wrote.

  Attributes:
    text: What it says, without all of the below.
    thought: What it thought before; None if it did not.
    tool_calls: The tools that it calls, in order.
    unreadable: Calls that cannot be read, as they are written.
  """

  text: str
  thought: str | None = None
  tool_calls: tuple[_parts.ToolCall, ...] = ()
  unreadable: tuple[str, ...] = ()

  @property
  def message(self) -> dict[str, Any]:
    """All that can be read of it, as a message of the model."""
    message: dict[str, Any] = {'content': self.text}
    if self.thought is not None:
      message['reasoning_content'] = self.thought
    if self.tool_calls:
      message['tool_calls'] = _message.as_calls(self.tool_calls)
    return message


def parse_reply(
  tokenizer: _tokenizer.Tokenizer, written: str | Sequence[int]
) -> Reply:
  r"""Takes apart what a model wrote.

  ```python
  >>> from gemma import gm
  >>> tokenizer = gm.text.Gemma3TinyTokenizer()
  >>> gm.text.parse_reply(tokenizer, 'A cat.<end_of_turn>').text
  'A cat.'

  ```

  Args:
    tokenizer: The vocabulary of the model.
    written: Its tokens, such as `SamplerOutput.token_ids`. Or its text, in
      which tags are taken for tokens.

  Returns:
    Its parts. A thought or a call that was cut short ends where the text does.
  """
  if isinstance(written, str):
    written = tokenizer.encode(written)
  texts: dict[str, list[str]] = {}
  calls: list[_parts.ToolCall] = []
  unreadable: list[str] = []
  for kind, ids in _spans(tokenizer, written):
    if kind != 'call':
      texts.setdefault(kind, []).append(tokenizer.decode(ids))
      continue
    try:
      calls.append(_call(tokenizer, ids))
    except ValueError:
      unreadable.append(tokenizer.decode(ids))
  thoughts = texts.get('thought', [])
  thought = '\n\n'.join(t.removeprefix('thought\n').strip() for t in thoughts)
  return Reply(
    text=''.join(texts.get('text', ())),
    thought=thought or None,
    tool_calls=tuple(calls),
    unreadable=tuple(unreadable),
  )


def without_thoughts(
  tokenizer: _tokenizer.Tokenizer, ids: Sequence[int]
) -> list[int]:
  """Tokens without those of thoughts, and of the tags around them."""
  hearing = _Hearing(tokenizer.special_tokens)
  return [token for token in ids if hearing.of(token) != 'thought']


class Speech:
  """Text of a growing answer, as one who asked gets to see it.

  Without end tags, and with or without thoughts. All pieces together are the
  same whether they come one by one or at once.
  """

  def __init__(self, tokenizer: _tokenizer.Tokenizer, *, thoughts: bool):
    """Starts with nothing.

    Args:
      tokenizer: The vocabulary.
      thoughts: Whether thoughts are shown, in their tags.
    """
    form, special = _formats.of(tokenizer), tokenizer.special_tokens
    self._ends = [special.__members__[name] for name in form.ends]
    self._hearing = _Hearing(special)
    self._shows_thoughts = thoughts
    self._text = _detokenizer.Detokenizer(tokenizer)

  def add(self, token: int) -> str:
    """The text that one more token makes certain; maybe empty."""
    hidden = self._hearing.of(token) == 'thought' and not self._shows_thoughts
    return '' if hidden or token in self._ends else self._text.add(token)

  def end(self) -> str:
    """The rest of the text."""
    return self._text.flush()

  def whole(self, ids: Sequence[int]) -> str:
    """The text of all tokens, of which none was added before."""
    return ''.join(map(self.add, ids)) + self.end()


class _Hearing:
  """Which part of an answer each token belongs to, tags included."""

  def __init__(self, special: Any):
    members = special.__members__
    pairs = {
      'thought': ('START_OF_CHANNEL', 'END_OF_CHANNEL'),
      'call': ('BEGIN_OF_TOOL_CALL', 'END_OF_TOOL_CALL'),
    }
    known = {k: pair for k, pair in pairs.items() if pair[0] in members}
    self.opens = {members[pair[0]]: k for k, pair in known.items()}
    self.closes = {members[pair[1]]: k for k, pair in known.items()}
    self._inside = 'text'

  def of(self, token: int) -> str:
    """`text`, `thought` or `call`, for the next token."""
    if self._inside == 'text':
      self._inside = self.opens.get(token, 'text')
    inside = self._inside
    if self.closes.get(token) == inside:
      self._inside = 'text'
    return inside


def _spans(
  tokenizer: _tokenizer.Tokenizer, ids: Sequence[int]
) -> Iterator[tuple[str, list[int]]]:
  """What tokens belong to, and those between two tags."""
  special = tokenizer.special_tokens
  form, hearing = _formats.of(tokenizer), _Hearing(special)
  ends = {special.EOS, *(special.__members__[name] for name in form.ends)}
  span: tuple[str, list[int]] = ('text', [])
  for token in ids:
    if token in ends:
      continue
    kind = hearing.of(token)
    if token in hearing.opens and hearing.opens[token] == kind:
      yield span
      span = (kind, [])
    elif kind != 'text' and hearing.closes.get(token) == kind:
      yield span
      span = ('text', [])
    else:
      span[1].append(token)
  yield span


def _call(
  tokenizer: _tokenizer.Tokenizer, ids: Sequence[int]
) -> _parts.ToolCall:
  """The call that stands between two tags."""
  quote = tokenizer.special_tokens.QUOTE
  pieces: list[_values.Piece] = []
  run: list[int] = []
  for token in (*ids, quote):
    if token == quote:
      pieces += [tokenizer.decode(run), quote]
      run = []
    else:
      run.append(token)
  head, brace, rest = str(pieces[0]).partition('{')
  name = head.strip().removeprefix(_CALL).strip()
  if not brace or not name:
    raise ValueError(f'{head!r} is no call of a tool.')
  return _parts.ToolCall(
    name, _values.read([brace + rest, *pieces[1:-1]], quote)
  )
