"""Files of examples: JSON lines, JSON, tables."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import csv
import functools
import gzip
import io
import itertools
import json
from typing import Any
from typing import TypeAlias

from gemma.gm.data import _files
from gemma.gm.data import _parquet

Example: TypeAlias = dict[str, Any]


def read_examples(
  path: _files.PathLike | Sequence[_files.PathLike],
) -> Sequence[Example]:
  """The examples of files, each a dict.

  ```python
  >>> import pathlib, tempfile
  >>> from gemma import gm
  >>> file = pathlib.Path(tempfile.mkdtemp()) / 'train.jsonl'
  >>> _ = file.write_text('{"prompt": "Hi", "completion": "Hello"}')
  >>> gm.data.read_examples(file)
  [{'prompt': 'Hi', 'completion': 'Hello'}]

  ```

  Args:
    path: A file, a pattern such as `data/*.jsonl`, a folder, or a list of such;
      or URLs that `fsspec` knows. The suffix says what is in a file: `.jsonl`
      or `.ndjson` (an object a line), `.json` (a list of objects, or an object
      with nothing but one in it), `.csv` or `.tsv` (a line of names, then
      texts), `.parquet`; all but the last may end with `.gz`.

  Returns:
    The examples, file by file. Those of Parquet files become dicts when they
    are asked for.

  Raises:
    FileNotFoundError: If there is no such file.
    ImportError: If a Parquet file needs `pyarrow`, which is not installed.
    ValueError: If something in a file is no example, or the suffix is another.
  """
  zipped = [f'{suffix}.gz' for suffix in _READERS]
  files = _files.files_of(path, [*_READERS, *zipped, _parquet.SUFFIX])
  if all(file.endswith(_parquet.SUFFIX) for file in files):
    rows = _parquet.Rows(files)
    len(rows)  # Errors are wanted here.
    return rows
  return [*itertools.chain.from_iterable(map(_read, files))]


def _read(file: str) -> Sequence[Example]:
  if file.endswith(_parquet.SUFFIX):
    return _parquet.Rows(file)
  name = file.removesuffix('.gz')
  for suffix, reader in _READERS.items():
    if name.endswith(suffix):
      with _files.opened(file) as stream:
        content = stream.read()
      if name != file:
        content = gzip.decompress(content)
      text = io.StringIO(content.decode('utf-8-sig'), newline='')
      return [*reader(file, text)]
  raise ValueError(
    f'{file} is of no known kind. Its name has to end with '
    f'{", ".join([*_READERS, _parquet.SUFFIX])}.'
  )


def _lines(file: str, text: io.StringIO) -> Iterator[Example]:
  """An object a line."""
  for number, line in enumerate(text, 1):
    if line.strip():
      yield _checked(_parsed(line, f'{file}:{number}'), f'{file}:{number}')


def _whole(file: str, text: io.StringIO) -> Iterator[Example]:
  """A list of objects, or an object with one in it; or else lines."""
  content = text.read()
  try:
    value = json.loads(content)
  except ValueError as e:
    if '\n{' in content.strip():  # Lines, under another name.
      yield from _lines(file, io.StringIO(content))
      return
    raise ValueError(f'{file} is no JSON: {e}.') from e
  if isinstance(value, Mapping):
    lists = [item for item in value.values() if isinstance(item, list)]
    value = lists[0] if len(lists) == 1 == len(value) else value
  if not isinstance(value, list):
    raise ValueError(
      f'{file} has a {type(value).__name__}. Give a list of objects.'
    )
  for i, item in enumerate(value):
    yield _checked(item, f'{file}[{i}]')


def _table(
  file: str, text: io.StringIO, *, delimiter: str
) -> Iterator[Example]:
  """A line of names, then texts."""
  reader = csv.DictReader(text, delimiter=delimiter)
  for row in reader:
    if None in row or None in row.values():
      raise ValueError(
        f'{file}:{reader.line_num} has not as many values as there are names: '
        f'{reader.fieldnames}.'
      )
    yield row


def _parsed(text: str, where: str) -> Any:
  try:
    return json.loads(text)
  except ValueError as e:
    raise ValueError(f'{where} is no JSON: {e}: {text!r:.60}.') from e


def _checked(value: Any, where: str) -> Example:
  if not isinstance(value, dict):
    raise ValueError(
      f'{where} is no example but a {type(value).__name__}: {value!r:.60}. '
      'Give an object with keys.'
    )
  return value


_READERS: Mapping[str, Callable[[str, io.StringIO], Iterator[Example]]] = {
  '.jsonl': _lines,
  '.ndjson': _lines,
  '.json': _whole,
  '.csv': functools.partial(_table, delimiter=','),
  '.tsv': functools.partial(_table, delimiter='\t'),
}
