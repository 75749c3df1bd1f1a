"""Prompts of every form to rows of token ids, with room for their images."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from gemma.gm.nn import _like
from gemma.gm.nn import _transformer
from gemma.gm.text import _album
from gemma.gm.text import _attach
from gemma.gm.text import _conversation
from gemma.gm.text import _formats
from gemma.gm.text import _images
from gemma.gm.text import _template
from gemma.gm.text import _tokenizer
from gemma.gm.vision import _expand

_BOS = '<bos>'  # No text: SentencePiece would spell it.


@dataclasses.dataclass(frozen=True)
class Prompts:
  """The rows of one call.

  Attributes:
    rows: Token ids of each prompt, without padding; see `_album` for images.
    batched: Whether the caller gave several; otherwise results are unpacked.
    album: The images.
  """

  rows: list[list[int]]
  batched: bool
  album: _album.Album


def encode(
  tokenizer: _tokenizer.Tokenizer,
  prompt: Any,
  *,
  model: _like.TransformerLike,
  images: Any = None,
  add_bos: bool,
  allow_special: bool,
) -> Prompts:
  """Token ids of a prompt, or of several.

  Args:
    tokenizer: The vocabulary.
    prompt: A string, taken verbatim; a list of ids, or a 1-d array of them; a
      conversation, as a list of dicts; or a list or array of these.
    model: Whose table the ids are in, and which sees the images.
    images: See `_images.by_prompt`.
    add_bos: Whether strings begin with `<bos>`. Ids are taken as they are, and
      conversations bring it along.
    allow_special: Whether tags in strings become control tokens; a `<bos>` at
      their beginning then is the only one.

  Raises:
    ValueError: If a prompt is empty, has an id outside of the table, or has not
      as many places for images as there are.
    TypeError: If a prompt is none of these.
  """
  if _images.are_given(images):
    _images.check_sees(model)
  if isinstance(prompt, np.ndarray | jax.Array):
    prompt = np.asarray(prompt).tolist()
  batched = not _is_single(prompt)
  prompts = prompt if batched else [prompt]
  if not prompts:
    raise ValueError('The list of prompts is empty. Give at least one.')
  given = _images.by_prompt(images, len(prompts), batched=batched)
  both = [
    _encode_one(
      tokenizer, p, own, model, add_bos=add_bos, allow_special=allow_special
    )
    for p, own in zip(prompts, given.rows, strict=True)
  ]
  rows = [row for row, _ in both]
  for i, (row, asked) in enumerate(zip(rows, prompts, strict=True)):
    _check(row, asked, model.config.num_embed, i, batched=batched)
  sources = [sources for _, sources in both]
  if given.padded:
    sources = _without_padding(rows, sources, model)
  rows, album = _with_room(rows, sources, model, batched=batched)
  _check_media(rows, tokenizer, model)
  return Prompts(rows=rows, batched=batched, album=album)


def pad(rows: Sequence[Sequence[int]]) -> np.ndarray:
  """Rows as one array, `int32[B, L]`, padded on the right."""
  out = np.full((len(rows), max(map(len, rows))), _transformer.PAD, np.int32)
  for i, row in enumerate(rows):
    out[i, : len(row)] = row
  return out


def collapse(
  row: Sequence[int], model: _like.TransformerLike
) -> tuple[list[int], list[int]]:
  """A row with one token for each image, and where each token was in it.

  An image is where its first soft token was.
  """
  ids = model.config.image_tokens
  tokens: list[int] = []
  places: list[int] = []
  behind = 0
  for place, token in enumerate(row):
    if token < 0 and place >= behind:  # Two tokens are on either side of it.
      tokens[-2:], places[-2:] = [ids.start], [place]
      behind = place + _images.soft_tokens_of(model) + 2
    elif place >= behind:
      tokens.append(token)
      places.append(place)
  return tokens, places


def _is_single(prompt: Any) -> bool:
  """A string, a conversation, or a list of ids."""
  if isinstance(prompt, str) or _conversation.is_conversation(prompt):
    return True
  if not isinstance(prompt, Sequence):
    raise TypeError(
      f'prompt is a {type(prompt).__name__}. Give a string, token ids, a '
      'conversation (a list of dicts with role and content), or a list of '
      'these.'
    )
  return bool(prompt) and isinstance(prompt[0], int | np.integer)


def _encode_one(
  tokenizer: _tokenizer.Tokenizer,
  prompt: Any,
  images: list[Any],
  model: _like.TransformerLike,
  *,
  add_bos: bool,
  allow_special: bool,
) -> tuple[list[int], list[Any]]:
  """Token ids with one for each image, and the images."""
  if isinstance(prompt, str):
    if allow_special:
      if prompt.startswith(_BOS):  # Rendered by a template.
        prompt, add_bos = prompt.removeprefix(_BOS), True
      return tokenizer.encode(prompt, add_bos=add_bos), images
    # The tag of an image is the one that means something then.
    ids = (
      _attach.encode_text(tokenizer, prompt)
      if images
      else tokenizer.spell(prompt)
    )
    return [tokenizer.special_tokens.BOS] * add_bos + ids, images
  if _conversation.is_conversation(prompt):
    said = _attach.with_images(prompt, images)
    ids = _template.encode_said(
      tokenizer,
      said,
      leave_open=isinstance(prompt, _conversation.Conversation),
      empty_thought=tokenizer.begins_with_thought(model.config),
    )
    parts = [part for _, parts in said for part in parts]
    own = [p.source for p in parts if _conversation.is_image(p)]
    if own:
      _images.check_sees(model)
    return ids, [source for source in own if source is not None]
  # Padding around ids is what a batch as one array has.
  return np.trim_zeros(np.asarray(prompt, np.int32)).tolist(), images


def _check(
  row: list[int], given: Any, size: int, i: int, *, batched: bool
) -> None:
  if not row or given == '':
    where = f'Prompt {i}' if batched else 'The prompt'
    raise ValueError(f'{where} is empty. Give at least one token of text.')
  bad = [token for token in row if not 0 < token < size]
  if bad:
    raise ValueError(
      f'Token id {bad[0]} in prompt {i} is not between 1 and {size - 1}, the '
      'rows of the table (0 is padding).'
    )


def _check_media(
  rows: list[list[int]],
  tokenizer: _tokenizer.Tokenizer,
  model: _like.TransformerLike,
) -> None:
  """Raises on placeholders of media that nothing has taken the place of."""
  members = tokenizer.special_tokens.__members__
  for name in _formats.of(tokenizer).soft:
    for i, row in enumerate(rows):
      if members[name] in row:
        raise ValueError(
          f'Prompt {i} has {tokenizer.decode(members[name])!r}, but '
          f'{type(model).__name__} reads text only. Leave it out, or spell it '
          'out with allow_special=False.'
        )


def _without_padding(
  rows: list[list[int]],
  sources: list[list[Any]],
  model: _like.TransformerLike,
) -> list[list[Any]]:
  """Images of each row where all are one array, which cannot be ragged."""
  counts = [row.count(model.config.image_tokens.start) for row in rows]
  if max(counts) != len(sources[0]):  # Else an error says what is wrong.
    return sources
  both = zip(sources, counts, strict=True)
  return [images[:count] for images, count in both]


def _with_room(
  rows: list[list[int]],
  sources: list[list[Any]],
  model: _like.TransformerLike,
  *,
  batched: bool,
) -> tuple[list[list[int]], _album.Album]:
  """Rows in which images have all their tokens, and the images."""
  sees = model.config.vision_encoder is not None
  ids, read = model.config.image_tokens, _images.Reader(model)
  out = []
  for i, (row, own) in enumerate(zip(rows, sources, strict=True)):
    where = f'prompt {i}' if batched else 'the prompt'
    places = row.count(ids.start) if sees else 0
    if len(own) != places:
      _images.check_sees(model)
      raise _images.count_error(len(own), places, where)
    out.append(_expanded(row, read(own, where=where), ids) if own else row)
  return out, _album.Album(read.album)


def _expanded(
  row: Sequence[int], soft: Sequence[_album.Ids], ids: _expand.ImageTokens
) -> list[int]:
  rest = iter(soft)
  return [
    new
    for token in row
    for new in (ids.block(next(rest)) if token == ids.start else (token,))
  ]
