"""Structured output: which tokens may come next, for text of a given form.

A schema is compiled once per tokenizer by the llguidance library, which parses
bytes. So a text has the form however it was cut into tokens, and a character
may come as byte tokens.
"""

from collections.abc import Sequence
import dataclasses
import functools
import re
from typing import Any

from jaxtyping import Bool
import numpy as np

from gemma.gm.text import _schema
from gemma.gm.text import _tokenizer


class Grammar:
  """A schema that was compiled for a tokenizer, by `compile_grammar`."""

  def __init__(self, vocabulary: '_Vocabulary', matcher: Any):
    """Keeps a matcher at its start.

    Args:
      vocabulary: The tokens.
      matcher: The engine's, copied for every text.
    """
    self._vocabulary = vocabulary
    self._matcher = matcher

  def start(self) -> 'Matcher':
    """A matcher for one text, at its beginning."""
    return Matcher(self._vocabulary, self._matcher.deep_copy())


class Matcher:
  """Follows one text, token by token."""

  def __init__(self, vocabulary: '_Vocabulary', matcher: Any):
    """Starts where the engine's matcher is.

    Args:
      vocabulary: The tokens.
      matcher: The engine's. It belongs to this object from here on.
    """
    self._vocabulary = vocabulary
    self._matcher = matcher
    self._stopped = False
    self._allowed: np.ndarray | None = None

  def allowed(self) -> Bool[np.ndarray, 'V']:
    """Which tokens may come next.

    Where the text is forced, that is only the token that the tokenizer would
    cut there. Control tokens are never allowed, but for EOS and END_OF_TURN:
    both where the text may end, and nothing else where it must.

    Returns:
      True for each id that may come next. Read-only.

    Raises:
      RuntimeError: If the schema is too complex to be followed from here.
    """
    if self._allowed is None:
      self._allowed = self._compute()
      self._allowed.setflags(write=False)
    return self._allowed

  def accept(self, token: int) -> None:
    """Takes the next token of the text.

    Args:
      token: An id. One of the two that stop ends the text.

    Raises:
      ValueError: If the token is not allowed here.
      RuntimeError: As for `allowed`.
    """
    if not 0 <= token < self._vocabulary.size or not self.allowed()[token]:
      raise ValueError(
        f'Token {token} is not allowed here: the text would not have the form '
        'of the schema. Choose among those of allowed().'
      )
    if token in self._vocabulary.stops:
      self._stopped = True
    else:
      self._matcher.consume_token(token)
    self._allowed = None

  @property
  def finished(self) -> bool:
    """Whether nothing but a stop may follow."""
    allowed, stops = self.allowed(), self._vocabulary.stops
    return bool(allowed[stops[0]] and np.count_nonzero(allowed) == len(stops))

  def _compute(self) -> np.ndarray:
    size, stops = self._vocabulary.size, [*self._vocabulary.stops]
    if self._stopped:
      mask = np.zeros(size, bool)
      mask[stops] = True
      return mask
    bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
    if self._matcher.is_error():
      raise RuntimeError(
        'The schema cannot be followed from here: '
        f'{_first_lines(self._matcher.get_error())}'
      )
    mask = np.unpackbits(bits, count=size, bitorder='little').view(bool)
    mask[stops] = mask[stops[0]]  # The engine knows of one.
    return mask


def compile_grammar(
  tokenizer: _tokenizer.Tokenizer, schema: _schema.Schema
) -> Grammar:
  """Compiles a schema for a tokenizer. The same pair is compiled once.

  ```python
  >>> from gemma import gm
  >>> tokenizer = gm.text.Gemma3TinyTokenizer()
  >>> grammar = gm.text.compile_grammar(tokenizer, gm.text.Regex('yes|no'))
  >>> matcher = grammar.start()
  >>> n, o = tokenizer.encode('no')
  >>> matcher.allowed()[[n, o]]
  array([ True, False])
  >>> matcher.accept(n)
  >>> matcher.accept(o)
  >>> matcher.finished
  True

  ```

  Args:
    tokenizer: The vocabulary. Its first schema takes longer than the others:
      1.5 seconds for 262,144 tokens, where the others take milliseconds.
    schema: A JSON schema as a dict or as text, a pydantic model, a
      `JsonSchema`, a `Regex` or a `Lark`.

  Returns:
    The grammar, of which every text starts a matcher.

  Raises:
    ImportError: If llguidance is not installed.
    ValueError: If the schema is malformed, uses what is not supported, or
      matches no text.
  """
  try:
    return _compile(tokenizer, _schema.source(schema))
  except ValueError as e:
    shown = repr(schema)
    shown = shown if len(shown) <= 300 else f'{shown[:300]}...'
    raise ValueError(f'{e}\nThis was found in the schema {shown}') from e


