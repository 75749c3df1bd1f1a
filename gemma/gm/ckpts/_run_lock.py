"""One user of a folder at a time."""

import os
import pathlib
import socket
import warnings
import weakref


class FolderLock:
  """Held until it is released, forgotten, or the process ends in any way."""

  def __init__(self, folder: pathlib.Path):
    """Takes the lock.

    Args:
      folder: An existing folder.

    Raises:
      RuntimeError: If another run has it.
    """
    self._handle = os.open(folder / '.lock', os.O_RDWR | os.O_CREAT, 0o644)
    self._close = weakref.finalize(self, os.close, self._handle)
    try:
      import fcntl
    except ImportError:  # Windows. Names alone keep two runs apart there.
      return
    try:
      fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
      owner = os.pread(self._handle, 200, 0).decode(errors='replace').strip()
      self.release()
      raise RuntimeError(
        f'{folder} is in use by {owner or "another run"}. Wait until it ends, '
        'choose another folder, or pass read_only=True to read only.'
      ) from e
    except OSError as e:
      warnings.warn(
        f'{folder} cannot be locked ({e}). See to it that one run uses it.',
        stacklevel=6,
      )
    os.truncate(self._handle, 0)
    owner = f'process {os.getpid()} on {socket.gethostname()}'
    os.pwrite(self._handle, owner.encode(), 0)

  def release(self) -> None:
    self._close()
