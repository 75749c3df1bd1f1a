"""Where a tokenizer's model file is, and how it is opened."""

import enum
import functools
import os
import pathlib
import tempfile
from urllib import parse
from urllib import request

from gemma.gm.ckpts import _hub
from gemma.gm.ckpts import _paths
from gemma.gm.text import _vocabulary

SHIPPED = os.path.join(_paths.CheckpointPath.GEMMA3_TINY_IT, 'tokenizer.model')
_NAMES = ('tokenizer.model', 'tokenizer.json')
_UNUSED = 99  # `<unused0>` to `<unused98>` are contiguous.
_URLS = ('http', 'https', 'file')
_PUBLIC = 'https://storage.googleapis.com/'  # What a public gs:// is, too.
_TIMEOUT = 60  # Seconds without an answer.


def find(path: pathlib.Path) -> pathlib.Path:
  """The tokenizer file at a path, or in a folder."""
  candidates = [path / name for name in _NAMES] if path.is_dir() else [path]
  for candidate in candidates:
    if candidate.is_file():
      return candidate
  raise FileNotFoundError(
    f'No tokenizer at {path}: looked for {[str(c) for c in candidates]}.'
  )


@functools.lru_cache(maxsize=8)
def load(
  path: str,
  special: type[enum.IntEnum],
  custom: tuple[tuple[int, str], ...] = (),
) -> _vocabulary.Vocabulary:
  """Opens a model file; the same file is read once per process.

  Args:
    path: A `tokenizer.model` or `tokenizer.json`; one on the web is fetched.
    special: The special tokens of the vocabulary.
    custom: Numbers of unused tokens, and their new texts.

  Raises:
    FileNotFoundError: If there is no such file, or it cannot be fetched.
    ValueError: If it is no vocabulary, or cannot have these custom tokens.
  """
  file = find(local(path))
  proto, ordinary = _read(file, file.stat().st_mtime_ns)
  names = _renamed(special, custom)
  if names:
    from gemma.gm.text import _tokenizer_proto  # Loads protobuf.

    proto = _tokenizer_proto.rename(proto, names)
  try:
    return _vocabulary.Vocabulary(
      proto, reserved={*map(int, special), *names}, ordinary=ordinary
    )
  except RuntimeError as e:
    raise ValueError(
      f'{file} is not a SentencePiece model: {e} Delete or replace it.'
    ) from e


@functools.lru_cache(maxsize=1)
def _read(file: pathlib.Path, changed: int) -> tuple[bytes, frozenset[int]]:
  """The SentencePiece model of a file, once for all the classes tried on it.

  With it, the ids of tokens that were added as ordinary text.
  """
  del changed  # Another file, then.
  content = file.read_bytes()
  if file.suffix == '.json':
    from gemma.gm.text import _tokenizer_proto

    return _tokenizer_proto.from_json(content), frozenset()
  added = file.with_name('tokenizer.json')
  if file.name != 'tokenizer.model' or not added.is_file():
    return content, frozenset()
  from gemma.gm.text import _added_tokens

  return _added_tokens.merge(content, added)


def local(path: str) -> pathlib.Path:
  """A path on this machine: for a remote one, the copy in the cache folder.

  The copy has the name of the file. It is fetched when there is none yet.
  """
  if '://' not in path:
    return pathlib.Path(path).expanduser()
  cache = os.environ.get('GEMMA_CACHE_DIR', '~/.gemma')
  name = parse.urlsplit(path).path.rsplit('/', 1)[-1]
  copy = pathlib.Path(cache).expanduser() / 'tokenizer' / name
  if copy.exists():
    return copy
  if offline := _hub.offline():
    raise _missing(path, copy, f'{offline} is set')
  try:
    _write(copy, _fetch(path))
  except Exception as e:  # Each kind of storage has errors of its own.
    raise _missing(path, copy, f'fetching it failed: {e!r}') from e
  return copy


def _missing(path: str, copy: pathlib.Path, why: str) -> FileNotFoundError:
  return FileNotFoundError(
    f'{path} is remote, there is no copy at {copy}, and {why}. Download the '
    'file there, or give the path of a tokenizer.model, such as the one beside '
    'the weights: gm.from_pretrained(folder).tokenizer.'
  )


def _fetch(path: str) -> bytes:
  """The content of a remote file."""
  scheme, rest = path.split('://', 1)
  if scheme in _URLS:
    with request.urlopen(path, timeout=_TIMEOUT) as response:
      return response.read()
  from etils import epath

  try:
    return epath.Path(path).read_bytes()
  except ImportError:  # No client for this storage is installed.
    if scheme != 'gs':
      raise
    return _fetch(_PUBLIC + rest)


def _write(path: pathlib.Path, content: bytes) -> None:
  """Writes a file that is there as a whole or not at all."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=path.parent, prefix='.tmp') as folder:
    part = pathlib.Path(folder) / path.name
    part.write_bytes(content)
    part.replace(path)


def _renamed(
  special: type[enum.IntEnum], custom: tuple[tuple[int, str], ...]
) -> dict[int, tuple[str, str]]:
  """Present and new texts of the tokens that are renamed, by id."""
  if custom and 'CUSTOM' not in special.__members__:
    raise ValueError(
      f'custom_tokens={dict(custom)}, but {special.__name__} has no unused '
      'tokens. Use the tokenizer class of a generation, such as '
      'Gemma3Tokenizer.'
    )
  for i, text in custom:
    if not 0 <= i < _UNUSED:
      raise ValueError(
        f'custom_tokens has key {i}, but unused tokens are 0 to {_UNUSED - 1}.'
      )
    if not text:
      raise ValueError(f'custom_tokens[{i}] is empty. Give it some text.')
  return {
    special.__members__['CUSTOM'] + i: (f'<unused{i}>', text)
    for i, text in custom
  }
