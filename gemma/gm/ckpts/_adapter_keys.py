"""`adapter_config.json` of PEFT: each key is read, without effect, or refused.

The keys are the fields of `peft.LoraConfig` up to 0.21.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

import numpy as np

from gemma.gm.ckpts import _adapter_regex
from gemma.gm.ckpts import _adapter_settings
from gemma.gm.ckpts import _fields
from gemma.gm.ckpts import _json_file

FILE = 'adapter_config.json'
_MERGE = 'merge it into its base with PEFT (merge_and_unload), and load that'
_MOST = 100_000  # Entries of a list: modules, layers or tokens.
_LARGEST = float(np.finfo(np.float32).max)

_rank = _fields.integer(1, 2**31 - 1)
_index = _fields.integer(0, 2**31 - 1)
_number = _fields.number(-_LARGEST, _LARGEST)
_texts = _fields.list_of(_fields.TEXT, _MOST)
_indices = _fields.list_of(_index, _MOST)
# Starts that leave the base as it is. Others subtract what an adapter begins
# with from the base; PEFT does so again when it opens the adapter.
_STARTS = ('gaussian', 'orthogonal', 'mica', 'eva')
_start = _fields.Check(
  f'true, false or one of {", ".join(_STARTS)}. Other starts, such as PiSSA, '
  'OLoRA, CorDA, LoftQ and LoRA-GA, change the base: convert the adapter with '
  'PEFT (path_initial_model_for_weight_conversion= of save_pretrained), or '
  + _MERGE,
  lambda x: (
    x is None
    or isinstance(x, bool)
    or (isinstance(x, str) and x.lower() in _STARTS)
  ),
)
_off = _fields.Check(
  f'null or false: such an adapter is more than LoRA; {_MERGE}',
  lambda x: x is None or x is False or x in ([], {}),
)
_READ = {
  'peft_type': _fields.one_of('LORA'),
  'r': _rank,
  'lora_alpha': _number,
  'use_rslora': _fields.FLAG,
  'use_dora': _fields.FLAG,
  'rank_pattern': _fields.pairs_of(_rank) | _fields.NULL,
  'alpha_pattern': _fields.pairs_of(_number) | _fields.NULL,
  'target_modules': _fields.TEXT | _texts,
  'exclude_modules': _fields.TEXT | _texts | _fields.NULL,
  'layers_to_transform': _index | _indices | _fields.NULL,
  'layers_pattern': _fields.TEXT | _texts | _fields.NULL,
  'modules_to_save': _texts | _fields.NULL,
  'trainable_token_indices': (
    _indices | _fields.pairs_of(_indices) | _fields.NULL
  ),
  'ensure_weight_tying': _fields.FLAG,
}
_IGNORED = {
  # Checked: its value decides whether something else in the folder is needed.
  'init_lora_weights': _start,
  # Biases and magnitudes that were trained are tensors, which are read or
  # refused.
  'bias': _fields.one_of('none', 'all', 'lora_only'),
  # Of training.
  'lora_dropout': _fields.number(0, 1),
  # Without effect on linear maps.
  'fan_in_fan_out': _fields.FLAG,
  **dict.fromkeys(
    (
      'alora_invocation_tokens', 'arrow_config', 'kasa_config',
      'layer_replication', 'lora_bias', 'megatron_config', 'monteclora_config',
      'target_parameters', 'use_bdlora', 'use_qalora',
    ),
    _off,
  ),
  # Records, and settings of starts and of what is off.
  **dict.fromkeys(
    (
      'auto_mapping', 'base_model_name_or_path', 'corda_config', 'eva_config',
      'inference_mode', 'loftq_config', 'lora_ga_config', 'megatron_core',
      'peft_version', 'qalora_group_size', 'revision', 'runtime_config',
      'task_type', 'velora_config',
      'lora_dtype', 'lorap_emb_lr', 'lorap_lr_ratio',  # Of ms-swift.
    ),
    _fields.ANYTHING,
  ),
}  # fmt: skip
KEYS = _READ.keys() | _IGNORED.keys()


def read(folder: pathlib.Path) -> _adapter_settings.Settings:
  """The settings in a folder of PEFT.

  Raises:
    FileNotFoundError: If the file is missing.
    ValueError: If a key is missing or has a value that it cannot have, or the
      adapter does more than LoRA and DoRA.
  """
  file = folder / FILE
  if not file.exists():
    raise FileNotFoundError(
      f'No {FILE} in {folder}. Give the folder of an adapter of PEFT.'
    )
  values = _json_file.read_object(file)
  schema = _fields.Schema(
    str(file), _READ, _IGNORED, required=('peft_type', 'target_modules')
  )
  read_ = schema.check(
    {
      key: value
      for key, value in values.items()
      # Switches of newer versions that are off have no effect.
      if key in KEYS or value not in (None, False, [], {}, '')
    }
  )
  _check_pairs(file, read_)
  names = {
    field.name for field in dataclasses.fields(_adapter_settings.Settings)
  }
  settings = _adapter_settings.Settings(
    file=file,
    **{
      key: _normal(key, value)
      for key, value in read_.items()
      if key in names and value is not None
    },
  )
  _check_patterns(settings)
  return settings


def _normal(key: str, value: Any) -> Any:
  """A value as `Settings` has it: one that is not in a list gets one."""
  if key == 'layers_pattern' and isinstance(value, str):
    return [value] if value else []
  if key == 'layers_to_transform' and isinstance(value, int):
    return [value]
  if key == 'trainable_token_indices' and isinstance(value, list):
    return {'embed_tokens': value}
  return value


def _check_pairs(file: pathlib.Path, values: Mapping[str, Any]) -> None:
  """Raises on keys that exclude or need each other, as PEFT does."""
  targets, layers = values['target_modules'], 'layers_to_transform'
  for key in (layers, 'layers_pattern'):
    if isinstance(targets, str) and values.get(key) is not None:
      raise ValueError(
        f'{key}={_fields.shown(values[key])} in {file} needs target_modules '
        f'that are a list, not {_fields.shown(targets)}. Remove one of them.'
      )
  pattern = values.get('layers_pattern')
  if pattern and values.get(layers) is None:
    raise ValueError(
      f'layers_pattern={_fields.shown(pattern)} in {file} needs {layers}.'
    )


def _check_patterns(settings: _adapter_settings.Settings) -> None:
  """Raises on what is no regular expression where PEFT takes one."""
  for key, own, made in _patterns(settings):
    if problem := _adapter_regex.problem_of(made):
      raise ValueError(
        f'{key} in {settings.file}: {_fields.shown(own)} {problem}.'
      )


def _patterns(
  settings: _adapter_settings.Settings,
) -> Iterator[tuple[str, str, str]]:
  """Keys, their regular expressions, and what PEFT makes of them."""
  for key in ('target_modules', 'exclude_modules'):
    value = vars(settings)[key]
    if isinstance(value, str):
      yield key, value, value
  for key, made in (
    ('rank_pattern', _adapter_settings.ending_in),
    ('alpha_pattern', _adapter_settings.ending_in),
    ('layers_pattern', _adapter_settings.before_layer),
    ('modules_to_save', _adapter_settings.around),
  ):
    for own in vars(settings)[key]:
      yield key, own, made(own)
