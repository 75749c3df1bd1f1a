"""Turns of the package `dialog`, which are told by the names of classes."""

from collections.abc import Callable
from collections.abc import Sequence
import os
from typing import Any

import numpy as np

from gemma.gm.text import _content
from gemma.gm.text import _parts

_KINDS: dict[str, Callable[[Any], _parts.Part]] = {
  'Text': lambda chunk: chunk.text,
  'Image': lambda chunk: _parts.Attachment(_parts.Media.IMAGE, _data_of(chunk)),
  'Audio': lambda chunk: _parts.Attachment(_parts.Media.AUDIO),
  'Think': lambda chunk: _parts.Think(),
  'Thought': lambda chunk: _parts.Thought(
    ''.join(map(str, parts_of(chunk.chunks)))
  ),
  'Tool': lambda chunk: _parts.Tool(chunk.data.name, chunk.data.def_json),
  'ToolCall': lambda chunk: _parts.ToolCall(
    chunk.data.name, chunk.data.arguments
  ),
  'ToolResponse': lambda chunk: _parts.ToolResponse(
    chunk.data.name, chunk.data.response
  ),
}


def parts_of(chunks: Sequence[Any]) -> list[_parts.Part]:
  """Parts of a turn.

  Args:
    chunks: Those of the turn.

  Raises:
    ValueError: If one is of a kind that no model knows.
  """
  return [_part_of(chunk) for chunk in chunks]


def _part_of(chunk: Any) -> _parts.Part:
  # By the name of the class, or of the base class, that is known.
  for base in type(chunk).__mro__:
    if base.__name__ in _KINDS:
      return _KINDS[base.__name__](chunk)
  raise ValueError(
    f'The conversation has a {type(chunk).__name__}, for which no model '
    f'has tags: they know {", ".join(_KINDS)}.'
  )


def _data_of(chunk: Any) -> Any:
  """What an `Image` was made from; None if that is missing."""
  match chunk.data:
    case np.ndarray():
      return chunk.data
    case object(path=path):
      return os.fspath(path)
    case object(url=url):
      return _content.data_url(url, 'An image of the conversation')
    case object(data=data):
      return data
    case _:
      return None
