"""Keys of the dicts that people bring: read, without effect, or refused."""

from collections.abc import Collection
from collections.abc import Mapping
import dataclasses
from typing import Any
import warnings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Keys:
  """The keys of one kind of dict.

  Attributes:
    kind: The kind of dict, for the warning.
    read: Keys that are read.
    ignored: Keys that change neither tokens nor training.
    refused: Keys that would change either, each with its fix.
  """

  kind: str
  read: Collection[str]
  ignored: Collection[str] = ()
  refused: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def check(self, where: str, given: Mapping[Any, Any]) -> None:
    """Checks that every key is known; warns of the others.

    Keys without a value are passed over, as tables pad dicts with them.

    Args:
      where: The place of the dict, for errors.
      given: The dict.

    Raises:
      ValueError: If a key is refused, or is not a string.
    """
    for key, value in given.items():
      if not isinstance(key, str):
        raise ValueError(f'{where} has key {key!r}; keys must be strings.')
      if key in self.read or key in self.ignored or is_missing(value):
        continue
      if key in self.refused:
        raise ValueError(
          f'{where} has {key}={short(value)}, which is not supported. '
          f'{self.refused[key]}'
        )
      # The same text for each dict, so that Python shows it once.
      warnings.warn(
        f'{key!r} of {self.kind} is an unknown key and is ignored. Remove it '
        'or rename it.',
        stacklevel=2,
      )


def is_missing(value: Any) -> bool:
  """Whether a value says nothing: None, or an empty text, list or dict."""
  return value is None or (
    isinstance(value, str | bytes | list | tuple | Mapping) and not value
  )


def short(value: Any) -> str:
  """The beginning of a value, for errors."""
  text = repr(value)
  return text if len(text) <= 60 else f'{text[:60]}...'
