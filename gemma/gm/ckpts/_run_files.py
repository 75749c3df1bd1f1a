"""The files of one checkpoint of a run.

    step_00000100/
      index.json        format, step, processes, and what each leaf is
      shards-0.json     position of the data; where each piece is in the .bin
      shards-0.bin      the pieces that process 0 wrote, one after the other
      shards-1.json ... one pair for each process

All bytes are under a checksum: each piece with its padding has a CRC-32 in the
`.json` beside it, and each `.json` has one of its own. Pieces say which box of
which array they are, so any number of devices can read them.

Not Orbax, which was tried (0.11.25 and 0.12.8): it returns other numbers after
one flipped bit in its data files, joins the names `{'a.b': x}` and
`{'a': {'b': y}}`, and refuses empty arrays, uint4 and bytes.
"""

from collections.abc import Iterable
import json
import mmap
import os
import pathlib
from typing import Any
from typing import NamedTuple
import zlib

import numpy as np

from gemma.gm.ckpts import _run_leaves

_FORMAT = 1
_ALIGN = 64
_CHUNK = 1 << 24
_INDEX = 'index.json'


class Damaged(Exception):
  """A checkpoint is not what was written. The text says why."""


class _Shard(NamedTuple):
  """Where a piece is: its leaf, its box, its file, its first byte, its sum."""

  start: list[int]
  shape: list[int]
  process: int
  offset: int
  crc32: int


def write_shards(
  folder: pathlib.Path,
  process: int,
  pieces: Iterable[tuple[str, _run_leaves.Piece]],
  data: Any,
) -> None:
  """Writes what one process has.

  Args:
    folder: An existing folder.
    process: The number of the process.
    pieces: Names of leaves, and the pieces to write of them.
    data: The position of its data, encoded.
  """
  listed: list[Any] = []
  with (folder / f'shards-{process}.bin').open('wb') as file:
    for name, piece in pieces:
      values, offset = piece.values, file.tell()
      raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
      pad = bytes(-len(raw) % _ALIGN)
      file.write(raw)
      file.write(pad)
      crc = zlib.crc32(pad, zlib.crc32(raw))
      listed.append([name, [piece.start, values.shape, process, offset, crc]])
    nbytes = file.tell()
    file.flush()
    os.fsync(file.fileno())
  body = {'shards': listed, 'nbytes': nbytes, 'data': data}
  _write_json(folder / f'shards-{process}.json', body)


def write_index(
  folder: pathlib.Path, step: int, processes: int, leaves: dict[str, Any]
) -> None:
  """Writes what the checkpoint is, when all shards are written."""
  body = {'format': _FORMAT, 'step': step, 'processes': processes}
  _write_json(folder / _INDEX, body | {'leaves': leaves})
  sync_folder(folder)


def sync_folder(folder: pathlib.Path) -> None:
  """Makes the names in a folder last over a loss of power."""
  if os.name == 'posix':
    handle = os.open(folder, os.O_RDONLY)
    try:
      os.fsync(handle)
    finally:
      os.close(handle)


