"""Answers piece by piece."""

from collections.abc import Generator
from collections.abc import Iterator
import contextlib
from typing import Any

import jax
import numpy as np

from gemma.gm.text import _detokenizer
from gemma.gm.text import _output
from gemma.gm.text import _state
from gemma.gm.text import _stop_strings
from gemma.gm.text import _tokenizer


class Row:
  """Text of a growing answer, without splitting a character or stop string."""

  def __init__(
    self,
    tokenizer: _tokenizer.Tokenizer,
    stop_strings: _stop_strings.StopStrings | None,
  ):
    """Starts without a token.

    Args:
      tokenizer: The vocabulary.
      stop_strings: Texts that end the answer.
    """
    self._held = _stop_strings.Held(stop_strings)
    self._text = _detokenizer.Detokenizer(tokenizer)

  def add(self, token: int) -> str:
    """The text that is certain after one more token."""
    return ''.join(map(self._text.add, self._held.add(token)))

  def flush(self) -> str:
    """The rest of the text."""
    return ''.join(map(self._text.add, self._held.end())) + self._text.flush()


def pieces(
  states: Iterator[_state.SamplingState],
  tokenizer: _tokenizer.Tokenizer,
  *,
  batched: bool,
  keep_end: bool = True,
  stop_strings: _stop_strings.StopStrings | None = None,
) -> Iterator[_output.SamplerOutput]:
  """The text of each step, without splitting a character.

  Args:
    states: States on the way.
    tokenizer: The vocabulary.
    batched: Whether to give a list with a piece for each row.
    keep_end: Whether texts keep their end tag.
    stop_strings: Texts that end an answer. No part of one is shown.
  """
  seen = np.zeros(0, np.int32)
  rows: list[Row] = []
  for state in states:
    predicted, counts, done = jax.device_get(
      (state.predicted_tokens, state.count, state.done)
    )
    if not rows:
      rows = [Row(tokenizer, stop_strings) for _ in counts]
      seen = np.zeros_like(counts)
    for step in range(int(np.max(counts - seen))):
      new = [
        p[n + step : n + step + 1].tolist() if n + step < count else []
        for p, n, count in zip(predicted, seen, counts, strict=True)
      ]
      hidden = done & (seen + step + 1 == counts) & (not keep_end)
      texts = [
        row.flush() if end else ''.join(map(row.add, ids))
        for row, ids, end in zip(rows, new, hidden, strict=True)
      ]
      yield _piece(texts, new, predicted, state, batched)
    seen = counts
  rest = [row.flush() for row in rows]
  if any(rest):
    yield _piece(rest, [[] for _ in rest], predicted, state, batched)


def _piece(
  texts: list[str],
  new: list[list[int]],
  predicted: np.ndarray,
  state: _state.SamplingState,
  batched: bool,
) -> _output.SamplerOutput:
  return _output.SamplerOutput(
    text=texts if batched else texts[0],
    tokens=predicted if batched else predicted[0],
    token_ids=new if batched else new[0],
    kept_state=state,
  )


def show(pieces: Generator[str, None, None], where: Any) -> str:
  """Prints an answer as it comes, or hands it over; returns all of it."""
  text = ''
  with contextlib.closing(pieces):
    for piece in pieces:
      text += piece
      _put(piece, where)
  _put('\n', where)
  return text


def _put(text: str, where: Any) -> None:
  if where is True:
    print(text, end='', flush=True)
  elif hasattr(where, 'add'):  # A stream of `dialog`.
    where.add(text)
  else:
    where.write(text)
