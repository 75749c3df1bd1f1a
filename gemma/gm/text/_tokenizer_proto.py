"""SentencePiece model files, made or changed."""

from collections.abc import Mapping
import json
import re
from typing import Any

from gemma.gm.text import _model_proto

_TYPES = _model_proto.TYPES
_BYTE = re.compile(r'^<0x[0-9A-F]{2}>$')
_CONTROL = ('<pad>', '<eos>', '<bos>')
_UNK = '<unk>'
SPACE = '\u2581'

# Symbols of a vocabulary that people write: runs of blanks, and markup. All
# its other symbols are the model's own, or may be.
_ORDINARY = re.compile(
  rf'[\s{SPACE}]+|</?(table|caption|thead|tbody|tfoot|tr|th|td|h[1-6]|'
  r'blockquote|strong|em|b|i|u|s|sub|sup|code)>'
)
_UNUSED = re.compile(r'<(unused|missing)\d+>')


def from_json(content: bytes) -> bytes:
  """The SentencePiece model that does what a `tokenizer.json` says.

  Both are byte-pair encodings. A `tokenizer.json` lists merges in order; a
  SentencePiece model gives each piece a score and merges the highest first. So
  the score of a piece is minus the rank of the first merge that makes it.

  Args:
    content: The file.

  Raises:
    ValueError: If it is not a byte-pair encoding with byte fallback.
  """
  data = json.loads(content)
  model = data['model']
  if model.get('type', 'BPE') != 'BPE' or not model.get('byte_fallback'):
    raise ValueError(
      f'tokenizer.json has a {model.get("type")!r} model with byte_fallback='
      f'{model.get("byte_fallback")}; Gemma vocabularies are BPE with it.'
    )
  ranks: dict[str, int] = {}
  for rank, merge in enumerate(model['merges']):
    left, right = merge.split(' ') if isinstance(merge, str) else merge
    ranks.setdefault(left + right, rank)
  added = {token['id']: token['content'] for token in data['added_tokens']}
  pieces = {i: piece for piece, i in model['vocab'].items()} | added

  proto = _model_proto.Model()
  for i in range(max(pieces) + 1):
    piece = pieces.get(i, f'<missing{i}>')
    proto.pieces.add(
      piece=piece,
      score=-ranks.get(piece, len(ranks)),
      type=_type_of(piece, i in added) if i in pieces else _TYPES['UNUSED'],
    )
  _describe(proto, {piece: i for i, piece in pieces.items()})
  return proto.SerializeToString()


def put(model: Any, i: int, piece: str) -> None:
  """Makes a token of a SentencePiece model a piece that is one in any text.

  Args:
    model: The model, which is changed.
    i: The token; there may be none yet.
    piece: The text.
  """
  while len(model.pieces) <= i:
    name = f'<missing{len(model.pieces)}>'
    model.pieces.add(piece=name, type=_TYPES['UNUSED'])
  model.pieces[i].piece = piece
  model.pieces[i].type = _TYPES['USER_DEFINED']
  model.trainer_spec.vocab_size = len(model.pieces)


def is_unused(piece: str) -> bool:
  """Whether a piece stands for nothing yet."""
  return bool(_UNUSED.fullmatch(piece))


def rename(proto: bytes, names: Mapping[int, tuple[str, str]]) -> bytes:
  """Gives pieces other texts.

  Args:
    proto: A SentencePiece model.
    names: From id to the piece's present and new text.

  Raises:
    ValueError: If a piece has another text than expected, or a new text is that
      of another piece.
  """
  model = _model_proto.Model.FromString(proto)
  ids = {piece.piece: i for i, piece in enumerate(model.pieces)}
  symbols = list(model.trainer_spec.user_defined_symbols)
  for i, (old, new) in names.items():
    if ids.get(old) != i:
      found = model.pieces[i].piece if i < len(model.pieces) else None
      raise ValueError(f'Token {i} is {found!r} and not {old!r}.')
    piece = new.replace(' ', SPACE)
    if piece in ids:
      raise ValueError(
        f'{old} cannot be called {new!r}: token {ids[piece]} has that text.'
      )
    ids[piece] = i
    model.pieces[i].piece = piece
    model.pieces[i].type = _TYPES['USER_DEFINED']
    symbols = [piece if symbol == old else symbol for symbol in symbols]
  model.trainer_spec.ClearField('user_defined_symbols')
  model.trainer_spec.user_defined_symbols.extend(symbols)
  return model.SerializeToString()


def control_ids(proto: bytes) -> frozenset[int]:
  """Ids of the tokens that mean something to a model beyond their text.

  Padding and the like, tags, and unused tokens; by the types and the spelling
  of the pieces.

  Args:
    proto: A SentencePiece model.
  """
  pieces = _model_proto.Model.FromString(proto).pieces
  return frozenset(
    i for i, piece in enumerate(pieces) if _is_control(piece.piece, piece.type)
  )


def _is_control(piece: str, kind: Any) -> bool:
  if kind == _TYPES['NORMAL']:
    return piece.startswith('<unused') and bool(_UNUSED.fullmatch(piece))
  if kind == _TYPES['USER_DEFINED']:
    return not _ORDINARY.fullmatch(piece)
  return kind != _TYPES['BYTE']


def _type_of(piece: str, added: bool) -> Any:
  if piece in _CONTROL:
    return _TYPES['CONTROL']
  if piece == _UNK:
    return _TYPES['UNKNOWN']
  if _BYTE.match(piece):
    return _TYPES['BYTE']
  return _TYPES['USER_DEFINED'] if added else _TYPES['NORMAL']


def _describe(proto: Any, ids: Mapping[str, int]) -> None:
  """Text as it is: no normalisation, no leading space, bytes for the rest."""
  trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
  trainer.model_type = _model_proto.BPE
  trainer.vocab_size = len(proto.pieces)
  trainer.byte_fallback = True
  trainer.pad_id = ids['<pad>']
  trainer.eos_id = ids['<eos>']
  trainer.bos_id = ids['<bos>']
  trainer.unk_id = ids[_UNK]
  trainer.pad_piece, trainer.eos_piece, trainer.bos_piece = _CONTROL
  normalizer.name = 'identity'
  normalizer.add_dummy_prefix = False
  normalizer.remove_extra_whitespaces = False
