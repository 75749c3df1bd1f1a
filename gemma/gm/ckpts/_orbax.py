"""Orbax checkpoints out. Orbax is slow to import, so it is on first use."""

from collections.abc import Mapping
import os
import pathlib
import shutil
from typing import Any

from gemma.gm.ckpts import _layouts
from gemma.gm.ckpts import _paths
from gemma.gm.ckpts import _tree

_METADATA = ('_METADATA', '_CHECKPOINT_METADATA')


class CheckpointExistsError(FileExistsError, ValueError):
  """There is something where a checkpoint should be made."""


def is_orbax_folder(folder: Any) -> bool:
  """Whether a folder has the metadata of a checkpoint, or of a step of one."""
  return any((folder / name).exists() for name in _METADATA)


def save_params(
  params: Mapping[str, Any],
  path: str | os.PathLike[str],
  *,
  wait_until_finished: bool = True,
  save_concurrent_gb: int | None = None,
  layout: str = 'NESTED',
) -> None:
  """Saves parameters as an Orbax checkpoint.

  The folder appears when it is complete, or not at all.

  ```python
  >>> from gemma import gm
  >>> import jax.numpy as jnp, tempfile
  >>> folder = tempfile.mkdtemp()
  >>> params = {'final_norm': {'scale': jnp.ones(3)}}
  >>> gm.ckpts.save_params(params, f'{folder}/flat', layout='FLAT')
  >>> gm.ckpts.load_params(f'{folder}/flat')
  {'final_norm': {'scale': Array([1., 1., 1.], dtype=float32)}}

  ```

  Args:
    params: The parameters, NESTED: what `model.init(...)['params']` gives.
    path: The folder to make.
    wait_until_finished: Whether to return only when all is written. Otherwise
      writing goes on in the background, and the process must live until then.
    save_concurrent_gb: How much may be in host memory at a time.
    layout: How to name what is stored: `NESTED`, `FLAT` as in the released
      checkpoints, or `STACKED` with the layers of a kind in one array.
      `load_params` reads them all.

  Raises:
    FileExistsError: If there is something at `path`. It is a `ValueError` too.
    ValueError: If the layout cannot hold the parameters, or some are no arrays.
  """
  import orbax.checkpoint as ocp

  folder = _paths.folder_of(path)
  if folder.exists():
    raise CheckpointExistsError(
      f'{folder} exists. Remove it or choose another name.'
    )
  _check_arrays(params)
  tree = dict(params)
  if layout != _layouts.Layout.NESTED:
    tree = _layouts.from_nested(tree, layout)
  limit = (
    {}
    if save_concurrent_gb is None
    else {'save_concurrent_gb': save_concurrent_gb}
  )
  # The folder is made before anything can fail: made by a thread of its own, it
  # could appear after the failure has been cleaned up.
  in_order = ocp.options.AsyncOptions(create_directories_asynchronously=False)
  checkpointer = ocp.StandardCheckpointer(async_options=in_order, **limit)
  try:
    checkpointer.save(folder, tree)
    if wait_until_finished:
      checkpointer.wait_until_finished()
      checkpointer.close()
  except BaseException:
    _remove_unfinished(folder)
    raise


def _check_arrays(params: Mapping[str, Any]) -> None:
  odd = {
    '/'.join(path): type(leaf).__name__
    for path, leaf in _tree.leaves(params).items()
    if not hasattr(leaf, '__array__')
  }
  if odd:
    raise ValueError(f'Only arrays can be saved; these are not: {odd}.')


def _remove_unfinished(folder: Any) -> None:
  """Removes what a write that failed has left beside `folder`."""
  if not isinstance(folder, pathlib.Path) or not folder.parent.is_dir():
    return
  for part in folder.parent.glob(f'{folder.name}.orbax-checkpoint-tmp*'):
    shutil.rmtree(part, ignore_errors=True)
