"""Where files are: here or elsewhere, alone, in folders, by patterns."""

from collections.abc import Sequence
import glob
import os
import pathlib
from typing import Any
from typing import TypeAlias

PathLike: TypeAlias = str | os.PathLike[str]


def files_of(
  path: PathLike | Sequence[PathLike], suffixes: Sequence[str]
) -> list[str]:
  """All files, those of folders and patterns in the order of their names.

  Args:
    path: A file, a folder, a pattern with `*`, a URL, or a list of these.
    suffixes: Which files of a folder are meant.

  Raises:
    FileNotFoundError: If there is none.
  """
  paths = [path] if isinstance(path, str | os.PathLike) else path
  found = [
    file for one in paths for file in _expanded(os.fspath(one), suffixes)
  ]
  if not found:
    raise FileNotFoundError(
      f'{path} has no files. Give a file, a pattern, or a folder with files '
      f'that end with {", ".join(suffixes)}.'
    )
  return found


def opened(file: str) -> Any:
  """A file or URL, open for reading bytes."""
  if '://' not in file:
    return open(file, 'rb')
  import fsspec

  try:
    return fsspec.open(file, 'rb').open()
  except ImportError:  # Of what fsspec needs for this kind of URL.
    from etils import epath

    return epath.Path(file).open('rb')


def _expanded(path: str, suffixes: Sequence[str]) -> list[str]:
  if '://' in path:
    return _expanded_url(path, suffixes)
  if os.path.isdir(path):
    inside = pathlib.Path(path).rglob('*')
    return sorted(
      str(file)
      for file in inside
      if file.is_file() and file.name.endswith(tuple(suffixes))
    )
  if os.path.exists(path) or not glob.has_magic(path):
    return [path]
  return sorted(glob.glob(path, recursive=True))


def _expanded_url(url: str, suffixes: Sequence[str]) -> list[str]:
  """Files of a URL: one, unless it is a pattern or ends with a slash."""
  if '*' not in url and not url.endswith('/'):
    return [url]
  import fsspec

  system, path = fsspec.url_to_fs(url)
  names = system.glob(path) if '*' in url else system.find(path)
  return [
    system.unstrip_protocol(name)
    for name in sorted(names)
    if '*' in url or name.endswith(tuple(suffixes))
  ]
