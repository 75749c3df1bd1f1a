"""Texts that end an answer, found token by token.

Axes: N states of the automaton, V vocab.

The texts are looked for among the bytes of the tokens (Aho and Corasick,
https://doi.org/10.1145/360825.360855). The state after a token is one entry of
a table, so that the compiled decode loop finds them, wherever tokens part them.
"""

from collections.abc import Sequence
import functools

from jaxtyping import Int
import numpy as np

from gemma.gm.text import _tokenizer

_MOST_BYTES = 256  # The table has a row for each.
_ROWS = 32  # The table has a multiple of these.


def check(texts: Sequence[str] | None) -> None:
  """Raises on stop strings that are one string, empty, or too long."""
  if isinstance(texts, str):
    raise ValueError(f'stop_strings={texts!r} is one string. Give a list.')
  for text in texts or ():
    if not isinstance(text, str) or not text:
      raise ValueError(f'stop_strings has {text!r}. Give texts.')
  total = sum(len(text.encode()) for text in texts or ())
  if total > _MOST_BYTES:
    raise ValueError(
      f'stop_strings have {total} bytes in all; the most is {_MOST_BYTES}.'
    )


class StopStrings:
  """Finds the first of some texts among tokens.

  ```python
  >>> from gemma import gm
  >>> from gemma.gm.text import _stop_strings
  >>> tokenizer = gm.text.Gemma3TinyTokenizer()
  >>> stops = _stop_strings.StopStrings(tokenizer, ['the end'])
  >>> tokenizer.decode(stops.cut(tokenizer.encode('This is the end.')))
  'This is '

  ```
  """

  def __init__(self, tokenizer: _tokenizer.Tokenizer, texts: Sequence[str]):
    """Builds the automaton.

    Args:
      tokenizer: The vocabulary.
      texts: The texts.

    Raises:
      ValueError: See `check`.
    """
    check(texts)
    self._tokenizer = tokenizer
    # Depth of each state, and the length of the longest text that ends there.
    self._next, self.depth, self._ends = _automaton([t.encode() for t in texts])

  @property
  def found(self) -> int:
    """The state behind the end of a text."""
    return len(self._next)

  @functools.cached_property
  def pieces(self) -> list[bytes]:
    """What each token adds to the text."""
    tokenizer = self._tokenizer
    special = tokenizer.special_tokens
    silent = (special.PAD, special.EOS, special.BOS)
    out = []
    for i, piece in enumerate(tokenizer.tokens):
      byte = tokenizer.byte_of(i)
      text = piece.encode() if byte is None else bytes([byte])
      out.append(b'' if i in silent else text)
    return out

  def table(self, size: int) -> Int[np.ndarray, 'N V']:
    """The state after each state and token; the last is `found`.

    Args:
      size: Rows of the model's table of tokens.
    """
    rows = -(-(self.found + 1) // _ROWS) * _ROWS  # Few sizes, few compilations.
    walk = np.full((rows, 256), rows - 1, np.int16)
    walk[: self.found] = np.where(
      self._next == self.found, rows - 1, self._next
    )
    tokens = self.pieces[:size]
    lengths = np.array([len(token) for token in tokens])
    order = np.argsort(-lengths, kind='stable')
    now = np.repeat(np.arange(rows, dtype=np.int16)[:, None], size, axis=1)
    walked = now[:, order]
    for at in range(lengths.max()):
      count = np.count_nonzero(lengths > at)
      byte = np.array([tokens[i][at] for i in order[:count]])
      walked[:, :count] = walk[walked[:, :count], byte]
    now[:, order] = walked
    return now

  def step(self, state: int, token: int) -> int:
    """The state after one more token."""
    return self._walk(state, token)[0]

  def cut(self, ids: Sequence[int]) -> list[int]:
    """An answer without the text that ended it, and all behind that.

    Where it begins inside of a token, the rest of that is spelled.
    """
    whole, rest = self.split(ids)
    return [*ids[:whole], *(self._tokenizer.spell(rest) if rest else [])]

  def split(self, ids: Sequence[int]) -> tuple[int, str]:
    """Tokens before the text that ended an answer, and text between them."""
    state = 0
    for i, token in enumerate(ids):
      state, begin = self._walk(state, token)
      if begin is not None:
        return self._split_at(ids[: i + 1], begin)
    return len(ids), ''

  def _split_at(self, ids: Sequence[int], begin: int) -> tuple[int, str]:
    """See `split`.

    Args:
      ids: The answer up to the token that ends the text.
      begin: Where the text begins, in bytes from the begin of that token.
    """
    whole, parts = len(ids) - 1, self.pieces
    while begin < 0:
      whole -= 1
      begin += len(parts[ids[whole]])
    return whole, parts[ids[whole]][:begin].decode(errors='replace')

  def _walk(self, state: int, token: int) -> tuple[int, int | None]:
    """The state after a token, and where a text begins that ends in it."""
    if state == self.found:
      return state, None
    for at, byte in enumerate(self.pieces[token]):
      before, state = state, int(self._next[state, byte])
      if state == self.found:
        return state, at + 1 - int(self._ends[before, byte])
    return state, None


class Held:
  """Holds back tokens that may be a part of a stop string.

  All tokens that come out are `StopStrings.cut` of those that went in.
  """

  def __init__(self, stops: StopStrings | None):
    """Starts before the first token.

    Args:
      stops: The texts; None holds nothing back.
    """
    self._stops = stops
    self._state = 0
    self._held: list[int] = []

  @property
  def count(self) -> int:
    """How many tokens are held back."""
    return len(self._held)

  def add(self, token: int) -> list[int]:
    """The tokens that are certain after one more."""
    stops = self._stops
    if stops is None:
      return [token]
    self._held.append(token)
    self._state = stops.step(self._state, token)
    if self._state == stops.found:
      return []
    size = sum(len(stops.pieces[t]) for t in self._held)
    count = 0
    for held in self._held:
      size -= len(stops.pieces[held])
      if size < stops.depth[self._state]:
        break
      count += 1
    out, self._held = self._held[:count], self._held[count:]
    return out

  def end(self) -> list[int]:
    """The tokens that were held back, and are no part of a stop string."""
    held, self._held = self._held, []
    return held if self._stops is None else self._stops.cut(held)


def _automaton(
  texts: Sequence[bytes],
) -> tuple[np.ndarray, list[int], np.ndarray]:
  """What finds texts among bytes.

  Returns:
    The state after each state and byte, where their number is the state behind
    the end of a text; the bytes of a text that a state has seen; and, of what
    ends a text, its length.
  """
  prefixes = sorted({t[:n] for t in texts for n in range(len(t))}, key=len)
  prefixes = prefixes or [b'']
  index = {prefix: i for i, prefix in enumerate(prefixes)}
  walk = np.zeros((len(prefixes), 256), np.int32)
  ends = np.zeros((len(prefixes), 256), np.int32)
  for prefix, i in index.items():
    for byte in range(256):
      seen = prefix + bytes([byte])
      whole = [len(text) for text in texts if seen.endswith(text)]
      if whole:
        walk[i, byte], ends[i, byte] = len(prefixes), max(whole)
      else:
        suffix = next(n for n in range(len(seen) + 1) if seen[n:] in index)
        walk[i, byte] = index[seen[suffix:]]
  return walk, [len(prefix) for prefix in prefixes], ends
