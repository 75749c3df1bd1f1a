"""Where the files of tokenizers come from."""

import dataclasses
import functools
import http.server
import json
import pathlib
import subprocess
import sys
import threading

import numpy as np
import pytest

import cases
from gemma import gm
from gemma.gm.text import _generation
from gemma.gm.text import _model_proto
from texts import TEXTS

SHIPPED = gm.ckpts.CheckpointPath.GEMMA3_TINY_IT


@pytest.fixture(scope='module')
def tokenizer():
  return gm.text.Gemma3TinyTokenizer()


@pytest.fixture
def cache(monkeypatch, tmp_path):
  """An empty cache folder, from which files may be fetched."""
  monkeypatch.setenv('GEMMA_CACHE_DIR', str(tmp_path / 'cache'))
  monkeypatch.delenv('GEMMA_OFFLINE', raising=False)
  monkeypatch.delenv('HF_HUB_OFFLINE', raising=False)
  return tmp_path / 'cache' / 'tokenizer'


@pytest.fixture
def server(monkeypatch, tmp_path):
  """The address of a folder that is served, and what was asked for."""
  asked = []

  class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
      asked.append(self.path)

  monkeypatch.setenv('no_proxy', '127.0.0.1')
  (tmp_path / 'served').mkdir()
  handler = functools.partial(Handler, directory=tmp_path / 'served')
  with http.server.HTTPServer(('127.0.0.1', 0), handler) as httpd:
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    yield f'http://127.0.0.1:{httpd.server_port}', tmp_path / 'served', asked
    httpd.shutdown()
    thread.join()


def test_remote_file_is_fetched_once(cache, server, tokenizer):
  address, served, asked = server
  (served / 'once.model').write_bytes(tokenizer.model_proto)
  for query in ('', '?download=true'):
    kind = gm.text.Gemma3TinyTokenizer(f'{address}/once.model{query}')
    assert kind.encode('hello') == tokenizer.encode('hello')
  assert asked == ['/once.model']
  assert [path.name for path in cache.iterdir()] == ['once.model']


def test_remote_file_that_is_none(cache, server):
  address, *_ = server
  with pytest.raises(
    FileNotFoundError, match='is remote, .*fetching it failed: .*404.*Download'
  ):
    gm.text.Gemma3TinyTokenizer(f'{address}/none.model').encode('x')
  assert not cache.exists()


def test_remote_file_of_something_else(cache, server):
  address, served, _ = server
  (served / 'page.model').write_text('<html>Log in first</html>')
  with pytest.raises(
    ValueError, match='page.model is not a SentencePiece model.* Delete or'
  ):
    gm.text.Gemma3TinyTokenizer(f'{address}/page.model').encode('x')


def test_nothing_is_left_of_half_a_write(cache, tmp_path, monkeypatch):
  (tmp_path / 'half.model').write_bytes(b'x')
  monkeypatch.setattr(pathlib.Path, 'replace', _fails)
  with pytest.raises(FileNotFoundError, match='no space is left'):
    gm.text.Gemma3TinyTokenizer(f'file://{tmp_path}/half.model').encode('x')
  assert list(cache.iterdir()) == []


def _fails(*args):
  raise OSError('no space is left')


@pytest.mark.parametrize('name', ['GEMMA_OFFLINE', 'HF_HUB_OFFLINE'])
def test_nothing_is_fetched_offline(
  cache, tmp_path, tokenizer, monkeypatch, name
):
  url = f'file://{tmp_path}/{name}.model'
  (tmp_path / f'{name}.model').write_bytes(tokenizer.model_proto)
  monkeypatch.setenv(name, '1')
  with pytest.raises(
    FileNotFoundError,
    match=f'{url} is remote, there is no copy at {cache}.*and {name} is set. '
    'Download the file there, or',
  ):
    gm.text.Gemma3TinyTokenizer(url).encode('x')
  monkeypatch.setenv(name, '0')
  assert gm.text.Gemma3TinyTokenizer(url).encode('x') == tokenizer.encode('x')
  monkeypatch.setenv(name, '1')
  copy = gm.text.Gemma3TinyTokenizer(url, custom_tokens={0: '<a>'})
  assert copy.encode('x') == tokenizer.encode('x')


def test_bucket_without_a_client_is_a_public_address(
  cache, tmp_path, tokenizer, monkeypatch
):
  """Neither of the clients of `etils` is installed with this library."""
  from etils import epath

  from gemma.gm.text import _tokenizer_files

  class NoClient:
    def __init__(self, path):
      raise ImportError('gcsfs')

  (tmp_path / 'bucket').mkdir()
  (tmp_path / 'bucket' / 'in.model').write_bytes(tokenizer.model_proto)
  monkeypatch.setattr(epath, 'Path', NoClient)
  monkeypatch.setattr(_tokenizer_files, '_PUBLIC', f'file://{tmp_path}/')
  copy = gm.text.Gemma3TinyTokenizer('gs://bucket/in.model')
  assert copy.encode('hello') == tokenizer.encode('hello')
  with pytest.raises(FileNotFoundError, match="failed: ImportError.'gcsfs'"):
    gm.text.Gemma3TinyTokenizer('s3://bucket/other.model').encode('x')


