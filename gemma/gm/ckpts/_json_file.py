"""JSON files that others wrote, read within limits."""

import json
import pathlib
import stat
from typing import Any

MOST_BYTES = 2**24  # A config.json has a few kB, an index of shards some MB.


def read_bytes(file: pathlib.Path, most: int = MOST_BYTES) -> bytes:
  """The content of a regular file.

  Args:
    file: The file.
    most: Most bytes that it may have.

  Raises:
    ValueError: If it is a pipe, a device or a folder, or if it is larger.
  """
  status = file.stat()
  if not stat.S_ISREG(status.st_mode):
    raise ValueError(f'{file} is not a regular file. Replace it by one.')
  if status.st_size > most:
    raise ValueError(
      f'{file} has {status.st_size:,} bytes, more than the {most:,} that a '
      'file of its kind may have. Download it again.'
    )
  return file.read_bytes()


def read_object(file: pathlib.Path, most: int = MOST_BYTES) -> dict[str, Any]:
  """The JSON object in a file.

  Raises:
    ValueError: If the file is no regular file, too large, or no JSON object.
  """
  return parse_object(read_bytes(file, most), str(file))


def parse_object(content: bytes, name: str) -> dict[str, Any]:
  """A JSON object.

  Args:
    content: The text.
    name: The file, for errors.

  Raises:
    ValueError: If it is not JSON, or no object.
  """
  try:
    value = json.loads(content)
  except (ValueError, RecursionError) as e:
    raise ValueError(
      f'{name} is not JSON: {e}. Download it again, or repair it.'
    ) from e
  if not isinstance(value, dict):
    raise ValueError(
      f'{name} holds a JSON {type(value).__name__}, not an object.'
    )
  return value
