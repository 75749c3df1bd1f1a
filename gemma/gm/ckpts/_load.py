"""One door for every format that weights are read from."""

import os
import pathlib
from typing import Any

from gemma.gm.ckpts import _hub
from gemma.gm.ckpts import _load_hf
from gemma.gm.ckpts import _orbax


def load_params(
  path: str | os.PathLike[str],
  *,
  dtype: Any = None,
  text_only: bool = False,
  on_progress: _load_hf.OnProgress | None = None,
) -> dict[str, Any]:
  """Reads the weights of a checkpoint, whatever its format.

  ```python
  >>> from gemma import gm
  >>> path = gm.ckpts.CheckpointPath.GEMMA3_TINY_IT
  >>> params = gm.ckpts.load_params(path, dtype='float32')
  >>> params['final_norm']['scale'].dtype
  dtype('float32')

  ```

  Args:
    path: A Hugging Face folder, or an Orbax checkpoint in the NESTED layout.
    dtype: Dtype of the parameters; as stored by default.
    text_only: Whether to leave out a vision encoder. Its tensors are not read.
    on_progress: Called with bytes read and bytes in all.

  Returns:
    The parameters in the NESTED layout: what `model.init(...)['params']` gives.

  Raises:
    FileNotFoundError: If there is no such folder, or a file is missing.
    ValueError: If the folder is no checkpoint, a file is damaged, or tensors
      are missing, unknown or mis-shaped: all of them are listed.
  """
  folder = existing_folder(path)
  if _load_hf.is_hf_folder(folder):
    return _load_hf.load_hf(
      folder, dtype=dtype, text_only=text_only, on_progress=on_progress
    )
  if _orbax.is_orbax_folder(folder):
    return _orbax.load_orbax(folder, dtype=dtype)
  found = sorted(file.name for file in folder.iterdir())[:10]
  raise ValueError(
    f'{folder} is no checkpoint: neither a config.json (Hugging Face) nor a '
    f'_METADATA or _CHECKPOINT_METADATA (Orbax) is in it, only {found}.'
  )


def existing_folder(path: str | os.PathLike[str]) -> pathlib.Path:
  """The local folder at `path`, absolute."""
  name = os.fspath(path)
  if _hub.is_hub(name):
    return _hub.folder(name)
  if '://' in name:
    raise ValueError(
      f'{name} is remote. Download the folder, and give its local path.'
    )
  folder = pathlib.Path(name).expanduser().absolute()
  if not folder.is_dir():
    raise FileNotFoundError(
      f'No folder {folder}. Give the folder of a checkpoint, with its '
      'config.json (Hugging Face) or its metadata (Orbax) in it.'
    )
  return folder
