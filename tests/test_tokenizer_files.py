"""Where the files of tokenizers come from."""

import functools
import http.server
import json
import pathlib
import subprocess
import sys
import threading

import numpy as np
import pytest

from gemma import gm
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


def test_no_generated_code_is_imported():
  """It raises if protobuf is older than the one that made it."""
  code = (
    'import sys; from gemma import gm; '
    'tokenizer = gm.text.Gemma3TinyTokenizer(custom_tokens={0: "<mine>"}); '
    'tokenizer.encode("<mine>"); tokenizer.hf_files(); tokenizer.control_ids; '
    'assert "sentencepiece.sentencepiece_model_pb2" not in sys.modules'
  )
  subprocess.run([sys.executable, '-c', code], check=True)
