"""Nested dicts of parameters as flat ones, with paths for keys."""

from collections.abc import Mapping
from typing import Any

from flax import traverse_util

Path = tuple[str, ...]


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
  """`{'a': {'b': x}}` as `{'a/b': x}`."""
  return traverse_util.flatten_dict(dict(tree), sep='/')


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
  """The inverse of `flatten`."""
  return traverse_util.unflatten_dict(dict(flat), sep='/')


def leaves(tree: Mapping[str, Any]) -> dict[Path, Any]:
  """`{'a': {'b': x}}` as `{('a', 'b'): x}`; dicts with nothing in are dropped.

  Unlike `flatten`, a key may have a slash in it.
  """
  out: dict[Path, Any] = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      out |= {(key, *path): leaf for path, leaf in leaves(value).items()}
    else:
      out[(key,)] = value
  return out


def nest(flat: Mapping[Path, Any]) -> dict[str, Any]:
  """The inverse of `leaves`."""
  return traverse_util.unflatten_dict(dict(flat))
