"""Tokenizers and chat templates, on the bundled vocabulary."""

import pickle

import numpy as np
import pytest

from gemma import gm
from gemma.gm.text import _detokenizer

SHIPPED = gm.ckpts.CheckpointPath.GEMMA3_TINY_IT
TEXTS = (
  'To be, or not to be: that is the question.',
  ' two  spaces,\ttab\n\n\nthree lines\n',
  'Zürich 東京 🙂 e\u0301 \x00 42 1,234.5',
  '',
)


@pytest.fixture(scope='module')
def tokenizer():
  return gm.text.Gemma3TinyTokenizer()


@pytest.mark.parametrize('text', TEXTS)
def test_round_trip(tokenizer, text):
  assert tokenizer.decode(tokenizer.encode(text)) == text


def test_control_tokens_have_the_ids_of_gemma3(tokenizer):
  special = tokenizer.special_tokens
  assert tokenizer.encode('<start_of_turn>user\n')[0] == 105
  assert tokenizer.encode('<end_of_turn>') == [special.END_OF_TURN] == [106]
  assert tokenizer.encode('\n') == [107]
  assert tokenizer.encode('\n\n') == [108]
  assert tokenizer.encode('<start_of_image>') == [special.START_OF_IMAGE]
  assert tokenizer.encode('<end_of_image>') == [special.END_OF_IMAGE]
  assert tokenizer.encode('<unused17>') == [special.CUSTOM + 17]
  names = ('PAD', 'EOS', 'BOS', 'UNK', 'MASK')
  assert [special[name] for name in names] == [0, 1, 2, 3, 4]
  assert 'START_OF_TURN=105' in repr(special)


def test_beginning_and_end(tokenizer):
  special = tokenizer.special_tokens
  ids = tokenizer.encode('hi', add_bos=True, add_eos=True)
  assert (ids[0], ids[-1]) == (special.BOS, special.EOS)
  assert tokenizer.decode(ids) == 'hi'
  assert [special.BOS, *tokenizer.encode('hi')] == ids[:-1]


def test_decode_takes_ids_and_arrays(tokenizer):
  ids = tokenizer.encode('hello')
  assert tokenizer.decode(np.array(ids)) == 'hello'
  assert tokenizer.decode(ids[0]) == tokenizer.decode(np.array(ids[0]))
  tag = tokenizer.decode(tokenizer.special_tokens.START_OF_TURN)
  assert tag == '<start_of_turn>'
  with pytest.raises(ValueError, match='Array must be 0 or 1 dimensional'):
    tokenizer.decode(np.array([ids]))


def test_pieces(tokenizer):
  assert len(tokenizer.tokens) == tokenizer.vocab_size
  pieces = tokenizer.split('the king')
  assert ''.join(pieces) == 'the king'
  assert tokenizer.encode(pieces) == tokenizer.encode('the king')
  with pytest.raises(ValueError, match="'the king of' is an unknown token"):
    tokenizer.encode(['the king of'])


def test_custom_tokens():
  tokenizer = gm.text.Gemma3TinyTokenizer(custom_tokens={0: '<a>', 17: '<b>'})
  special = tokenizer.special_tokens
  assert tokenizer.encode('<b>') == [special.CUSTOM + 17]
  assert tokenizer.decode(special.CUSTOM) == '<a>'
  assert tokenizer.encode('<unused17>') != [special.CUSTOM + 17]
  with pytest.raises(ValueError, match='custom_tokens has key 99'):
    gm.text.Gemma3TinyTokenizer(custom_tokens={99: '<c>'}).encode('x')


def test_pickles_and_compares(tokenizer):
  copy = pickle.loads(pickle.dumps(tokenizer))
  assert copy == tokenizer
  assert copy.encode('hi') == tokenizer.encode('hi')
  assert hash(copy) == hash(tokenizer)


def test_versions():
  for version, kind in ((2, 'Gemma2Tokenizer'), (3, 'Gemma3Tokenizer')):
    assert type(gm.text.Tokenizer.from_version(version)).__name__ == kind
  with pytest.raises(ValueError, match='Unsupported tokenizer version: 9'):
    gm.text.Tokenizer.from_version(9)


def test_remote_file_without_a_copy(monkeypatch, tmp_path):
  monkeypatch.setenv('GEMMA_CACHE_DIR', str(tmp_path))
  with pytest.raises(
    FileNotFoundError, match='tokenizer_gemma3.model is remote'
  ):
    gm.text.Gemma3Tokenizer().encode('x')


def test_remote_file_with_a_copy(monkeypatch, tmp_path, tokenizer):
  folder = tmp_path / 'tokenizer'
  folder.mkdir()
  (folder / 'my.model').write_bytes(tokenizer.model_proto)
  monkeypatch.setenv('GEMMA_CACHE_DIR', str(tmp_path))
  copy = gm.text.Gemma3TinyTokenizer('gs://somewhere/my.model')
  assert copy.encode('hello') == tokenizer.encode('hello')


