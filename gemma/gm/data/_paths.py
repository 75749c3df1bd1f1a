"""Values in an element, by key or by dotted path: `answer`, `qa[0].answer`."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import re
from typing import Any
from typing import TypeAlias

Element: TypeAlias = Mapping[str, Any]

_STEP = re.compile(r'\[(\d+)\]|([^.\[\]]+)')
_MISSING = object()  # None is a value like others.


def has(element: Element, path: str) -> bool:
  """Whether an element has a value at a path."""
  return _find(element, path) is not _MISSING


def read(element: Element, path: str, reader: str) -> Any:
  """The value at a path.

  Args:
    element: The element.
    path: A key, or keys with dots between them and `[i]` for items of a list. A
      key that has dots itself comes first.
    reader: Who wants to know, for the error.

  Raises:
    KeyError: If there is none; with the keys that there are.
  """
  value = _find(element, path)
  if value is _MISSING:
    raise KeyError(
      f'{reader} reads key {path!r}, but the element has '
      f'{keys_of(element)}. Give a key that it has, or make this one in a '
      'transform before.'
    )
  return value


def without(element: Element, paths: Iterable[str]) -> dict[str, Any]:
  """A copy of an element without the values at some paths.

  Dicts that this leaves empty are left out too. The element stays as it is.

  Args:
    element: The element.
    paths: See `read`. Those that it has not are passed over.
  """
  out = dict(element)
  for path in paths:
    if path in out:
      del out[path]
    elif has(out, path):
      _drop(out, _steps(path))
  return out


def with_values(element: Element, values: Element) -> dict[str, Any]:
  """A copy of an element with other values.

  Args:
    element: The element.
    values: The values by their path. A path into what the element has not
      becomes a key as it stands.
  """
  out = dict(element)
  for path, value in values.items():
    parent, _, _ = path.rpartition('.')
    if path not in out and parent and has(out, parent):
      _put(out, _steps(path), value)
    else:
      out[path] = value
  return out


def keys_of(element: Element) -> list[str]:
  """All dotted paths of an element, for errors."""
  out: list[str] = []
  for key, value in element.items():
    if isinstance(value, Mapping) and value:
      out += [f'{key}.{inner}' for inner in keys_of(value)]
    else:
      out.append(str(key))
  return out


def _steps(path: str) -> list[str | int]:
  return [int(index) if index else name for index, name in _STEP.findall(path)]


def _find(element: Any, path: str) -> Any:
  if path in element:
    return element[path]
  for step in _steps(path):
    if isinstance(step, int):
      if not isinstance(element, Sequence) or step >= len(element):
        return _MISSING
    elif not isinstance(element, Mapping) or step not in element:
      return _MISSING
    element = element[step]
  return element


def _copied(parent: Any, step: str | int) -> Any:
  """A copy of what is inside, which takes its place."""
  inner = parent[step]
  parent[step] = dict(inner) if isinstance(inner, Mapping) else list(inner)
  return parent[step]


def _put(parent: Any, steps: Sequence[str | int], value: Any) -> None:
  """Puts a value in; what is on the way to it is copied first."""
  first, *rest = steps
  if rest:
    _put(_copied(parent, first), rest, value)
  else:
    parent[first] = value


def _drop(parent: Any, steps: Sequence[str | int]) -> None:
  """Takes a value out; what is on the way to it is copied first."""
  first, *rest = steps
  if not rest:
    del parent[first]
    return
  _drop(_copied(parent, first), rest)
  if not parent[first]:
    del parent[first]
