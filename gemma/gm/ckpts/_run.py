"""Checkpoints of a whole run, to go on after any interruption."""

from collections.abc import Iterator
from concurrent import futures
import contextlib
import operator
import os
import pathlib
import shutil
from typing import Any
from typing import NamedTuple
import warnings

import jax

from gemma.gm.ckpts import _run_files
from gemma.gm.ckpts import _run_folder
from gemma.gm.ckpts import _run_lock
from gemma.gm.ckpts import _run_processes
from gemma.gm.ckpts import _run_restore
from gemma.gm.ckpts import _run_snapshot


class Resumed(NamedTuple):
  """Where a run goes on.

  Attributes:
    state: The state that was saved; if nothing was, the one that was given.
    step: The step it was saved at; 0 if nothing was.
    data: The position of the data; None if nothing was saved, or no position.
  """

  state: Any
  step: int
  data: Any


class RunCheckpoints:
  """Saves everything that a run needs to go on, and finds the newest again.

  ```python
  >>> import tempfile
  >>> import jax, jax.numpy as jnp, optax
  >>> from gemma import gm
  >>> params = {'w': jnp.ones(3, 'bfloat16')}
  >>> start = {
  ...   'params': params,
  ...   'opt_state': optax.adam(1e-3).init(params),
  ...   'key': jax.random.key(0),
  ... }
  >>> folder = tempfile.mkdtemp()
  >>> with gm.ckpts.RunCheckpoints(folder, keep=2) as ckpts:
  ...   state, step, data = ckpts.resume(like=start)
  ...   for step in range(step, 6):
  ...     ckpts.save(step + 1, state, data={'row': 8 * step})
  ...   ckpts.steps
  (5, 6)
  >>> with gm.ckpts.RunCheckpoints(folder, keep=2) as ckpts:
  ...   ckpts.resume(like=start)[1:]
  (6, {'row': 40})

  ```

  A checkpoint appears when it is complete and on the disk, or not at all: a run
  may be killed at any moment. Every byte is under a checksum. The files do not
  remember the machine: any number of devices reads them, sharded in any way.

  With several processes (`jax.distributed`) all of them make the same calls on
  one shared folder. Each writes the pieces of arrays that it holds, once; the
  first one writes the rest, and no call returns before all are done.
  """

  def __init__(
    self,
    folder: str | os.PathLike[str],
    *,
    keep: int | None = 3,
    asynchronous: bool = False,
    read_only: bool = False,
  ):
    """Touches nothing yet.

    Args:
      folder: Local folder of the run, which need not exist.
      keep: How many of the newest checkpoints stay; None for all.
      asynchronous: Whether `save` returns as soon as it has a copy of the state
        in host memory, and writes in the background. For one process only.
      read_only: Whether to look at a folder that a run may be using. `save` is
        an error, and nothing is locked.

    Raises:
      ValueError: If `keep` is not positive or the folder is remote.
    """
    if keep is not None and keep < 1:
      raise ValueError(f'keep={keep}. Keep at least 1, or None for all.')
    if '://' in os.fspath(folder):
      raise ValueError(f'{folder} is remote. Give a local or mounted folder.')
    self.folder = pathlib.Path(folder).expanduser().absolute()
    self._keep = keep
    self._asynchronous = asynchronous
    self._read_only = read_only
    self._lock: _run_lock.FolderLock | None = None
    self._damaged: set[pathlib.Path] = set()
    self._thread: futures.ThreadPoolExecutor | None = None
    self._writing: futures.Future[None] | None = None

  @property
  def steps(self) -> tuple[int, ...]:
    """Steps of the checkpoints, the newest last. Damage is not looked for."""
    return tuple(_run_folder.checkpoints(self.folder))

  def resume(self, like: Any) -> Resumed:
    """Reads the newest checkpoint that is whole.

    A damaged one is passed over with a warning, and set aside at the next
    `save` under a name that begins with `damaged-`.

    Args:
      like: The state of a new run. Leaves are arrays, random keys and Python
        values; a `jax.ShapeDtypeStruct` saves the memory of an array. Each leaf
        is restored as what it is here: on the same devices with the same
        sharding, as a JAX or a NumPy array.

    Returns:
      The state, the step and the position of the data.

    Raises:
      RuntimeError: If another run is using the folder.
      ValueError: If leaves are missing, unknown, or of another shape or dtype:
        all are listed. If all checkpoints are damaged.
    """
    self.wait()
    with self._lock_kept():
      if not self._read_only:
        _run_processes.on_first(self._take_lock)
      return self._resume(like)

  def save(self, step: int, state: Any, *, data: Any = None) -> None:
    """Saves a checkpoint, then deletes those that are too many.

    Args:
      step: How many steps are done.
      state: Any pytree of arrays, random keys, numbers, text and bytes. Arrays
        may be sharded.
      data: Position of the data, in whatever structure: numbers, text, bytes,
        None, NumPy arrays, and lists, tuples and dicts of these. Each process
        may have its own.

    Raises:
      FileExistsError: If there is a checkpoint of this step or a later one.
      OSError: If it cannot be written. The earlier ones are as they were.
      RuntimeError: If another run is using the folder.
      TypeError: If something in `state` or `data` cannot be saved.
      ValueError: If this is `read_only`, or the step is negative.
    """
    step = self._check(step)
    self.wait()
    snapshot = _run_snapshot.Snapshot(step)
    with self._lock_kept():
      _run_processes.together(
        lambda: snapshot.take(state, data, copy=self._asynchronous)
      )
      _run_processes.on_first(lambda: self._prepare(step))
      if self._asynchronous:
        self._thread = self._thread or futures.ThreadPoolExecutor(1)
        self._writing = self._thread.submit(self._write, snapshot)
      else:
        self._write(snapshot)

  def wait(self) -> None:
    """Returns when all is written.

    Raises:
      OSError: If the last `save` failed in the background.
    """
    writing, self._writing = self._writing, None
    with self._lock_kept():
      if writing is not None:
        writing.result()

  def __enter__(self) -> 'RunCheckpoints':
    return self

  def __exit__(self, *_: object) -> None:
    """Waits, and leaves the folder to others."""
    try:
      self.wait()
    finally:
      self._release()

  def _resume(self, like: Any) -> Resumed:
    reasons: list[str] = []
    found = _run_folder.checkpoints(self.folder)
    for step, folder in reversed(found.items()):
      stored, reason = _run_restore.open_checkpoint(folder)
      if stored is not None:
        for text in reasons:
          warnings.warn(f'Damaged, and passed over: {text}', stacklevel=3)
        state = _run_restore.restore(stored, like)
        return Resumed(state, step, _run_restore.position(stored))
      if not folder.exists():  # The run that this only looks at went on.
        return self._resume(like)
      self._damaged.add(folder)
      reasons.append(f'{folder}: {reason}.')
    if reasons:
      raise ValueError(
        f'All checkpoints in {self.folder} are damaged:\n  '
        + '\n  '.join(reasons)
        + '\nCopy one back from elsewhere, or start in another folder.'
      )
    return Resumed(like, 0, None)

  @contextlib.contextmanager
  def _lock_kept(self) -> Iterator[None]:
    """Unless it raises: a traceback that is kept is not to keep a lock."""
    try:
      yield
    except BaseException:
      self._release()
      raise

  def _release(self) -> None:
    if self._lock is not None:
      self._lock.release()
      self._lock = None

  def _check(self, step: int) -> int:
    if self._read_only:
      raise ValueError('This is read_only=True. Make one without it to save.')
    if operator.index(step) < 0:
      raise ValueError(f'step={step}. Give the number of steps done.')
    if self._asynchronous and jax.process_count() > 1:
      raise ValueError(
        f'asynchronous=True is for one process; there are '
        f'{jax.process_count()}. Leave it out.'
      )
    return operator.index(step)

  def _take_lock(self) -> None:
    if self._lock is None:
      self.folder.mkdir(parents=True, exist_ok=True)
      self._lock = _run_lock.FolderLock(self.folder)

  def _prepare(self, step: int) -> None:
    self._take_lock()
    _run_folder.prepare(self.folder, step, self._damaged)
    self._damaged.clear()

  def _write(self, snapshot: _run_snapshot.Snapshot) -> None:
    """Writes under a name that is no checkpoint's, then renames."""
    folder = _run_folder.saving(self.folder, snapshot.step)
    try:
      _run_processes.together(lambda: snapshot.write_shards(folder))
      _run_processes.on_first(lambda: self._commit(folder, snapshot))
    except BaseException as e:
      e.add_note(
        f'Step {snapshot.step} was not saved in {self.folder}. The earlier '
        'checkpoints are as they were.'
      )
      if jax.process_index() == 0:
        shutil.rmtree(folder, ignore_errors=True)
      raise
    _run_processes.on_first(lambda: _run_folder.prune(self.folder, self._keep))

  def _commit(
    self, folder: pathlib.Path, snapshot: _run_snapshot.Snapshot
  ) -> None:
    _run_files.write_index(
      folder, snapshot.step, jax.process_count(), snapshot.about
    )
    _run_folder.commit(self.folder, snapshot.step)
