"""The numbers of a run, as a table in a file."""

from collections.abc import Mapping
import csv
import os
import pathlib
from typing import IO
from typing import Any

import numpy as np

STEP, SECONDS = 'step', 'seconds'
OWN = STEP, SECONDS  # Columns that a row has by itself.


class Metrics:
  """Rows, here and in a file of comma-separated values.

  Attributes:
    rows: Of each step, what is known of it.
  """

  def __init__(self, path: pathlib.Path):
    """Touches nothing yet."""
    self.rows: list[dict[str, float]] = []
    self._path = path
    self._columns: list[str] = [*OWN]
    self._file: IO[str] | None = None
    self._write = False
    self._start: float | None = None
    self._before = 0.0

  def open(self, step: int, *, write: bool) -> None:
    """Reads the rows up to a step; those behind it are taken out.

    Args:
      step: The last one that counts.
      write: Whether this process writes the file.
    """
    self._write = write
    if self._path.exists():
      texts = _read(self._path)
      self.rows = [
        {name: float(text) for name, text in row.items()}
        for row in texts
        if float(row[STEP]) <= step
      ]
    self._before = self.rows[-1][SECONDS] if self.rows else 0.0
    self._columns = [*dict.fromkeys([*OWN, *(n for r in self.rows for n in r)])]
    self._write_all()

  def add(
    self, step: int, values: Mapping[str, Any], now: float
  ) -> dict[str, float]:
    """Adds a row, and returns it.

    Args:
      step: Its step, later than all before.
      values: Numbers, and arrays without axes.
      now: What a clock says, in seconds.
    """
    if self._start is None:
      self._start = now
    seconds = round(self._before + now - self._start, 3)
    numbers = {name: _number(x) for name, x in values.items()}
    row = {STEP: float(step), SECONDS: seconds, **numbers}
    self.rows.append(row)
    new = [name for name in row if name not in self._columns]
    if new:
      self._columns += new
      self._write_all()
    elif self._file is not None:
      self._writer(self._file).writerow(_texts(row))
      self._file.flush()
    return row

  def sync(self) -> None:
    """Returns when all rows are on the disk."""
    if self._file is not None:
      os.fsync(self._file.fileno())

  def close(self) -> None:
    """Closes the file."""
    if self._file is not None:
      self._file.close()
      self._file = None

  def _write_all(self) -> None:
    """Writes another file, and puts it in place of the old one."""
    if not self._write:
      return
    self.close()
    new = self._path.with_name(f'.{self._path.name}')
    with new.open('w', newline='') as file:
      writer = self._writer(file)
      writer.writeheader()
      writer.writerows(map(_texts, self.rows))
      file.flush()
      os.fsync(file.fileno())
    os.replace(new, self._path)
    self._file = self._path.open('a', newline='')

  def _writer(self, file: IO[str]) -> csv.DictWriter:
    return csv.DictWriter(file, self._columns, lineterminator='\n')


def _read(path: pathlib.Path) -> list[dict[str, str]]:
  """Rows without their empty fields; one that was cut short is left out."""
  with path.open(newline='') as file:
    text = file.read()
  whole = text[: text.rfind('\n') + 1].splitlines()
  return [
    {name: field for name, field in row.items() if field}
    for row in csv.DictReader(whole)
  ]


def _number(x: Any) -> float:
  return float(np.asarray(x))


def _texts(row: Mapping[str, float]) -> dict[str, str]:
  """The shortest text that is the same number again, in float32."""
  return {name: _text(name, x) for name, x in row.items()}


def _text(name: str, x: float) -> str:
  if name == SECONDS:
    return f'{x:.3f}'
  return str(int(x)) if x.is_integer() and abs(x) < 1e15 else str(np.float32(x))
