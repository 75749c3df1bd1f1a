"""Trains the SentencePiece tokenizer of the tiny model.

BPE with byte fallback, so that any text survives encoding and decoding. The
first ids are those of the Gemma 3 tokenizer; the image tokens, which stand
beyond id 255998 there, follow the newlines here.
"""

from collections.abc import Iterable
from collections.abc import Iterator
import io
import pathlib

import sentencepiece as spm

VOCAB_SIZE = 2048
BOS = 2

# Ids 4 and up, in order. Ids 0 to 3 are <pad>, <eos>, <bos>, <unk>.
_NAMED = (
  '<mask>',
  '[multimodal]',
  *(f'<unused{i}>' for i in range(99)),
  '<start_of_turn>',
  '<end_of_turn>',
  '\n',
  '\n\n',
  '\n\n\n',
  '<start_of_image>',
  '<end_of_image>',
  '<image_soft_token>',
)


def train(lines: Iterable[str], path: pathlib.Path) -> None:
  """Trains on `lines` and writes the model file. The same lines, the same file.

  Args:
    lines: Text without newlines: those are tokens of their own.
    path: Where to write.

  Raises:
    ValueError: If the ids came out in another order than expected.
  """
  model = io.BytesIO()
  spm.SentencePieceTrainer.train(
    sentence_iterator=_pieces(lines),
    model_writer=model,
    model_type='bpe',
    vocab_size=VOCAB_SIZE,
    # A text of few words, as in a smoke run, may not fill the vocabulary.
    hard_vocab_limit=False,
    character_coverage=0.9999,
    byte_fallback=True,
    normalization_rule_name='identity',
    add_dummy_prefix=False,
    remove_extra_whitespaces=False,
    split_digits=True,
    max_sentence_length=1 << 20,
    user_defined_symbols=list(_NAMED),
    pad_id=0,
    eos_id=1,
    bos_id=BOS,
    unk_id=3,
    pad_piece='<pad>',
    eos_piece='<eos>',
    bos_piece='<bos>',
    unk_piece='<unk>',
    num_threads=1,
    minloglevel=2,
  )
  _check(spm.SentencePieceProcessor(model_proto=model.getvalue()))
  path.write_bytes(model.getvalue())


def _pieces(lines: Iterable[str]) -> Iterator[str]:
  """Non-empty lines; the trainer would complain about the others."""
  return (line for line in lines if line.strip())


def _check(tokenizer: spm.SentencePieceProcessor) -> None:
  """Raises unless ids are in place and text survives a round trip."""
  for i, piece in enumerate(('<pad>', '<eos>', '<bos>', '<unk>', *_NAMED)):
    if tokenizer.id_to_piece(i) != piece:
      raise ValueError(
        f'Id {i} is {tokenizer.id_to_piece(i)!r} instead of {piece!r}. Does '
        'this version of sentencepiece order its pieces in another way?'
      )
  text = ' Two  spaces, 1234;\n\n\n\n\ttab, é ü 漢字 🙂 "quoted" end \n'
  if tokenizer.decode(tokenizer.encode(text)) != text:
    raise ValueError('Text changed when it was encoded and decoded.')
