"""RoPE in a `config.json`, and back.

Three spellings: `rope_parameters` with an object for each kind of layer (Gemma
3 and newer) or one for all (Gemma 1 and 2), and the older `rope_theta`,
`rope_local_base_freq` and `rope_scaling`. What is computed here are the types
`default`, `linear` and, where some pairs do not turn, `proportional`.
"""

from collections.abc import Mapping
from typing import Any

from gemma.gm.ckpts import _fields
from gemma.gm.math import _rope
from gemma.gm.nn import _config

_SLIDING, _FULL = 'sliding_attention', 'full_attention'
KINDS = {
  _SLIDING: _config.AttentionType.LOCAL_SLIDING,
  _FULL: _config.AttentionType.GLOBAL,
}
NAMES = {kind: name for name, kind in KINDS.items()}
_THETA = {_SLIDING: 10_000.0, _FULL: 1_000_000.0}
_OLD_THETA = {_SLIDING: 'rope_local_base_freq', _FULL: 'rope_theta'}
_base = _fields.above(0)
_factor = _fields.number(1)
_share = _fields.number(0, 1)
_none = _fields.NULL
_whole = _fields.one_of(1, 1.0, None)
# The keys of each type; others change the frequencies, and are refused.
_TYPES: dict[str, dict[str, _fields.Check]] = {
  'default': {
    'factor': _fields.one_of(1, 1.0, None),
    'partial_rotary_factor': _whole,
  },
  'linear': {'factor': _factor, 'partial_rotary_factor': _whole},
  'proportional': {
    'factor': _factor,
    'partial_rotary_factor': _share | _none,
  },
}


def from_hf(model_type: str, file: Mapping[str, Any]) -> dict[str, Any]:
  """The RoPE fields of a `TransformerConfig`.

  Args:
    model_type: That of the text model.
    file: The part of the file about it, with defaults.

  Raises:
    ValueError: If the file asks for another RoPE; the message names the key.
  """
  kinds = _KINDS_OF[model_type](file)
  local, full = (_read(*kinds[kind]) for kind in (_SLIDING, _FULL))
  if local.proportion != 1:
    raise ValueError(
      f'partial_rotary_factor={local.proportion} of sliding_attention in '
      'config.json is not supported: all pairs of sliding layers turn. It must '
      'be 1.'
    )
  return {
    'local_base_frequency': local.base,
    'local_scale_factor': local.scale_factor,
    'global_base_frequency': full.base,
    'global_scale_factor': full.scale_factor,
    'global_rope_proportion': full.proportion,
  }


_Place = tuple[str, Mapping[str, Any]]  # Where it is, and what is there.


def _one_for_all(file: Mapping[str, Any]) -> dict[str, _Place]:
  """Gemma 1 and 2: all layers have the same."""
  name = 'rope_scaling' if file.get('rope_scaling') else 'rope_parameters'
  _refuse_both(file)
  given = file.get(name) or {}
  theta = file.get('rope_theta')
  values = {'rope_theta': _THETA[_SLIDING] if theta is None else theta, **given}
  return dict.fromkeys(KINDS, (name, values))


def _by_kind(file: Mapping[str, Any]) -> dict[str, _Place]:
  """Gemma 3 and 3n: `rope_scaling` is that of the global layers."""
  _refuse_both(file)
  nested = _nested(file)
  scaling = file.get('rope_scaling') or {}
  if 'type' in scaling and 'rope_type' not in scaling:
    raise ValueError(
      f'type={_fields.shown(scaling["type"])} in rope_scaling of config.json '
      'is read by some versions of transformers only. Call it rope_type.'
    )
  out: dict[str, _Place] = {}
  for kind in KINDS:
    theta = file.get(_OLD_THETA[kind])
    name, more = f'rope_parameters.{kind}', nested.get(kind) or {}
    if kind == _FULL and scaling:
      name, more = 'rope_scaling', scaling
    values = {'rope_theta': _THETA[kind] if theta is None else theta, **more}
    out[kind] = name, values
  return out


