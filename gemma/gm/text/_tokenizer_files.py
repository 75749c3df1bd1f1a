"""Where a tokenizer's model file is, and how it is opened."""

import functools
import os
import pathlib

import sentencepiece

from gemma.gm.ckpts import _paths

SHIPPED = os.path.join(_paths.CheckpointPath.GEMMA3_TINY_IT, 'tokenizer.model')
_NAMES = ('tokenizer.model', 'tokenizer.json')
_UNUSED = 99  # `<unused0>` to `<unused98>` are contiguous.


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
  path: str, custom: tuple[tuple[int, str], ...], first_unused: int
) -> sentencepiece.SentencePieceProcessor:
  """Opens a model file; the same file is read once per process.

  Args:
    path: A `tokenizer.model` or `tokenizer.json`.
    custom: Numbers of unused tokens, and their new texts.
    first_unused: Id of `<unused0>`.
  """
  file = find(_local(path))
  proto = file.read_bytes()
  if file.suffix == '.json':
    from gemma.gm.text import _tokenizer_proto  # Needs protobuf: only here.

    proto = _tokenizer_proto.from_json(proto)
  if custom:
    from gemma.gm.text import _tokenizer_proto

    _check_custom(custom)
    proto = _tokenizer_proto.rename(
      proto, {first_unused + i: (f'<unused{i}>', text) for i, text in custom}
    )
  try:
    return sentencepiece.SentencePieceProcessor(model_proto=proto)
  except RuntimeError as e:
    raise ValueError(f'{file} is not a SentencePiece model: {e}') from e


def _local(path: str) -> pathlib.Path:
  """A path on this machine: for a remote one, the copy in the cache folder."""
  if '://' not in path:
    return pathlib.Path(path).expanduser()
  cache = os.environ.get('GEMMA_CACHE_DIR', '~/.gemma')
  name = path.rsplit('/', 1)[-1]
  cached = pathlib.Path(cache).expanduser() / 'tokenizer' / name
  if not cached.exists():
    raise FileNotFoundError(
      f'{path} is remote, and there is no copy at {cached}. Download the file '
      'there, or give the path of a tokenizer.model, such as the one beside '
      'the weights: gm.from_pretrained(folder).tokenizer.'
    )
  return cached


def _check_custom(custom: tuple[tuple[int, str], ...]) -> None:
  for i, _ in custom:
    if not 0 <= i < _UNUSED:
      raise ValueError(
        f'custom_tokens has key {i}, but unused tokens are 0 to {_UNUSED - 1}.'
      )
