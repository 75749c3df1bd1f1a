"""Tensors of a Hugging Face folder, looked up by name, read one at a time.

Files are read, not mapped: mapped pages count as the memory of the process.
"""

from collections.abc import Callable
import dataclasses
import json
import math
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors

DTYPES = {
  'F64': 'float64',
  'F32': 'float32',
  'F16': 'float16',
  'BF16': 'bfloat16',
}
_SINGLE = 'model.safetensors'
_INDEX = 'model.safetensors.index.json'
_ALIGNED = 64  # Bytes; JAX takes arrays that lie so on a CPU without a copy.


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A tensor in a file.

  Attributes:
    name: What the file calls it.
    file: The file.
    offset: Where its first byte is.
    shape: Its shape.
    stored: Its dtype as the file spells it, such as `BF16`.
  """

  name: str
  file: pathlib.Path
  offset: int
  shape: tuple[int, ...]
  stored: str

  @property
  def dtype(self) -> np.dtype:
    return jnp.dtype(DTYPES[self.stored])

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize

  @property
  def ndim(self) -> int:
    return len(self.shape)

  def __getitem__(self, rows: slice) -> 'Tensor':
    """Some of its rows; nothing is read."""
    if not self.shape:
      return self
    start, stop, _ = rows.indices(self.shape[0])
    row = self.nbytes // max(self.shape[0], 1)
    return dataclasses.replace(
      self,
      offset=self.offset + start * row,
      shape=(max(stop - start, 0), *self.shape[1:]),
    )

  def read(self) -> np.ndarray:
    """What it holds."""
    out = aligned(self.shape, self.dtype)
    todo = out.reshape(-1).view(np.uint8).data
    with self.file.open('rb', buffering=0) as opened:
      opened.seek(self.offset)
      while len(todo):  # One call reads 2 GiB at most.
        count = opened.readinto(todo)
        if not count:
          raise ValueError(f'{self.file} was cut short while it was read.')
        todo = todo[count:]
    return out


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
  """An array with nothing in it yet, that JAX can take without a copy."""
  nbytes = math.prod(shape) * np.dtype(dtype).itemsize
  room = np.empty(nbytes + _ALIGNED, np.uint8)
  start = -room.ctypes.data % _ALIGNED
  return room[start : start + nbytes].view(dtype).reshape(shape)


def open_folder(folder: pathlib.Path) -> dict[str, Tensor]:
  """The tensors of `model.safetensors`, or of its shards, by name.

  Raises:
    FileNotFoundError: If a file is missing.
    ValueError: If a file is damaged.
  """
  tensors: dict[str, Tensor] = {}
  for file in _files(folder):
    tensors |= _open(file)
  return tensors


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


def _open(file: pathlib.Path) -> dict[str, Tensor]:
  opener: Callable[..., Any] = safetensors.safe_open
  try:
    opener(file, framework='numpy')  # It checks all that the header says.
  except safetensors.SafetensorError as e:
    size = file.stat().st_size
    raise ValueError(
      f'{file} ({size:,} bytes) is damaged or cut short: {e}. Download it '
      'again.'
    ) from e
  with file.open('rb') as opened:
    length = int.from_bytes(opened.read(8), 'little')
    header = json.loads(opened.read(length))
  header.pop('__metadata__', None)
  return {
    name: Tensor(
      name,
      file,
      8 + length + x['data_offsets'][0],
      tuple(x['shape']),
      x['dtype'],
    )
    for name, x in header.items()
  }