class Stored:
  """One checkpoint, open for reading.

  Attributes:
    folder: Where it is.
    leaves: What each leaf is, by name.
    data: The position of the data of each process, encoded.
  """

  def __init__(self, folder: pathlib.Path):
    """Reads all but the numbers.

    Raises:
      Damaged: If a file is missing or changed.
      ValueError: If a later version of this library wrote it.
    """
    self.folder = folder
    index = _read_json(folder / _INDEX)
    if index['format'] != _FORMAT:
      raise ValueError(
        f'{folder} has format {index["format"]}; this version reads format '
        f'{_FORMAT}. Update the library.'
      )
    if not folder.name.endswith(f'_{index["step"]:08}'):
      raise Damaged(f'{_INDEX} is of step {index["step"]}')
    self.leaves: dict[str, Any] = index['leaves']
    self.data: list[Any] = []
    self._bytes: list[np.ndarray] = []
    self._shards: dict[str, list[_Shard]] = {name: [] for name in self.leaves}
    for process in range(index['processes']):
      body = _read_json(folder / f'shards-{process}.json')
      self.data.append(body['data'])
      file = folder / f'shards-{process}.bin'
      self._bytes.append(_map(file, body['nbytes']))
      for name, shard in body['shards']:
        self._shards[name].append(_Shard(*shard))

  def verify(self, processes: Iterable[int]) -> None:
    """Reads all numbers that some processes wrote.

    Raises:
      Damaged: If some are missing, or not what was written.
    """
    processes = set(processes)
    for name, shards in self._shards.items():
      about = self.leaves[name]
      held = sum(_run_leaves.size(shard.shape) for shard in shards)
      if 'dtype' in about and held != _run_leaves.size(about['shape']):
        raise Damaged(f'parts of {name} are in none of its files')
      for shard in shards:
        if shard.process in processes:
          self._verify(name, shard)

  def read(self, name: str, index: _run_leaves.Index) -> np.ndarray:
    """A part of an array, in memory of its own, from the pieces it is in."""
    about = self.leaves[name]
    first, last = _run_leaves.bounds(index, tuple(about['shape']))
    shape = [b - a for a, b in zip(first, last, strict=True)]
    out = np.empty(shape, np.dtype(about['dtype']))
    for shard in self._shards[name]:
      stop = [a + n for a, n in zip(shard.start, shard.shape, strict=True)]
      low = [max(a, b) for a, b in zip(first, shard.start, strict=True)]
      high = [min(a, b) for a, b in zip(last, stop, strict=True)]
      if all(a < b for a, b in zip(low, high, strict=True)):
        box = zip(low, high, strict=True)
        there = [slice(a, b) for a, b in box]
        values = self._values(about, shard)
        out[_from(there, first)] = values[_from(there, shard.start)]
    return out

  def _verify(self, name: str, shard: _Shard) -> None:
    path = self.folder / f'shards-{shard.process}.bin'
    left = self._nbytes(self.leaves[name], shard)
    left += -left % _ALIGN
    crc = 0
    try:  # Not through the map: there, a bad disk would end the process.
      with path.open('rb') as file:
        file.seek(shard.offset)
        while left and (raw := file.read(min(left, _CHUNK))):
          crc, left = zlib.crc32(raw, crc), left - len(raw)
    except OSError as e:
      raise Damaged(f'{path.name} cannot be read: {e}') from e
    if crc != shard.crc32:
      raise Damaged(f'the checksum of {name} in {path.name} differs')

  def _values(self, about: dict[str, Any], shard: _Shard) -> np.ndarray:
    raw = self._bytes[shard.process][shard.offset :]
    raw = raw[: self._nbytes(about, shard)]
    return raw.view(np.dtype(about['dtype'])).reshape(shard.shape)

  def _nbytes(self, about: dict[str, Any], shard: _Shard) -> int:
    return _run_leaves.size(shard.shape) * np.dtype(about['dtype']).itemsize


def _from(box: list[slice], start: Iterable[int]) -> tuple[slice, ...]:
  """The same box, counted from another first element."""
  return tuple(
    slice(s.start - a, s.stop - a) for s, a in zip(box, start, strict=True)
  )


def _write_json(path: pathlib.Path, body: dict[str, Any]) -> None:
  text = json.dumps({'crc32': _checksum(body), 'body': body})
  with path.open('w') as file:
    file.write(text + '\n')
    file.flush()
    os.fsync(file.fileno())


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    sealed = json.loads(path.read_bytes())
    if sealed['crc32'] == _checksum(sealed['body']):
      return sealed['body']
  except FileNotFoundError as e:
    raise Damaged(f'{path.name} is missing') from e
  except OSError as e:
    raise Damaged(f'{path.name} cannot be read: {e}') from e
  except (ValueError, KeyError, TypeError) as e:
    raise Damaged(f'{path.name} is no longer what was written') from e
  raise Damaged(f'the checksum of {path.name} differs')


def _checksum(body: Any) -> int:
  return zlib.crc32(json.dumps(body, sort_keys=True).encode())


def _map(path: pathlib.Path, nbytes: int) -> np.ndarray:
  """The bytes of a file, read when they are looked at."""
  try:
    found = path.stat().st_size
    if found != nbytes:
      raise Damaged(f'{path.name} has {found:,} bytes and had {nbytes:,}')
    if nbytes == 0:
      return np.zeros(0, np.uint8)
    with path.open('rb') as file:
      mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
  except FileNotFoundError as e:
    raise Damaged(f'{path.name} is missing') from e
  except OSError as e:
    raise Damaged(f'{path.name} cannot be read: {e}') from e
  return np.frombuffer(mapped, np.uint8)
