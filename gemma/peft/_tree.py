"""The adapters of a tree apart from the weights, and back together.

An adapter is what lies under a key `lora`: `{'a': ..., 'b': ...}`.
"""

from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

LORA = 'lora'


class SplitParams(NamedTuple):
  """A tree in two.

  Attributes:
    original: All that is no adapter. Dicts that held adapters only are left,
      with nothing in.
    lora: The adapters, at the paths they had.
  """

  original: dict[str, Any]
  lora: dict[str, Any]


def split_params(params: Mapping[str, Any]) -> SplitParams:
  """Takes the adapters out of a tree.

  ```python
  >>> from gemma import peft
  >>> params = {'dense': {'kernel': 1, 'lora': {'a': 2, 'b': 3}}}
  >>> peft.split_params(params).lora
  {'dense': {'lora': {'a': 2, 'b': 3}}}

  ```

  Args:
    params: Nested dicts. Dicts under a key `lora` are the adapters.

  Returns:
    The tree without them, and they alone. `merge_params` is the inverse.
  """
  original: dict[str, Any] = {}
  lora: dict[str, Any] = {}
  for key, value in params.items():
    if not isinstance(value, Mapping):
      original[key] = value
    elif key == LORA:
      lora[key] = value
    else:
      original[key], inner = split_params(value)
      if inner:
        lora[key] = inner
  return SplitParams(original, lora)


def merge_params(
  original: Mapping[str, Any], lora: Mapping[str, Any]
) -> dict[str, Any]:
  """Puts adapters back into a tree; the inverse of `split_params`.

  Args:
    original: The tree without them.
    lora: The adapters, at their paths.

  Raises:
    ValueError: If both have something at the same place.
  """
  merged = dict(original)
  for key, value in lora.items():
    both = key in original
    if both and isinstance(value, Mapping) and isinstance(merged[key], Mapping):
      merged[key] = merge_params(merged[key], value)
    elif both:
      raise ValueError(f'Both trees have {key!r}. Take the adapters out first.')
    else:
      merged[key] = value
  return merged
