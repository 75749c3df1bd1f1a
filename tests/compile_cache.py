"""Disk cache of compiled programs, shared by workers and by later test runs.

JAX neither locks its cache folder nor writes its files atomically. So each
process has a folder of its own, and finished files pass between it and the
shared folder as hard links, which appear whole.
"""

import contextlib
import os
import pathlib
import shutil
import tempfile
import time

_MAX_BYTES = 4 * 2**30
_DAY = 24 * 3600


class CompileCache:
  """A private cache folder, kept in step with the shared one.

  Attributes:
    folder: The folder for JAX.
  """

  def __init__(self, shared: pathlib.Path):
    """Makes a private folder with everything that is shared so far."""
    self._shared = shared
    shared.mkdir(parents=True, exist_ok=True)
    _prune(shared)
    self.folder = pathlib.Path(tempfile.mkdtemp(prefix='run-', dir=shared))
    self.sync()

  def sync(self) -> None:
    """Publishes new programs and takes over those of other processes."""
    mine, others = _names(self.folder), _names(self._shared)
    for name in mine - others:
      _link(self.folder / name, self._shared / name)
    for name in others - mine:
      _link(self._shared / name, self.folder / name)

  def close(self) -> None:
    """Publishes new programs and removes the private folder."""
    self.sync()
    shutil.rmtree(self.folder, ignore_errors=True)


def _names(folder: pathlib.Path) -> set[str]:
  return {name for name in os.listdir(folder) if name.endswith('-cache')}


def _link(source: pathlib.Path, target: pathlib.Path) -> None:
  """Links, unless another process was first or removed the source."""
  with contextlib.suppress(FileExistsError, FileNotFoundError):
    os.link(source, target)


def _prune(shared: pathlib.Path) -> None:
  """Removes folders of killed runs, and the oldest programs if too many."""
  for folder in shared.glob('run-*'):
    if time.time() - folder.stat().st_mtime > _DAY:
      shutil.rmtree(folder, ignore_errors=True)
  files = sorted(
    ((path.stat().st_mtime, path) for path in shared.glob('*-cache')),
    reverse=True,
  )
  total = 0
  for _, path in files:
    total += path.stat().st_size
    if total > _MAX_BYTES:
      path.unlink(missing_ok=True)