def test_copy_placed_by_hand(cache, tokenizer, monkeypatch):
  cache.mkdir(parents=True)
  (cache / 'my.model').write_bytes(tokenizer.model_proto)
  monkeypatch.setenv('GEMMA_OFFLINE', '1')
  copy = gm.text.Gemma3TinyTokenizer('gs://somewhere/my.model')
  assert copy.encode('hello') == tokenizer.encode('hello')


def test_copy_of_another_file_does_not_shadow_a_path(
  cache, tmp_path, tokenizer
):
  cache.mkdir(parents=True)
  (cache / 'tokenizer.model').write_bytes(b'of another model')
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


def test_vocabulary_without_bytes(tmp_path, tokenizer):
  model = _model_proto.Model.FromString(tokenizer.model_proto)
  kept = [p for p in model.pieces if p.type != _model_proto.TYPES['BYTE']]
  del model.pieces[:]
  model.pieces.extend(kept)
  model.trainer_spec.byte_fallback = False
  (tmp_path / 'tokenizer.model').write_bytes(model.SerializeToString())
  with pytest.raises(ValueError, match='has no byte tokens'):
    gm.text.Gemma3TinyTokenizer(tmp_path).encode('x')


def test_tokenizer_json_that_is_no_byte_pair_encoding(tmp_path):
  (tmp_path / 'tokenizer.json').write_text(
    json.dumps({'model': {'type': 'Unigram'}})
  )
  with pytest.raises(ValueError, match="'Unigram' model with byte_fallback="):
    gm.text.Gemma3TinyTokenizer(tmp_path).encode('x')


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


def test_model_files_are_those_of_sentencepiece():
  """Its own classes read the same from what was read and written here."""
  from sentencepiece import sentencepiece_model_pb2

  theirs = sentencepiece_model_pb2.ModelProto.FromString
  proto = gm.text.Gemma3TinyTokenizer().model_proto
  model = _model_proto.Model.FromString(proto)
  assert theirs(model.SerializeToString()) == theirs(proto)
  assert _model_proto.TYPES == dict(theirs(b'').SentencePiece.Type.items())
  trainer = theirs(b'').trainer_spec
  for name in ('unk_id', 'bos_id', 'eos_id', 'pad_id', 'model_type'):
    assert getattr(_model_proto.Model().trainer_spec, name) == getattr(
      trainer, name
    )


# What others change in a folder.


@pytest.fixture
def folder(tmp_path, tokenizer):
  """The files of a tokenizer, to change."""
  for name, content in tokenizer.hf_files().items():
    (tmp_path / name).write_bytes(content)
  return tmp_path


def change(file, **values):
  file.write_text(json.dumps(json.loads(file.read_text()) | values))


def add(folder, *tokens):
  file = folder / 'tokenizer.json'
  present = json.loads(file.read_text())['added_tokens']
  change(file, added_tokens=[*present, *tokens])


def test_added_tokens_are_read_and_written_back(folder, tokenizer, tmp_path):
  size = tokenizer.vocab_size
  add(
    folder,
    {'id': size, 'content': '<|im_start|>', 'special': True},
    {'id': size + 2, 'content': 'kubernetes pod', 'special': False},
    {'id': size + 9, 'content': '<image_soft_token>', 'special': True},
  )
  ours = gm.text.Tokenizer.from_path(folder)
  assert ours.vocab_size == size + 3
  ids = ours.encode('a<|im_start|>kubernetes pod')
  assert ids == [*tokenizer.encode('a'), size, size + 2]
  assert ours.decode(ids) == 'a<|im_start|>kubernetes pod'
  # A tag is spelled out in text of others, a word is not.
  assert ours.encode('<|im_start|>kubernetes pod', allow_special=False) == [
    *ours.encode('<'),
    *ours.encode('|im_start|>'),
    size + 2,
  ]
  again = tmp_path / 'again'
  again.mkdir()
  for name, content in ours.hf_files().items():
    (again / name).write_bytes(content)
  assert gm.text.Tokenizer.from_path(again).tokens == ours.tokens
  added = json.loads((again / 'tokenizer.json').read_text())['added_tokens']
  assert {x['content']: x['special'] for x in added if x['id'] >= size} == {
    '<|im_start|>': True,
    f'<missing{size + 1}>': True,
    'kubernetes\u2581pod': False,
  }


