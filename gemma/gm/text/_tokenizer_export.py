"""The files that Hugging Face libraries read a tokenizer from."""

from collections.abc import Iterator
from collections.abc import Mapping
import json
import pathlib
from typing import Any

from gemma.gm.text import _generation
from gemma.gm.text import _model_proto
from gemma.gm.text import _special_tokens

_SPACE = '\u2581'
_TYPES = _model_proto.TYPES

# The chat formats for `apply_chat_template`: they make the same text as
# `encode_chat`.
_TEMPLATES: Mapping[str, str] = {
  _special_tokens.Format.GEMMA3: 'chat_template.jinja',
  _special_tokens.Format.GEMMA4: 'chat_template_gemma4.jinja',
}


_EMPTY_THOUGHT = b'empty_thought | default(%s)'  # In a template.


def hf_files(
  proto: bytes,
  special: Any,
  *,
  generation: _generation.Generation,
  control: frozenset[int],
  spelling: str,
  empty_thought: bool = False,
) -> dict[str, bytes]:
  """Names and contents of the files; see `Tokenizer.hf_files`.

  Args:
    proto: A SentencePiece model.
    special: Its special tokens.
    generation: Roles of tokens besides.
    control: Its control tokens.
    spelling: Which tags begin and end turns.
    empty_thought: Whether the template opens turns of the model with one, if
      it is not told.
  """
  ends = [int(special.EOS), int(special.END_OF_TURN)]
  if 'BEGIN_OF_TOOL' in special.__members__:  # A call ends an answer as well.
    ends.append(int(special.BEGIN_OF_TOOL_RESPONSE))
  ends += [i for i in generation.ends if i not in ends]
  template = pathlib.Path(__file__).with_name(_TEMPLATES[spelling]).read_bytes()
  if empty_thought:
    template = template.replace(
      _EMPTY_THOUGHT % b'false', _EMPTY_THOUGHT % b'true'
    )
  config = {
    'tokenizer_class': 'GemmaTokenizer',
    'add_bos_token': True,
    'add_eos_token': False,
    'bos_token': '<bos>',
    'eos_token': '<eos>',
    'pad_token': '<pad>',
    'unk_token': '<unk>',
    'clean_up_tokenization_spaces': False,
    'model_max_length': 1_000_000_000_000_000_019_884_624_838_656,
  }
  settings: dict[str, Any] = {
    'bos_token_id': int(special.BOS),
    'eos_token_id': ends,
    'pad_token_id': int(special.PAD),
  }
  if generation.suppressed:
    settings['suppress_tokens'] = [*generation.suppressed]
  return {
    'tokenizer.model': proto,
    'tokenizer.json': _json(_tokenizer_json(proto, control)),
    'tokenizer_config.json': _json(config),
    'chat_template.jinja': template,
    'generation_config.json': _json(settings),
  }


def _tokenizer_json(proto: bytes, control: frozenset[int]) -> dict[str, Any]:
  """What `tokenizers` needs to do as the SentencePiece model does."""
  model = _model_proto.Model.FromString(proto)
  pieces = model.pieces
  whole = [
    i
    for i, piece in enumerate(pieces)
    if piece.type not in (_TYPES['NORMAL'], _TYPES['BYTE'])
  ]
  return {
    'version': '1.0',
    'truncation': None,
    'padding': None,
    'added_tokens': [
      {
        'id': i,
        'content': pieces[i].piece,
        'single_word': False,
        'lstrip': False,
        'rstrip': False,
        'normalized': False,
        'special': i in control,
      }
      for i in whole
    ],
    'normalizer': {
      'type': 'Replace',
      'pattern': {'String': ' '},
      'content': _SPACE,
    },
    'pre_tokenizer': None,
    'post_processor': _begin_with('<bos>', model.trainer_spec.bos_id),
    'decoder': {
      'type': 'Sequence',
      'decoders': [
        {'type': 'Replace', 'pattern': {'String': _SPACE}, 'content': ' '},
        {'type': 'ByteFallback'},
        {'type': 'Fuse'},
      ],
    },
    'model': {
      'type': 'BPE',
      'dropout': None,
      'unk_token': '<unk>',
      'continuing_subword_prefix': None,
      'end_of_word_suffix': None,
      'fuse_unk': True,
      'byte_fallback': True,
      'ignore_merges': False,
      'vocab': {piece.piece: i for i, piece in enumerate(pieces)},
      'merges': list(_merges(pieces)),
    },
  }


def _merges(pieces: Any) -> Iterator[list[str]]:
  """Pairs that are merged, the first ones first.

  SentencePiece merges the pair whose whole has the highest score. So all pairs
  that make a piece come where the piece does.
  """
  normal = {p.piece: p.score for p in pieces if p.type == _TYPES['NORMAL']}
  for piece in sorted(normal, key=lambda piece: -normal[piece]):
    for cut in range(1, len(piece)):
      if piece[:cut] in normal and piece[cut:] in normal:
        yield [piece[:cut], piece[cut:]]


def _begin_with(piece: str, i: int) -> dict[str, Any]:
  """A template that puts one token in front."""
  begin = {'SpecialToken': {'id': piece, 'type_id': 0}}
  first, second = ({'Sequence': {'id': x, 'type_id': 0}} for x in 'AB')
  return {
    'type': 'TemplateProcessing',
    'single': [begin, first],
    'pair': [begin, first, begin, second],
    'special_tokens': {piece: {'id': piece, 'ids': [i], 'tokens': [piece]}},
  }


def _json(content: Any) -> bytes:
  return (json.dumps(content, ensure_ascii=False, indent=1) + '\n').encode()
