"""Names in the folder of a run: what is complete, what goes, what stays."""

import os
import pathlib
import re
import shutil

from gemma.gm.ckpts import _run_files

_NAME = re.compile(r'step_(\d{8,})')
# Not checkpoints yet, or no longer. A killed process leaves them behind.
_SAVING, _DELETING, _DAMAGED = '.saving-', '.deleting-', 'damaged-'


def checkpoints(folder: pathlib.Path) -> dict[int, pathlib.Path]:
  """Complete checkpoints by step, the newest last."""
  found = folder.iterdir() if folder.is_dir() else ()
  matches = [(_NAME.fullmatch(path.name), path) for path in found]
  return dict(sorted((int(m[1]), path) for m, path in matches if m))


def saving(folder: pathlib.Path, step: int) -> pathlib.Path:
  """Where a checkpoint is written before it has its name."""
  return folder / f'{_SAVING}{_name(step)}'


def prepare(
  folder: pathlib.Path, step: int, damaged: set[pathlib.Path]
) -> None:
  """Makes `saving(folder, step)`, and tidies up.

  Args:
    folder: Folder of the run.
    step: The step to be saved.
    damaged: Checkpoints to set aside.

  Raises:
    FileExistsError: If there is a checkpoint of this step or a later one.
  """
  for path in damaged:
    if path.exists():
      path.rename(_free(path.with_name(_DAMAGED + path.name)))
  for path in folder.iterdir():
    if path.name.startswith((_SAVING, _DELETING)):
      shutil.rmtree(path)
  newest = max(checkpoints(folder), default=-1)
  if newest >= step:
    raise FileExistsError(
      f'Step {step} cannot be saved: {folder} has step {newest} already. '
      'resume() to go on from there, choose another folder, or delete it.'
    )
  saving(folder, step).mkdir()


def commit(folder: pathlib.Path, step: int) -> None:
  """Gives a checkpoint its name, now that it is complete."""
  saving(folder, step).rename(folder / _name(step))
  _run_files.sync_folder(folder)


def prune(folder: pathlib.Path, keep: int | None) -> None:
  """Deletes all but the newest checkpoints.

  Each loses its name first, so that one that is half deleted is none.
  """
  for path in [*checkpoints(folder).values()][: -keep if keep else 0]:
    going = path.with_name(_DELETING + path.name)
    os.rename(path, going)
    shutil.rmtree(going)


def _name(step: int) -> str:
  return f'step_{step:08}'


def _free(path: pathlib.Path) -> pathlib.Path:
  """The path, or one like it that nothing has."""
  names = [path, *(path.with_name(f'{path.name}-{i}') for i in range(1, 1000))]
  return next(name for name in names if not name.exists())
