"""Texts of a batch, however a pipeline holds them, and a file for samples."""

from collections.abc import Iterable
from collections.abc import Mapping
import json
from typing import Any

from etils import epath
import numpy as np


def read(value: Any) -> str | list[str]:
  """A text, or the texts of a batch.

  ```python
  >>> read(b'one'), read(np.array(['one', 'two']))
  ('one', ['one', 'two'])

  ```

  Args:
    value: A string or bytes, or a list or array of these.

  Raises:
    ValueError: If these are no texts.
  """
  array = np.asarray(value, dtype=object)
  texts = [_text(item) for item in array.reshape(-1).tolist()]
  return texts if array.ndim else texts[0]


def _text(item: Any) -> str:
  if isinstance(item, bytes):
    return item.decode()
  if isinstance(item, str):
    return str(item)
  raise ValueError(
    f'{item!r} is not a text. Give the evaluator texts, not tokens: '
    'Seq2SeqTask(..., sampling=True) makes them, or name where they are, as '
    "in prompt='batch.question'."
  )


def save(
  path: epath.PathLike, batches: Iterable[Mapping[str, str | list[str]]]
) -> None:
  """Writes texts as lines of JSON; a file of this name is replaced.

  Args:
    path: The file.
    batches: Columns of texts; those of a batch have one length.
  """
  lines = []
  for batch in batches:
    columns = [[x] if isinstance(x, str) else x for x in batch.values()]
    lines += [
      json.dumps(dict(zip(batch, row, strict=True)), ensure_ascii=False)
      for row in zip(*columns, strict=True)
    ]
  path = epath.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text('\n'.join([*lines, '']))