def compile_all(
  tokenizer: _tokenizer.Tokenizer,
  schema: _schema.Schema | Sequence[_schema.Schema],
  rows: int,
) -> list[Grammar]:
  """The grammar of each prompt.

  Args:
    tokenizer: The vocabulary.
    schema: One for all prompts, or a list with one for each.
    rows: How many prompts there are.

  Raises:
    ValueError: If there are not as many, or as `compile_grammar`.
  """
  if isinstance(schema, str) or not isinstance(schema, Sequence):
    return [compile_grammar(tokenizer, schema)] * rows
  if len(schema) != rows:
    raise ValueError(
      f'schema has {len(schema)} entries for {rows} prompts. Give one schema '
      'for all of them, or a list with one for each.'
    )
  return [compile_grammar(tokenizer, one) for one in schema]


@dataclasses.dataclass(frozen=True)
class _Vocabulary:
  """Tokens as the engine has them."""

  engine: Any
  size: int
  stops: tuple[int, ...]


@functools.lru_cache(maxsize=64)
def _compile(tokenizer: _tokenizer.Tokenizer, source: str) -> Grammar:
  vocabulary = _vocabulary(tokenizer)
  matcher = _schema.engine().LLMatcher(vocabulary.engine, source, log_level=0)
  if matcher.is_error():
    raise ValueError(_first_lines(matcher.get_error()))
  grammar = Grammar(vocabulary, matcher)
  try:
    empty = not grammar.start().allowed().any()
  except RuntimeError as e:
    raise ValueError(f'No text has this form, or it is too complex. {e}') from e
  if empty:
    raise ValueError('No text has this form.')
  return grammar


@functools.lru_cache(maxsize=8)
def _vocabulary(tokenizer: _tokenizer.Tokenizer) -> _Vocabulary:
  engine, special = _schema.engine(), tokenizer.special_tokens
  wrapped = engine.TokenizerWrapper(_Bytes(tokenizer))
  return _Vocabulary(
    engine.LLTokenizer(wrapped, n_vocab=tokenizer.vocab_size),
    size=tokenizer.vocab_size,
    stops=(int(special.EOS), int(special.END_OF_TURN)),
  )


class _Bytes:
  """A tokenizer for the engine: the bytes of each token, none for control."""

  def __init__(self, tokenizer: _tokenizer.Tokenizer):
    special = tokenizer.special_tokens
    # Tags of the user's own are text that a form may ask for.
    own = {special.CUSTOM + i for i in tokenizer.custom_tokens}
    closed = tokenizer.control_ids - own
    self.eos_token_id = int(special.EOS)
    self.bos_token_id = int(special.BOS)
    self.special_token_ids = [self.eos_token_id]
    self.tokens = [
      b'' if i in closed else _bytes_of(tokenizer, i, piece)
      for i, piece in enumerate(tokenizer.tokens)
    ]
    self._tokenizer = tokenizer
    self._byte_ids = {
      byte: i
      for i in range(tokenizer.vocab_size)
      if (byte := tokenizer.byte_of(i)) is not None
    }

  def __call__(self, text: str) -> list[int]:
    """How forced text is cut."""
    for encode in (self._tokenizer.encode, self._tokenizer.spell):
      ids = encode(text)
      if b''.join(self.tokens[i] for i in ids) == text.encode():
        return ids
    # It spells an unused token, or has the very sign that stands for a space.
    return [self._byte_ids[byte] for byte in text.encode()]


def _bytes_of(tokenizer: _tokenizer.Tokenizer, i: int, piece: str) -> bytes:
  byte = tokenizer.byte_of(i)
  return piece.encode() if byte is None else bytes([byte])


def _first_lines(message: str) -> str:
  """An error of the engine, without the dump of its state behind it."""
  return re.split(r'<state>|<backtrace>', message)[0].strip()
