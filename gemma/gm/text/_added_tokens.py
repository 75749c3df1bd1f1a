"""Tokens that others added to a folder, in `tokenizer.json` alone.

Hugging Face libraries read `tokenizer.json`; who adds tokens there leaves the
`tokenizer.model` beside it as it was.
"""

import json
import pathlib
import re
from typing import Any

from gemma.gm.ckpts import _fields
from gemma.gm.text import _model_proto
from gemma.gm.text import _tokenizer_proto

MOST = 2**21  # Pieces of a vocabulary: eight times those of Gemma 3.
_LIST = re.compile(r'"added_tokens"\s*:\s*')
# Rows that stand for images and sound, behind the vocabulary.
_SOFT = ('<image_soft_token>', '<audio_soft_token>')
_FLAG = _fields.FLAG
_ID = _fields.integer(0, MOST - 1)


def merge(proto: bytes, file: pathlib.Path) -> tuple[bytes, frozenset[int]]:
  """Adds the tokens of a `tokenizer.json` to the model beside it.

  Args:
    proto: The SentencePiece model.
    file: The `tokenizer.json`.

  Returns:
    The model with all tokens, and the ids of the new ones that are ordinary
    text, not special.

  Raises:
    ValueError: If the two disagree on a token, or a token is matched in a way
      that SentencePiece has not.
  """
  model = _model_proto.Model.FromString(proto)
  ids = {piece.piece: i for i, piece in enumerate(model.pieces)}
  count, new, ordinary = len(model.pieces), False, set()
  for token in sorted(_read(file), key=lambda token: token['id']):
    i, text = token['id'], token['content'].replace(' ', _tokenizer_proto.SPACE)
    present = model.pieces[i].piece if i < len(model.pieces) else None
    if text == present or (i >= count and text in _SOFT):
      continue
    found = None
    if text in ids:
      found = f'that is token {ids[text]}'
    elif present is not None and not _tokenizer_proto.is_unused(present):
      found = f'token {i} is {present!r}'
    if found is not None:
      raise ValueError(
        f'Token {i} is {token["content"]!r} in {file}, but in the '
        f'tokenizer.model beside it {found}. Remove the file that is wrong.'
      )
    _tokenizer_proto.put(model, i, text)
    ids[text], new = i, True
    if not token.get('special', False):
      ordinary.add(i)
  return model.SerializeToString() if new else proto, frozenset(ordinary)


def _read(file: pathlib.Path) -> list[dict[str, Any]]:
  """The entries of `added_tokens`, without reading all merges."""
  text = file.read_text(encoding='utf-8')
  found = _LIST.search(text)
  if found is None:
    return []
  try:
    tokens, _ = json.JSONDecoder().raw_decode(text, found.end())
  except (ValueError, RecursionError) as e:
    raise ValueError(
      f'added_tokens of {file} is not JSON: {e}. Download it again.'
    ) from e
  if not isinstance(tokens, list):
    raise ValueError(
      f'added_tokens={_fields.shown(tokens)} in {file} must be a list.'
    )
  return [_entry(file, number).check(x) for number, x in enumerate(tokens)]


def _entry(file: pathlib.Path, number: int) -> _fields.Schema:
  return _fields.Schema(
    name=f'added_tokens[{number}] of {file}',
    read={'id': _ID, 'content': _fields.TEXT, 'special': _FLAG},
    # Texts with and without their normal form are the same here: a space.
    ignored={
      'normalized': _FLAG,
      **dict.fromkeys(
        ('single_word', 'lstrip', 'rstrip'), _fields.one_of(False)
      ),
    },
    required=('id', 'content'),
    unknown='refuse',
  )
