"""Orbax checkpoints. Orbax is slow to import, so it is on first use."""

from collections.abc import Mapping
import os
import pathlib
from typing import Any

import jax

from gemma.gm.ckpts import _tree

_METADATA = ('_METADATA', '_CHECKPOINT_METADATA')
_TRAINER_KEYS = {'params', 'opt_state', 'step', 'collections'}


def is_orbax_folder(folder: pathlib.Path) -> bool:
  return any((folder / name).exists() for name in _METADATA)


def load_orbax(folder: pathlib.Path, *, dtype: Any = None) -> dict[str, Any]:
  """Parameters of a NESTED checkpoint, straight into `dtype`.

  Args:
    folder: The folder.
    dtype: Dtype of the result; as stored by default.

  Raises:
    ValueError: If the checkpoint has another layout.
  """
  import orbax.checkpoint as ocp

  with ocp.StandardCheckpointer() as checkpointer:
    stored = checkpointer.metadata(folder).item_metadata.tree
    _check_nested(folder, stored)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = {
      path: jax.ShapeDtypeStruct(x.shape, dtype or x.dtype, sharding=device)
      for path, x in _tree.flatten(stored).items()
    }
    return checkpointer.restore(folder, _tree.unflatten(target))


def save_params(
  params: Mapping[str, Any],
  path: str | os.PathLike[str],
  *,
  wait_until_finished: bool = True,
) -> None:
  """Saves parameters as an Orbax checkpoint, as they are nested.

  The folder appears when it is complete, or not at all.

  Args:
    params: The parameters.
    path: The folder to make.
    wait_until_finished: Whether to return only when all is written. Otherwise
      writing goes on in the background, and the process must live until then.

  Raises:
    FileExistsError: If there is something at `path`.
  """
  import orbax.checkpoint as ocp

  folder = pathlib.Path(path).absolute()
  if folder.exists():
    raise FileExistsError(f'{folder} exists. Remove it or choose another name.')
  checkpointer = ocp.StandardCheckpointer()
  checkpointer.save(folder, dict(params))
  if wait_until_finished:
    checkpointer.wait_until_finished()
    checkpointer.close()


def _check_nested(folder: pathlib.Path, stored: Mapping[str, Any]) -> None:
  layout = None
  if any(key.startswith('transformer/stacked_layers') for key in stored):
    layout = 'STACKED'
  elif any(key.startswith('transformer/') for key in stored):
    layout = 'FLAT'
  elif set(stored) == _TRAINER_KEYS:
    layout = 'KAULDRON'
  if layout is not None:
    raise ValueError(
      f'{folder} has the {layout} layout, with keys such as '
      f'{next(iter(stored))!r}. This version reads NESTED Orbax checkpoints '
      'and Hugging Face folders.'
    )
