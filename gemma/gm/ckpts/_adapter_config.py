"""The `adapter_config.json` of adapters of ours."""

from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import pathlib
import re
from typing import Any

from gemma.gm.ckpts import _adapter_keys
from gemma.gm.ckpts import _adapter_settings
from gemma.gm.ckpts import _hf_layout
from gemma.gm.ckpts import _hub
from gemma.gm.nn import _config
from gemma.gm.nn import _lora

FILE = _adapter_keys.FILE
_LAYER = re.compile(r'\.layers\.(\d+)\.')


@dataclasses.dataclass(frozen=True)
class Names:
  """The names of modules in the base of an adapter.

  Attributes:
    multimodal: Whether the base has encoders, and its text model another name.
  """

  multimodal: bool

  def full(self, module: str) -> str:
    """The full name of a module, from its name in a text model."""
    if not self.multimodal or _hf_layout.is_media(module):
      return f'model.{module}'
    return f'model.language_model.{module}'


def names_of(
  config: _config.TransformerConfig, multimodal: bool | None = None
) -> Names:
  """The names of modules in the base of a model.

  Args:
    config: The config of the model.
    multimodal: Whether the base has encoders, if it is known.
  """
  if multimodal is None:
    origin = config.origin or _config.Origin()
    multimodal = config.vision_encoder is not None or origin.multimodal
  return Names(multimodal=multimodal)


def config_of(
  ranks: Mapping[str, int],
  model: _lora.Model,
  *,
  known: Iterable[str],
  names: Names,
  base: str | None,
  use_dora: bool,
) -> dict[str, Any]:
  """The config with which PEFT computes what a model with adapters does.

  Args:
    ranks: Rank of each module, by its full name.
    model: The model. A `LoRA` has a factor; else it is 1.
    known: The full names of all modules that could have an adapter.
    names: The names of the base.
    base: The base, for those that look it up.
    use_dora: Whether adapters have magnitudes.
  """
  rank = max(ranks.values())
  others = {_end(module): r for module, r in ranks.items() if r != rank}
  lora = model if isinstance(model, _lora.LoRA) else None
  return {
    'peft_type': 'LORA',
    'task_type': 'CAUSAL_LM',
    **_base(base, model.config.origin),
    'r': rank,
    'lora_alpha': _alpha(model, rank),
    'use_rslora': lora is not None and lora.use_rslora,
    'use_dora': use_dora,
    'rank_pattern': others,
    'alpha_pattern': {m: _alpha(model, r) for m, r in others.items()},
    **_targets(ranks, [*known], names),
    'lora_dropout': 0.0 if lora is None else lora.dropout,
    'bias': 'none',
    'inference_mode': True,
  }


def factor_of(model: _lora.Model) -> float:
  """The factor of a model on the products of its adapters."""
  return model.factor if isinstance(model, _lora.LoRA) else 1.0


def _base(base: str | None, origin: _config.Origin | None) -> dict[str, Any]:
  """The name of the base, and its revision if it is on the Hub."""
  if base is None and origin is not None:
    base = origin.path
  name, revision = base, None
  if base is not None and _hub.is_hub(base):
    name, _, revision = _hub.name_of(base).partition('@')
  return {'base_model_name_or_path': name, 'revision': revision or None}


def _targets(
  modules: Iterable[str], known: list[str], names: Names
) -> dict[str, Any]:
  """Keys that choose these modules: short names if they choose no others.

  Of a base with encoders not all modules are known.
  """
  full = {*modules}
  short = sorted({module.rsplit('.', 1)[-1] for module in full})
  layers = sorted({int(n) for m in full for n in _LAYER.findall(m)[:1]})
  for chosen in (None, layers):
    settings = _adapter_settings.Settings(
      file=pathlib.Path(FILE),
      target_modules=short,
      layers_to_transform=chosen or (),
    )
    if not names.multimodal and settings.targets(known) == full:
      return {'target_modules': short, 'layers_to_transform': chosen}
  return {
    'target_modules': sorted(map(_end, full)),
    'layers_to_transform': None,
  }


def _end(module: str) -> str:
  """The end of a full name that no other module has."""
  return module.removeprefix('model.')


def _alpha(model: _lora.Model, rank: int) -> float:
  """The `lora_alpha` with which PEFT has the model's factor."""
  if not isinstance(model, _lora.LoRA) or model.alpha is None:
    return rank
  power = 0.5 if model.use_rslora else 1
  return model.alpha * (rank / model.rank) ** power