def test_an_unused_token_may_have_a_new_name(folder, tokenizer):
  unused = int(tokenizer.special_tokens.CUSTOM)
  file = folder / 'tokenizer.json'
  tokens = json.loads(file.read_text())['added_tokens']
  kept = [x for x in tokens if x['id'] != unused]
  change(file, added_tokens=[*kept, {'id': unused, 'content': '<mine>'}])
  assert gm.text.Tokenizer.from_path(folder).encode('<mine>') == [unused]


@pytest.mark.parametrize(
  'token, message',
  [
    ({'id': 5, 'content': 'x y'}, r"Token 5 is 'x y' in .*json, but .* is '"),
    ({'id': 3000, 'content': '<bos>'}, "'<bos>' in .* that is token 2"),
    ({'id': 2**31, 'content': 'x'}, r'id=2147483648 in added_tokens\['),
    ({'id': -1, 'content': 'x'}, 'id=-1 in added_tokens'),
    ({'id': None, 'content': 'x'}, 'id=None in added_tokens'),
    ({'id': 3000, 'content': 7}, 'content=7 in added_tokens'),
    ({'id': 3000}, 'content is missing in added_tokens'),
    ({'id': 3000, 'content': 'x', 'lstrip': True}, 'lstrip=True in added_t'),
    ({'id': 3000, 'content': 'x', 'rstrip': True}, 'rstrip=True in added_t'),
    ({'id': 3000, 'content': 'x', 'single_word': True}, 'single_word=True in'),
    ({'id': 3000, 'content': 'x', 'new': 1}, r'new in added_tokens\[.* is not'),
    ('x', r"added_tokens\[\d+\] of .* must be an object, got 'x'"),
  ],
)
def test_added_tokens_that_are_refused(folder, token, message):
  add(folder, token)
  with pytest.raises(ValueError, match=message):
    gm.text.Tokenizer.from_path(folder)


def test_ends_of_generation_config(folder):
  file = folder / 'generation_config.json'
  change(file, eos_token_id=[1, 106, 1107], suppress_tokens=[7], top_k=64)
  generation = gm.text.Tokenizer.from_path(folder).generation
  assert generation.ends == (1, 106, 1107)
  assert generation.suppressed == (7,)
  written = gm.text.Tokenizer.from_path(folder).hf_files()
  written = json.loads(written['generation_config.json'])
  assert 1107 in written['eos_token_id'] and written['suppress_tokens'] == [7]


@pytest.mark.parametrize('key', ['eos_token_id', 'suppress_tokens'])
@pytest.mark.parametrize('value', [[-1], [None], 1.5, 'x', [True], [2**40]])
def test_generation_config_that_is_refused(folder, key, value):
  change(folder / 'generation_config.json', **{key: value})
  with pytest.raises(ValueError, match=f'{key}=.* in .*generation_config.json'):
    _ = gm.text.Tokenizer.from_path(folder).generation


def test_keys_of_generation_config_that_are_not_read(folder):
  file = folder / 'generation_config.json'
  change(file, forced_eos_token_id=1)
  with pytest.raises(ValueError, match='forced_eos_token_id=1 in .* null'):
    _ = gm.text.Tokenizer.from_path(folder).generation
  _generation.read.cache_clear()
  change(file, forced_eos_token_id=None, brand_new=1)
  with pytest.warns(UserWarning, match='not read: brand_new'):
    _ = gm.text.Tokenizer.from_path(folder).generation


def test_ends_of_a_folder_end_a_text(folder, wide):
  """As an end of turn does, also if config.json alone says so."""
  sampler = gm.text.Sampler(**wide, **cases.TEXT)
  plain = sampler.sample('ROMEO:', max_new_tokens=8, return_state=True)
  end = plain.token_ids[3]
  assert end not in plain.token_ids[:3]
  (folder / 'generation_config.json').unlink()
  (folder / 'config.json').write_text(json.dumps({'eos_token_id': [1, end]}))
  own = dataclasses.replace(
    sampler, tokenizer=gm.text.Tokenizer.from_path(folder)
  )
  out = own.sample('ROMEO:', max_new_tokens=8, return_state=True)
  assert out.token_ids == plain.token_ids[:4]


def test_no_generated_code_is_imported():
  """It raises if protobuf is older than the one that made it."""
  code = (
    'import sys; from gemma import gm; '
    'tokenizer = gm.text.Gemma3TinyTokenizer(custom_tokens={0: "<mine>"}); '
    'tokenizer.encode("<mine>"); tokenizer.hf_files(); tokenizer.control_ids; '
    'assert "sentencepiece.sentencepiece_model_pb2" not in sys.modules'
  )
  subprocess.run([sys.executable, '-c', code], check=True)
