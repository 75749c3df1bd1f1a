"""Tensors of a Hugging Face folder, looked up by name, read one at a time.

Files are read, not mapped: mapped pages count as the memory of the process.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import json
import math
import pathlib
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors

from gemma.gm.ckpts import _fields
from gemma.gm.ckpts import _json_file

DTYPES = {
  'F64': 'float64',
  'F32': 'float32',
  'F16': 'float16',
  'BF16': 'bfloat16',
}
_SINGLE = 'model.safetensors'
_INDEX = 'model.safetensors.index.json'
_MOST_INDEX = 2**26
_SHARD: re.Pattern[str] = re.compile(r'[^/\\\0]+\.safetensors')
_MAP = _fields.Check(
  'an object from names of tensors to .safetensors files in the folder',
  lambda x: (
    isinstance(x, Mapping)
    and bool(x)
    and all(isinstance(y, str) and _SHARD.fullmatch(y) for y in x.values())
  ),
)
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
    ValueError: If a file is damaged, or the index and the shards disagree.
  """
  index = _read_index(folder)
  tensors: dict[str, Tensor] = {}
  for file in _files(folder, index):
    for name, tensor in _open(file).items():
      if name in tensors:
        raise ValueError(
          f'{name} is in {tensors[name].file.name} and in {file.name} of '
          f'{folder}. Keep one of them.'
        )
      tensors[name] = tensor
  if index:
    _check_index(folder, index, tensors)
  return tensors


def _read_index(folder: pathlib.Path) -> dict[str, str]:
  """The file of each tensor, if there are shards."""
  file = folder / _INDEX
  if not file.exists():
    return {}
  schema = _fields.Schema(
    _INDEX,
    {'weight_map': _MAP},
    {'metadata': _fields.ANYTHING},
    ('weight_map',),
  )
  return schema.check(_json_file.read_object(file, _MOST_INDEX))['weight_map']


def _files(folder: pathlib.Path, index: dict[str, str]) -> list[pathlib.Path]:
  single = (folder / _SINGLE).exists()
  if not index:
    if not single:
      raise FileNotFoundError(
        f'Neither {_SINGLE} nor {_INDEX} in {folder}. Is the download complete?'
      )
    return [folder / _SINGLE]
  names = sorted(set(index.values()))
  missing = [name for name in names if not (folder / name).exists()]
  if missing:
    raise FileNotFoundError(
      f'{_INDEX} in {folder} names files that are not there: {missing}. '
      'Download them.'
    )
  if single and _SINGLE not in names:
    raise ValueError(
      f'{folder} has {_SINGLE}, and {_INDEX} for other files. Remove the one '
      'that is out of date.'
    )
  return [folder / name for name in names]


def _check_index(
  folder: pathlib.Path, index: dict[str, str], tensors: dict[str, Tensor]
) -> None:
  """Raises if tensors are not where the index says."""
  found = {name: tensor.file.name for name, tensor in tensors.items()}
  wrong = [
    f'{name}: {index.get(name, "nowhere")} by weight_map, in '
    f'{found.get(name, "no file")}'
    for name in sorted(index.keys() | found.keys())
    if index.get(name) != found.get(name)
  ]
  if wrong:
    raise ValueError(
      f'weight_map in {_INDEX} of {folder} does not fit its files:\n  '
      + '\n  '.join(wrong[:20])
    )


def _open(file: pathlib.Path) -> dict[str, Tensor]:
  if not file.is_file():  # A pipe would be waited for.
    raise ValueError(f'{file} is not a regular file. Replace it by one.')
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