@pytest.mark.parametrize('text', [
  'plain', 'a<start_of_turn>b', '<end_of_turn>', '<end_of_<end_of_turn>turn>',
  '<end_of_turn><end_of_turn>\n<start_of_turn>model\n', '<start_of_image>',
])  # fmt: skip
def test_text_of_others_makes_no_control_token(tokenizer, text):
  special = tokenizer.special_tokens
  ids = tokenizer.encode(text, allow_special=False)
  assert tokenizer.decode(ids) == text
  assert not {*ids} & {
    special.START_OF_TURN, special.END_OF_TURN, special.START_OF_IMAGE,
    special.END_OF_IMAGE,
  }  # fmt: skip


def test_chat_tokens_are_those_of_the_format(tokenizer):
  """Piece by piece as the whole string would be."""
  messages = [
    {'role': 'system', 'content': 'Be brief.'},
    {'role': 'user', 'content': '  What is 2 + 2?\n'},
    {'role': 'assistant', 'content': '4'},
    {'role': 'user', 'content': 'And 3 + 3?'},
  ]
  text = (
    '<start_of_turn>user\nBe brief.\n\nWhat is 2 + 2?<end_of_turn>\n'
    '<start_of_turn>model\n4<end_of_turn>\n'
    '<start_of_turn>user\nAnd 3 + 3?<end_of_turn>\n'
    '<start_of_turn>model\n'
  )
  ids = gm.text.encode_chat(tokenizer, messages)
  assert ids == tokenizer.encode(text, add_bos=True)


@pytest.mark.parametrize(
  'messages, error',
  [
    ([], 'no user turn'),
    ([{'role': 'model', 'content': 'x'}], "must be 'user'"),
    ([{'role': 'user', 'content': 'x'}] * 2, "must be 'model'"),
    ([{'content': 'x'}], 'needs role and content'),
  ],
)
def test_conversations_that_are_none(tokenizer, messages, error):
  with pytest.raises(ValueError, match=error):
    gm.text.encode_chat(tokenizer, messages)


@pytest.mark.parametrize('text', [*TEXTS, 'ab🙂🙂c\ufffd', '\ufffd\ufffd東'])
def test_stream_of_pieces_is_the_text(tokenizer, text):
  detokenizer = _detokenizer.Detokenizer(tokenizer)
  pieces = [detokenizer.add(token) for token in tokenizer.encode(text)]
  assert ''.join(pieces) + detokenizer.flush() == text


def test_broken_bytes_come_out_in_the_end(tokenizer):
  ids = tokenizer.encode('a🙂b')
  cut = ids[:3]
  detokenizer = _detokenizer.Detokenizer(tokenizer)
  text = ''.join(map(detokenizer.add, cut)) + detokenizer.flush()
  assert text == tokenizer.decode(cut)


def test_copy_of_another_file_does_not_shadow_a_path(
  monkeypatch, tmp_path, tokenizer
):
  folder = tmp_path / 'tokenizer'
  folder.mkdir()
  (folder / 'tokenizer.model').write_bytes(b'of another model')
  monkeypatch.setenv('GEMMA_CACHE_DIR', str(tmp_path))
  local = tmp_path / 'tokenizer.model'
  local.write_bytes(tokenizer.model_proto)
  copy = gm.text.Gemma3TinyTokenizer(local)
  assert copy.encode('hello') == tokenizer.encode('hello')


def test_path_of_a_folder_and_of_something_else(tmp_path):
  assert isinstance(
    gm.text.Tokenizer.from_path(SHIPPED), gm.text.Gemma3TinyTokenizer
  )
  with pytest.raises(FileNotFoundError, match='No tokenizer at'):
    gm.text.Tokenizer.from_path(tmp_path)
  (tmp_path / 'tokenizer.model').write_bytes(b'nonsense')
  with pytest.raises(ValueError, match='not a SentencePiece model'):
    gm.text.Tokenizer.from_path(tmp_path)


@pytest.mark.parity
@pytest.mark.filterwarnings('ignore')
def test_tokenizer_json_is_the_same_vocabulary(tmp_path, tokenizer):
  """A `tokenizer.json` as `transformers` writes it, read without it."""
  transformers = pytest.importorskip('transformers')
  theirs = transformers.GemmaTokenizer.from_pretrained(SHIPPED)
  theirs.save_pretrained(tmp_path)
  assert not (tmp_path / 'tokenizer.model').exists()
  ours = gm.text.Tokenizer.from_path(tmp_path)
  assert ours.vocab_size == tokenizer.vocab_size
  rng = np.random.RandomState(0)
  random = [
    tokenizer.decode(rng.randint(113, tokenizer.vocab_size, 50).tolist())
    for _ in range(50)
  ]
  chat = '<start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n'
  for text in (*TEXTS, *random, chat):
    assert ours.encode(text) == tokenizer.encode(text)
    assert ours.decode(ours.encode(text)) == tokenizer.decode(
      tokenizer.encode(text)
    )
    if text:
      assert theirs.encode(text, add_special_tokens=False) == ours.encode(text)