def _by_kind_alone(file: Mapping[str, Any]) -> dict[str, _Place]:
  """Gemma 4: `rope_parameters` is there as a whole, or not at all."""
  for key in ('rope_scaling', *_OLD_THETA.values()):
    if file.get(key) is not None:
      raise ValueError(
        f'{key}={_fields.shown(file[key])} in config.json is not read by Gemma '
        '4. Write it into rope_parameters.'
      )
  if file.get('rope_parameters') is None:
    full = {'rope_type': 'proportional', 'partial_rotary_factor': 0.25}
    defaults: dict[str, dict[str, Any]] = {_SLIDING: {}, _FULL: full}
  else:
    defaults = {}
    for kind, values in _nested(file).items():
      if values is None or values.get('rope_theta') is None:
        raise ValueError(
          f'rope_theta is missing in rope_parameters.{kind} of config.json.'
        )
      defaults[kind] = dict(values)
    for kind in set(KINDS) - set(defaults):
      if KINDS[kind] in file['kinds']:
        raise ValueError(
          f'{kind} is missing in rope_parameters of config.json, but '
          'layer_types has it.'
        )
  return {
    kind: (
      f'rope_parameters.{kind}',
      {'rope_theta': _THETA[kind], **defaults.get(kind, {})},
    )
    for kind in KINDS
  }


_KINDS_OF = {
  'gemma': _one_for_all,
  'gemma2': _one_for_all,
  'gemma3_text': _by_kind,
  'gemma3n_text': _by_kind,
  'gemma4_text': _by_kind_alone,
  'gemma4_unified_text': _by_kind_alone,
}


def _nested(file: Mapping[str, Any]) -> Mapping[str, Any]:
  """`rope_parameters`, an object for each kind of layer."""
  nested = file.get('rope_parameters') or {}
  for kind, values in nested.items():
    if kind not in KINDS or not isinstance(values, Mapping | None):
      raise ValueError(
        f'{kind}={_fields.shown(values)} in rope_parameters of config.json is '
        f'not supported. It must hold an object for each of {[*KINDS]}.'
      )
  return nested


def _refuse_both(file: Mapping[str, Any]) -> None:
  if file.get('rope_scaling') and file.get('rope_parameters'):
    raise ValueError(
      f'rope_scaling={_fields.shown(file["rope_scaling"])} in config.json '
      'stands beside rope_parameters. Keep one of them.'
    )


def _read(name: str, values: Mapping[str, Any]) -> _rope.Rope:
  """One object, whose keys depend on its type."""
  where = f'{name} of config.json'
  kind = values.get('rope_type', values.get('type', 'default'))
  if values.get('type', kind) != kind:
    raise ValueError(
      f'type={_fields.shown(values["type"])} in {where}, but rope_type='
      f'{_fields.shown(kind)}. Remove type.'
    )
  if not isinstance(kind, str) or kind not in _TYPES:
    raise ValueError(
      f'rope_type={_fields.shown(kind)} in {where} is not one of '
      f'{", ".join(_TYPES)}.'
    )
  keys = _TYPES[kind]
  _fields.Schema(
    where,
    keys
    | {'rope_theta': _base, 'rope_type': _fields.TEXT, 'type': _fields.TEXT},
    required=('factor',) if kind == 'linear' else (),
    unknown='refuse',
  ).check(values)
  share = values.get('partial_rotary_factor')
  return _rope.Rope(
    base=values['rope_theta'],
    scale_factor=values.get('factor') or 1.0,
    proportion=1.0 if share is None else share,
  )


def to_hf(config: _config.TransformerConfig, family: str) -> dict[str, Any]:
  """The keys of a file; the older spelling where it can say it.

  Args:
    config: The config of the model.
    family: The `model_type` of the text model.
  """
  local_factor, factor = config.local_scale_factor, config.global_scale_factor
  linear = {'rope_type': 'linear', 'factor': factor}
  if family in ('gemma', 'gemma2'):
    out = {'rope_theta': config.global_base_frequency}
    return out if factor == 1 else out | {'rope_scaling': linear}
  plain = local_factor == 1 and config.global_rope_proportion == 1
  if family == 'gemma3_text' and plain:
    out = {
      'rope_theta': config.global_base_frequency,
      'rope_local_base_freq': config.local_base_frequency,
    }
    return out if factor == 1 else out | {'rope_scaling': linear}
  full = _object(config.global_base_frequency, factor)
  if family == 'gemma4_text' or config.global_rope_proportion != 1:
    full |= {
      'rope_type': 'proportional',
      'partial_rotary_factor': config.global_rope_proportion,
    }
  local = _object(config.local_base_frequency, local_factor)
  return {'rope_parameters': {_SLIDING: local, _FULL: full}}


def _object(base: float, factor: float) -> dict[str, Any]:
  out = {'rope_type': 'default', 'rope_theta': base}
  return (
    out if factor == 1 else {**out, 'rope_type': 'linear', 'factor': factor}
  )
