"""Folders of the Hub: from a cache laid out as the client does, and a server.

The client reads its environment when it is imported, so each test has a process
of its own. Nothing leaves the machine: the Hub is a server in this file.
"""

import hashlib
from http import server
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading

import pytest

from gemma import gm

pytest.importorskip('huggingface_hub')
TINY = pathlib.Path(gm.ckpts.CheckpointPath.GEMMA3_TINY_IT)
COMMIT = 'c0ffee00' * 5
NAMES = (
  'HF_TOKEN', 'HF_HUB_CACHE', 'HF_ENDPOINT', 'GEMMA_OFFLINE', 'HF_HUB_OFFLINE',
)  # fmt: skip
OPEN = 'from gemma.gm.ckpts import _hub; print(_hub.folder(%r))'
USE = """
from gemma import gm
model, params, tokenizer = gm.from_pretrained('hf://org/tiny')
other = gm.ckpts.load_params('hf://org/tiny@main')
assert (other['final_norm']['scale'] == params['final_norm']['scale']).all()
print(model.config.num_layers, tokenizer.decode(tokenizer.encode('king')))
"""
SUMMARY = 'from gemma.cli import main; main(["summary", "hf://org/tiny"])'


def python(code, home, **environment):
  """Runs code on its own; returns what it prints, or its error."""
  kept = {k: v for k, v in os.environ.items() if k not in NAMES}
  environment = kept | {'HF_HOME': str(home), 'NO_PROXY': '*'} | environment
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=False,
    env=environment, cwd=TINY.parents[2],
  )  # fmt: skip
  return done.stdout.strip() if done.returncode == 0 else done.stderr


@pytest.fixture(scope='module')
def home(tmp_path_factory):
  """A cache that holds the bundled model as `org/tiny`."""
  root = tmp_path_factory.mktemp('home')
  repo = root / 'hub' / 'models--org--tiny'
  (repo / 'refs').mkdir(parents=True)
  (repo / 'refs' / 'main').write_text(COMMIT)
  shutil.copytree(TINY, repo / 'snapshots' / COMMIT)
  return root


class Hub(server.BaseHTTPRequestHandler):
  """As much of a Hub as there are cases."""

  fetched: list[str]  # Of each server.
  protocol_version = 'HTTP/1.1'

  def do_HEAD(self):
    self.do_GET()

  def do_GET(self):
    path = self.path.split('?')[0]
    files = {file.name: file.read_bytes() for file in TINY.iterdir()}
    files |= {'original/big.safetensors': b'no', 'readme.md': b'no'}
    if '/missing' in path:
      self.answer(401, error='RepoNotFound')
    elif path.endswith('/v9'):
      self.answer(404, error='RevisionNotFound')
    elif '/revision/' in path:
      siblings = [{'rfilename': name} for name in files]
      self.answer(200, {'id': 'x', 'sha': COMMIT, 'siblings': siblings})
    elif '/tree/' in path:
      self.answer(200, [self.entry(*item) for item in files.items()])
    elif '/gated' in path:
      self.answer(403, error='GatedRepo')
    elif f'/resolve/{COMMIT}/' in path:
      self.send(files[path.split(f'/resolve/{COMMIT}/')[1]])
    else:
      self.answer(404, error='EntryNotFound')

  def entry(self, name, content):
    size, oid = len(content), hashlib.sha1(content).hexdigest()
    return {'type': 'file', 'path': name, 'size': size, 'oid': oid}

  def answer(self, status, content=None, error=None):
    headers = {'X-Error-Code': error} if error else {}
    headers['Content-Type'] = 'application/json'
    self.send(json.dumps(content or {}).encode(), status, headers)

  def send(self, body, status=200, headers=None):
    etag = hashlib.sha1(body).hexdigest()
    own = {'ETag': f'"{etag}"', 'X-Repo-Commit': COMMIT}
    self.send_response(status)
    for name, value in (own | (headers or {})).items():
      self.send_header(name, value)
    self.send_header('Content-Length', str(len(body)))
    self.end_headers()
    if self.command == 'GET':
      self.fetched.append(self.path)
      self.wfile.write(body)

  def log_message(self, *args):
    pass


