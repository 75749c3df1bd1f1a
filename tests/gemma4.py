"""A vocabulary with the control tokens of Gemma 4, each at its own id.

There is none to ship. This is the bundled vocabulary of Gemma 3 with other
tags, and pieces that no text has up to the ids of media.
"""

import functools
import pathlib
import tempfile

from gemma import gm
from gemma.gm.text import _model_proto

# All that is not text, spelled by hand: no list of the library's own.
TAGS = {
  46: '<|tool>',
  47: '<tool|>',
  48: '<|tool_call>',
  49: '<tool_call|>',
  50: '<|tool_response>',
  51: '<tool_response|>',
  52: '<|"|>',
  98: '<|think|>',
  100: '<|channel>',
  101: '<channel|>',
  105: '<|turn>',
  106: '<turn|>',
  255999: '<|image>',
  256000: '<|audio>',
  258880: '<|image|>',
  258881: '<|audio|>',
  258882: '<image|>',
  258883: '<audio|>',
  258884: '<|video|>',
}
SIZE = 262_144
TEXT = 2048  # Ids of text, and of tags that are not of media, are below.


def proto() -> bytes:
  """The SentencePiece model."""
  path = gm.text.Gemma3TinyTokenizer().path
  model = _model_proto.Model.FromString(pathlib.Path(path).read_bytes())
  for i, old in ((110, '<start_of_image>'), (111, '<end_of_image>')):
    assert model.pieces[i].piece == old
    model.pieces[i].piece = f'<row{i}>'
  for i in range(len(model.pieces), SIZE):
    model.pieces.add(piece=f'<row{i}>', score=-1e6 - i)
  for i, tag in TAGS.items():
    model.pieces[i].piece = tag
    model.pieces[i].type = model.pieces[4].type
  model.trainer_spec.vocab_size = SIZE
  model.trainer_spec.ClearField('user_defined_symbols')
  return model.SerializeToString()


@functools.cache
def tokenizer() -> gm.text.Gemma4Tokenizer:
  """The tokenizer, whose file is made once per process."""
  folder = pathlib.Path(tempfile.mkdtemp(prefix='gemma4-'))
  (folder / 'tokenizer.model').write_bytes(proto())
  return gm.text.Gemma4Tokenizer(folder)
