"""Tensors of a Hugging Face folder, looked up by name, read one at a time."""

from collections.abc import Callable
import json
import math
import pathlib
from typing import Any

import numpy as np
import safetensors

FLOATS = {'F64': 8, 'F32': 4, 'F16': 2, 'BF16': 2}  # Bytes of each.
_SINGLE = 'model.safetensors'
_INDEX = 'model.safetensors.index.json'


class TensorFolder:
  """The tensors of `model.safetensors` or of its shards.

  Files are memory-mapped: opening costs nothing, and only the tensors that are
  asked for are read.
  """

  def __init__(self, folder: pathlib.Path):
    """Opens all files of the folder.

    Args:
      folder: A folder with `model.safetensors`, or shards and their index.

    Raises:
      FileNotFoundError: If a file is missing.
      ValueError: If a file is damaged, or lacks what the index promises.
    """
    self.folder = folder
    self._files: dict[str, Any] = {}
    for file in _files(folder):
      opened = _open(file)
      self._files |= dict.fromkeys(opened.keys(), opened)

  @property
  def names(self) -> list[str]:
    return list(self._files)

  def shape(self, name: str) -> tuple[int, ...]:
    return tuple(self._files[name].get_slice(name).get_shape())

  def dtype(self, name: str) -> str:
    """As the file spells it, such as `BF16`."""
    return self._files[name].get_slice(name).get_dtype()

  def nbytes(self, name: str) -> int:
    return math.prod(self.shape(name)) * FLOATS[self.dtype(name)]

  def read(self, name: str) -> np.ndarray:
    return self._files[name].get_tensor(name)

  def rows(self, name: str, start: int, stop: int) -> np.ndarray:
    """Some rows of a tensor, without reading the others."""
    return self._files[name].get_slice(name)[start:stop]


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
  index = folder / _INDEX
  if not index.exists():
    if not (folder / _SINGLE).exists():
      raise FileNotFoundError(
        f'Neither {_SINGLE} nor {_INDEX} in {folder}. Is the download complete?'
      )
    return [folder / _SINGLE]
  names = sorted(set(json.loads(index.read_text())['weight_map'].values()))
  missing = [name for name in names if not (folder / name).exists()]
  if missing:
    raise FileNotFoundError(
      f'{_INDEX} in {folder} names files that are not there: {missing}. '
      'Download them.'
    )
  return [folder / name for name in names]


def _open(file: pathlib.Path) -> Any:
  opener: Callable[..., Any] = safetensors.safe_open
  try:
    return opener(file, framework='numpy')
  except safetensors.SafetensorError as e:
    size = file.stat().st_size
    raise ValueError(
      f'{file} ({size:,} bytes) is damaged or cut short: {e}. Download it '
      'again.'
    ) from e