@pytest.fixture
def hub():
  """The address of a Hub, and the paths that were fetched from it."""
  fetched = []
  handler = type('OneHub', (Hub,), {'fetched': fetched})
  with server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as running:
    running.daemon_threads = True
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield f'http://127.0.0.1:{running.server_port}', fetched
    running.shutdown()
    thread.join()


@pytest.mark.parametrize('name', ['GEMMA_OFFLINE', 'HF_HUB_OFFLINE'])
def test_folder_in_the_cache(home, name):
  path = home / 'hub' / 'models--org--tiny' / 'snapshots' / COMMIT
  for address in (
    'hf://org/tiny',
    'hf://org/tiny@main',
    f'hf://org/tiny@{COMMIT}',
  ):
    assert python(OPEN % address, home, **{name: '1'}) == str(path)


def test_everything_opens_from_the_cache(home):
  assert python(USE, home, HF_HUB_OFFLINE='1') == '6 king'


def test_only_what_is_needed_is_fetched(hub, tmp_path):
  """The summary fetches the config; the model fetches the rest, and no more."""
  address, fetched = hub
  assert 'tiny' in python(SUMMARY, tmp_path, HF_ENDPOINT=address)
  files = [path for path in fetched if '/resolve/' in path]
  assert [path.rsplit('/', 1)[1] for path in files] == ['config.json']
  folder = pathlib.Path(
    python(OPEN % 'hf://org/tiny', tmp_path, HF_ENDPOINT=address)
  )
  needed = {file.name for file in TINY.iterdir()} - {'README.md', 'LICENSE'}
  assert {file.name for file in folder.iterdir()} == needed
  # Now it is in the cache: no network is needed.
  assert python(USE, tmp_path, GEMMA_OFFLINE='1') == '6 king'


@pytest.mark.parametrize(
  'path, parts',
  [
    ('hf://org/gated', ('it is gated. Accept the licence at', '/org/gated')),
    ('hf://org/missing', ('Check the name', 'hf auth login', 'HF_TOKEN')),
    ('hf://org/tiny@v9', ('no revision v9',)),
  ],
)
def test_what_the_hub_refuses(hub, tmp_path, path, parts):
  error = python(OPEN % path, tmp_path, HF_ENDPOINT=hub[0])
  last = error.strip().splitlines()[-1]
  assert last.startswith(f'FileNotFoundError: {path} cannot be opened: ')
  assert all(part in last for part in parts)


def test_offline_without_a_copy(tmp_path):
  error = python(OPEN % 'hf://org/tiny', tmp_path, GEMMA_OFFLINE='1')
  assert str(tmp_path) in error and 'GEMMA_OFFLINE is set. Unset it' in error


def test_no_network(home, tmp_path):
  """Nobody listens: what is in the cache is used, if anything is."""
  nowhere = {'HF_ENDPOINT': 'http://127.0.0.1:9'}
  assert COMMIT in python(OPEN % 'hf://org/tiny', home, **nowhere)
  error = python(OPEN % 'hf://org/tiny', tmp_path, **nowhere)
  assert 'fetching them failed (Connect' in error
  assert 'Check the network, the proxy' in error


@pytest.mark.parametrize(
  'path', ['hf://', 'hf://tiny', 'hf://a/b/c', 'hf://a/b@']
)
def test_path_of_another_form(path):
  with pytest.raises(ValueError, match='not of the form hf://org/name'):
    gm.from_pretrained(path)


def test_without_the_client(monkeypatch):
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  with pytest.raises(ImportError, match=r'pip install "gemma\[hub\]"'):
    gm.ckpts.load_params('hf://org/tiny')
