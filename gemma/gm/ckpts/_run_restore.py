"""From the files of a checkpoint to the state of a run."""

import functools
import pathlib
from typing import Any

import jax

from gemma.gm.ckpts import _run_files
from gemma.gm.ckpts import _run_leaves
from gemma.gm.ckpts import _run_processes
from gemma.gm.ckpts import _run_values


def open_checkpoint(
  folder: pathlib.Path,
) -> tuple[_run_files.Stored | None, str]:
  """A checkpoint, or why it is damaged. Processes share the reading."""
  stored, reason = None, ''
  try:
    stored = _run_files.Stored(folder)
    mine = slice(jax.process_index(), None, jax.process_count())
    stored.verify(range(len(stored.data))[mine])
  except _run_files.Damaged as e:
    reason = str(e)
  if _run_processes.on_any(bool(reason)):
    return None, reason or 'another process found it damaged'
  return stored, reason


def restore(stored: _run_files.Stored, like: Any) -> Any:
  """The state, with each leaf placed as it is in `like`.

  Raises:
    ValueError: If leaves do not fit; nothing was read then.
  """
  wanted = _run_leaves.flatten(like)
  problems = _run_leaves.problems(stored.leaves, wanted)
  if problems:
    raise ValueError(
      f'{len(problems)} leaves of `like` do not fit {stored.folder}:\n  '
      + '\n  '.join(problems)
      + '\nBuild `like` as the run that saved it did, or start in another '
      'folder.'
    )
  leaves = [
    _run_leaves.restore(
      stored.leaves[name], functools.partial(stored.read, name), leaf
    )
    for name, leaf in wanted.items()
  ]
  return jax.tree.unflatten(jax.tree.structure(like), leaves)


def position(stored: _run_files.Stored) -> Any:
  """The position of the data of this process.

  Raises:
    ValueError: If each process had its own, and there were more or fewer.
  """
  data, processes = stored.data, jax.process_count()
  if len(data) == processes:
    return _run_values.decode(data[jax.process_index()])
  if all(position == data[0] for position in data):
    return _run_values.decode(data[0])
  raise ValueError(
    f'{stored.folder} has the positions of the data of {len(data)} processes, '
    f'and there are {processes}. Start as many as there were.'
  )
