"""Parquet files as examples, and as a data source of Kauldron."""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any
from typing import overload

from gemma.gm.data import _files

SUFFIX = '.parquet'


@dataclasses.dataclass(frozen=True)
class Rows(Sequence[dict[str, Any]]):
  """Rows of Parquet files, each a dict of Python values.

  The table is in memory, and not with it when it travels to another process,
  which reads it again.

  Attributes:
    path: A file, a folder, a pattern, a URL, or a list of these.
  """

  path: _files.PathLike | Sequence[_files.PathLike]

  def __len__(self) -> int:
    return self._table.num_rows

  @overload
  def __getitem__(self, index: int) -> dict[str, Any]: ...

  @overload
  def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...

  def __getitem__(self, index: Any) -> Any:
    places = range(len(self))[index]
    if isinstance(places, range):
      return [self[place] for place in places]
    (row,) = self._table.slice(places, 1).to_pylist()
    return row

  def __getstate__(self) -> dict[str, Any]:
    return {'path': self.path}

  @functools.cached_property
  def _table(self) -> Any:
    try:
      import pyarrow
      from pyarrow import parquet
    except ImportError as e:
      raise ImportError(
        "Parquet files need pyarrow: pip install 'gemma[train]'."
      ) from e
    tables = []
    for file in _files.files_of(self.path, [SUFFIX]):
      with _files.opened(file) as stream:
        tables.append(parquet.read_table(stream))
    return pyarrow.concat_tables(tables, promote_options='default')


class Parquet:
  """Parquet files as a pipeline of Kauldron.

  It is a `kd.data.py.DataSourceBase`, with all fields that these have:
  `batch_size`, `transforms`, `num_epochs`, `num_workers`, ... `Rows` of the
  files alone are what `gm.data.read_examples` gives, without Kauldron.

  Attributes:
    path: A file, a folder, a pattern, a URL that `fsspec` knows, or a list of
      these.
    shuffle: Whether each epoch has an order of its own.
  """

  def __new__(
    cls,
    *,
    path: _files.PathLike | Sequence[_files.PathLike],
    shuffle: bool,
    **fields: Any,
  ) -> Any:
    """A pipeline.

    Args:
      path: See above.
      shuffle: See above.
      **fields: Those of `kd.data.py.DataSourceBase`.

    Raises:
      ImportError: If Kauldron is not installed.
    """
    return _pipeline()(path=path, shuffle=shuffle, **fields)


@functools.cache
def _pipeline() -> Any:
  """The class, which exists from its first use on: it imports Kauldron."""
  try:
    from kauldron import kd
  except ImportError as e:
    raise ImportError(
      "gm.data.Parquet needs Kauldron: pip install 'gemma[train]'. Without it, "
      'gm.data.read_examples reads the same files, for gm.data.Batches.'
    ) from e

  return dataclasses.make_dataclass(
    'Parquet',
    [('path', Any)],
    bases=(kd.data.py.DataSourceBase,),
    namespace={
      '__doc__': Parquet.__doc__,
      'data_source': functools.cached_property(lambda self: Rows(self.path)),
    },
    frozen=True,
    kw_only=True,
  )
