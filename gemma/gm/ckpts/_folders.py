"""Folders that appear when they are complete, or not at all."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import shutil
import tempfile


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """A folder to fill; it gets its name when the block ends without an error.

  Args:
    path: The folder to make. Those above it are made too.

  Raises:
    FileExistsError: If there is something at `path`.
  """
  path = pathlib.Path(path).expanduser()
  if path.exists():
    raise FileExistsError(f'{path} exists. Remove it or choose another name.')
  path.parent.mkdir(parents=True, exist_ok=True)
  building = pathlib.Path(tempfile.mkdtemp(dir=path.parent, prefix='.saving-'))
  try:
    yield building
    for file in (building, *building.iterdir()):
      file.chmod(0o755 if file.is_dir() else 0o644)  # Others may read it.
    building.rename(path)
  finally:
    shutil.rmtree(building, ignore_errors=True)
