"""What PEFT has to know of an adapter: `adapter_config.json`."""

from collections.abc import Mapping
import json
import pathlib
import re
from typing import Any

from gemma.gm.nn import _lora

FILE = 'adapter_config.json'
TEXT_TOWER = 'language_model.'  # Where there is another beside it.
# What PEFT can do beyond what is read here, and what it must be.
_ONLY = {
  'use_qalora': False,
  'use_bdlora': None,
  'lora_bias': False,
  'bias': 'none',
  'modules_to_save': None,
  'layer_replication': None,
  'fan_in_fan_out': False,
  'alora_invocation_tokens': None,
  'target_parameters': None,
  'trainable_token_indices': None,
}


def config_of(
  ranks: Mapping[str, int],
  model: _lora.Model,
  *,
  base: str | None,
  use_dora: bool,
) -> dict[str, Any]:
  """What PEFT has to know of adapters of ours.

  Args:
    ranks: Rank of each module.
    model: The model. A `LoRA` has a factor; else it is 1.
    base: Name of the model that they adapt.
    use_dora: Whether they have magnitudes.
  """
  rank = max(ranks.values())
  others = {module: r for module, r in ranks.items() if r != rank}
  alphas = {module: _alpha(model, r) for module, r in others.items()}
  short = {module.rsplit('.', 1)[-1] for module in ranks}
  layers = {module.split('.')[1] for module in ranks}
  # Short names are those of a vision encoder as well.
  text_only = model.config.vision_encoder is None
  whole = text_only and len(ranks) == len(short) * len(layers)
  lora = model if isinstance(model, _lora.LoRA) else None
  return {
    'peft_type': 'LORA',
    'task_type': 'CAUSAL_LM',
    'base_model_name_or_path': base,
    'r': rank,
    'lora_alpha': _alpha(model, rank),
    'use_rslora': lora is not None and lora.use_rslora,
    'use_dora': use_dora,
    'rank_pattern': others,
    'alpha_pattern': alphas,
    'target_modules': sorted(short if whole else ranks),
    'layers_to_transform': sorted(map(int, layers)) if whole else None,
    'lora_dropout': 0.0 if lora is None else lora.dropout,
    'bias': 'none',
    'inference_mode': True,
  }


def factor_of(model: _lora.Model) -> float:
  """What a model multiplies the products of its adapters by."""
  return model.factor if isinstance(model, _lora.LoRA) else 1.0


def factor_in(config: Mapping[str, Any], module: str, rank: int) -> float:
  """What PEFT multiplies the product of an adapter by.

  Args:
    config: Its config.
    module: The module that it adapts.
    rank: Its rank.
  """
  alpha = config['lora_alpha']
  for pattern, value in (config.get('alpha_pattern') or {}).items():
    full = re.compile(rf'(.*\.)?({pattern})')
    if full.fullmatch(module) or full.fullmatch(TEXT_TOWER + module):
      alpha = value
  return alpha / (rank**0.5 if config.get('use_rslora') else rank)


def read_config(folder: pathlib.Path) -> dict[str, Any]:
  """The config in a folder of PEFT.

  Raises:
    FileNotFoundError: If there is none.
    ValueError: If the adapter does more than LoRA and DoRA.
  """
  file = folder / FILE
  if not file.exists():
    raise FileNotFoundError(
      f'No {FILE} in {folder}. Give the folder of an adapter of PEFT.'
    )
  config = json.loads(file.read_text())
  if (kind := config.get('peft_type')) != 'LORA':
    raise ValueError(f'{folder} holds {kind}; only LORA can be read.')
  odd = {
    key: config[key]
    for key, value in _ONLY.items()
    if config.get(key, value) not in (value, [] if value is None else value)
  }
  if odd:
    raise ValueError(
      f'{folder} has more than LoRA: {odd}. Merge it into its base with PEFT '
      '(merge_and_unload), and load the result.'
    )
  return config


def _alpha(model: _lora.Model, rank: int) -> float:
  """The `lora_alpha` with which PEFT has the model's factor."""
  if not isinstance(model, _lora.LoRA) or model.alpha is None:
    return rank
  power = 0.5 if model.use_rslora else 1
  return model.alpha * (rank / model.rank) ** power
