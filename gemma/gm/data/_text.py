"""Texts of examples, and the tokens of turns that say them."""

import math
import re
from typing import Any

import numpy as np

from gemma.gm.text import _conversation
from gemma.gm.text import _keys
from gemma.gm.text import _parts
from gemma.gm.text import _special_tokens
from gemma.gm.text import _template
from gemma.gm.text import _tokenizer


def text_of(value: Any, reader: str, key: str | None = None) -> str:
  """A value of an element as text.

  Args:
    value: Text, bytes of UTF-8, or a number; or an array of one such.
    reader: Who takes it, for the error.
    key: Its key, for the error.

  Raises:
    TypeError: If it is something else, such as None.
    ValueError: If it is NaN, or bytes of no text.
  """
  value = plain(value)
  where = f'{reader} takes text' + ('' if key is None else f' as {key!r}')
  if isinstance(value, bytes):
    try:
      return value.decode()
    except UnicodeDecodeError as e:
      raise ValueError(
        f'{where}, but these bytes are no UTF-8 at {e.start}: '
        f'{_keys.short(value)}.'
      ) from e
  if isinstance(value, float) and not math.isfinite(value):
    raise ValueError(
      f'{where}, and not {value}, as tables have it where a value is missing. '
      'Leave such examples out.'
    )
  if isinstance(value, str | int | float):
    return str(value)
  raise TypeError(
    f'{where}, and not a {type(value).__name__}: {_keys.short(value)}. Leave '
    'such examples out, or make text of it in a transform before.'
  )


def plain(value: Any) -> Any:
  """An array or a number of NumPy as Python's own."""
  if isinstance(value, np.ndarray | np.generic):
    return value.tolist()
  return value


def prompt_parts(
  tokenizer: _tokenizer.Tokenizer, text: str
) -> list[_parts.Part]:
  """A prompt as texts, and media where it has their placeholder."""
  tags = _placeholders(tokenizer)
  if not tags:
    return [text]
  pieces = re.split(f'({"|".join(map(re.escape, tags))})', text)
  return [
    _parts.Attachment(tags[piece]) if piece in tags else piece
    for piece in pieces
    if piece
  ]


def prompt_ids(tokenizer: _tokenizer.Tokenizer, text: str) -> list[int]:
  """Tokens of a user's turn and of what opens that of the model.

  What the text says is spelled out, but for the placeholders of media.
  """
  turn = _conversation.Turn('user', tuple(prompt_parts(tokenizer, text)))
  return [
    int(tokenizer.special_tokens.BOS),
    *_template.encode_turn(tokenizer, turn),
    *_template.turn_end(tokenizer),
    *_template.lead(tokenizer),
  ]


def response_ids(tokenizer: _tokenizer.Tokenizer, text: str) -> list[int]:
  """Tokens of what the model says, with the end of its turn."""
  ids = tokenizer.spell(text)
  return [*ids, int(tokenizer.special_tokens.END_OF_TURN)]


def prompt_text(tokenizer: _tokenizer.Tokenizer, text: str) -> str:
  """A user's turn and what opens that of the model, as a sampler takes it."""
  tags = _special_tokens.TAGS[tokenizer.FORMAT]
  start, end = tags['START_OF_TURN'], tags['END_OF_TURN']
  return f'{start}user\n{text}{end}\n{start}model\n'


def response_text(tokenizer: _tokenizer.Tokenizer, text: str) -> str:
  """What the model says, with the end of its turn."""
  return text + _special_tokens.TAGS[tokenizer.FORMAT]['END_OF_TURN']


def _placeholders(
  tokenizer: _tokenizer.Tokenizer,
) -> dict[str, _parts.Media]:
  """Tags in prompts that stand for media."""
  special = tokenizer.special_tokens
  tags = _special_tokens.tags_of(special, tokenizer.FORMAT)
  return {
    tag: media
    for media in _parts.Media
    if media.value in special.__members__
    for tag in tags[special.__members__[media.value]]
  }
