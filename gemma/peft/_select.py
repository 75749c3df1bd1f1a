"""Parameters chosen by the pattern of their paths."""

from collections.abc import Iterable
from collections.abc import Mapping
import re
from typing import Any

from flax import traverse_util
import jax.numpy as jnp

Path = tuple[str, ...]


def select(
  params: Mapping[str, Any], patterns: str | Iterable[str] | None
) -> set[Path]:
  """Paths of the parameters to train.

  Args:
    params: Nested dicts of arrays or shapes.
    patterns: Regular expressions; a parameter is chosen if its path, as
      `layer_0/attn/q_einsum/w`, has a match of one. `'lora'` is all adapters.
      None is everything.

  Raises:
    ValueError: If a pattern matches nothing, or integers would be trained.
  """
  flat = traverse_util.flatten_dict(params)
  patterns = [patterns] if isinstance(patterns, str) else patterns
  patterns = [''] if patterns is None else list(patterns)
  if not flat or not patterns:
    raise ValueError(f'Nothing to train: {len(flat)} parameters, {patterns=}.')
  names = {path: '/'.join(path) for path in flat}
  for pattern in patterns:
    if not any(re.search(pattern, name) for name in names.values()):
      hint = ''
      if pattern == 'lora':
        hint = ' Make adapters first: peft.init_lora, then peft.merge_params.'
      raise ValueError(
        f'trainable={pattern!r} matches none of {len(flat)} parameters. Their '
        f'paths are as {next(iter(names.values()))!r}.{hint}'
      )
  chosen = {
    path
    for path, name in names.items()
    if any(re.search(pattern, name) for pattern in patterns)
  }
  for path in chosen:
    if not jnp.issubdtype(flat[path].dtype, jnp.floating):
      raise ValueError(
        f'{names[path]} is {flat[path].dtype}, and integers have no gradient. '
        "Train adapters instead (trainable='lora'), or choose other paths."
      )
  return chosen
