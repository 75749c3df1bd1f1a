"""Which layers of a `config.json` are local and which global."""

from collections.abc import Mapping
from typing import Any

from gemma.gm.ckpts import _hf_rope
from gemma.gm.nn import _config

_LOCAL = _config.AttentionType.LOCAL_SLIDING
_GLOBAL = _config.AttentionType.GLOBAL
_PATTERNS = 'sliding_window_pattern', '_sliding_window_pattern'


def attention_types(
  file: Mapping[str, Any],
  *,
  reads_pattern: bool = False,
  last_is_global: bool,
) -> tuple[_config.AttentionType, ...]:
  """Layer by layer, or by the period of the global layers.

  Args:
    file: The part of the file about the text model, with defaults.
    reads_pattern: Whether `sliding_window_pattern` is the period: Gemma 3.
    last_is_global: Whether the last layer is global whatever the file says, as
      in Gemma 4.

  Raises:
    ValueError: If the number of layers is not that of the file, or local layers
      have no window.
  """
  layers, names = file['num_hidden_layers'], file.get('layer_types')
  if names is None:
    period = _period(file, reads_pattern=reads_pattern)
    pattern = (_LOCAL,) * (period - 1) + (_GLOBAL,)
    kinds = _config.make_attention_layers_types(pattern, num_layers=layers)
  elif len(names) != layers:
    raise ValueError(
      f'layer_types in config.json names {len(names)} layers, '
      f'num_hidden_layers is {layers}. They must agree.'
    )
  else:
    kinds = tuple(_hf_rope.KINDS[name] for name in names)
  if last_is_global:
    kinds = (*kinds[:-1], _GLOBAL)
  if _LOCAL in kinds and file.get('sliding_window') is None:
    raise ValueError(
      'sliding_window=None in config.json, but layer_types has local layers. '
      'Give the number of tokens that they see.'
    )
  return kinds


def _period(file: Mapping[str, Any], *, reads_pattern: bool) -> int:
  period = file['period']
  if reads_pattern and file.get(_PATTERNS[0]) is not None:
    return file[_PATTERNS[0]]
  for key in _PATTERNS:
    if file.get(key) not in (None, period):
      raise ValueError(
        f'{key}={file[key]} in config.json has no effect in transformers, '
        f'where one layer in {period} is global. Give layer_types.'
      )
  return period


def check_heads(file: Mapping[str, Any]) -> None:
  """Raises on numbers of heads that no model has, by the keys of the file."""
  heads, shared = file['num_attention_heads'], file['num_key_value_heads']
  if heads % shared:
    raise ValueError(
      f'num_attention_heads={heads} in config.json is not a multiple of '
      f'num_key_value_heads={shared}: heads cannot share keys evenly.'
    )
  if file['head_dim'] % 2:
    raise ValueError(
      f'head_dim={file["head_dim"]} in config.json must be even for RoPE.'
    )
