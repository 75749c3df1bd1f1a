"""Hugging Face `config.json` to `TransformerConfig`, and back.

Files differ in age and completeness: a key may be missing (then the default of
the Hugging Face class holds), or have an older name.
"""

from collections.abc import Mapping
from typing import Any

from gemma.gm.ckpts import _hf_newer
from gemma.gm.ckpts import _hf_vision
from gemma.gm.nn import _config

_LOCAL = _config.AttentionType.LOCAL_SLIDING
_GLOBAL = _config.AttentionType.GLOBAL
_KINDS = {'sliding_attention': _LOCAL, 'full_attention': _GLOBAL}
# The text model in a file with several.
_TEXT_OF = {
  'gemma3': 'gemma3_text',
  'gemma3n': 'gemma3n_text',
  'gemma4': 'gemma4_text',
  'gemma4_unified': 'gemma4_text',
  'gemma4_unified_text': 'gemma4_text',
}
_MEDIA = 'vision_config', 'audio_config'
_TANH_GELU = (None, 'gelu', 'gelu_pytorch_tanh')
# The published Gemma 3 tables with image ids and padding behind the text.
_PADDED_ROWS, _TEXT_ROWS = 262_208, 262_144
_TOKENS = 'num_tokens'  # A key of ours: rows that stand for a token.

# Defaults of the Hugging Face classes; `period` is that of the global layers.
_COMMON = {
  'num_attention_heads': 8,
  'num_key_value_heads': 4,
  'head_dim': 256,
  'hidden_size': 2304,
  'intermediate_size': 9216,
  'num_hidden_layers': 26,
  'rms_norm_eps': 1e-6,
  'max_position_embeddings': 8192,
}
_DEFAULTS: dict[str, dict[str, Any]] = {
  'gemma': _COMMON
  | {
    'vocab_size': 256_000,
    'hidden_size': 3072,
    'intermediate_size': 24576,
    'num_hidden_layers': 28,
    'num_attention_heads': 16,
    'num_key_value_heads': 16,
    'period': 1,
    'rope_theta': 10_000.0,
  },
  'gemma2': _COMMON
  | {
    'vocab_size': 256_000,
    'period': 2,
    'rope_theta': 10_000.0,
    'sliding_window': 4096,
    'query_pre_attn_scalar': 256,
    'attn_logit_softcapping': 50.0,
    'final_logit_softcapping': 30.0,
  },
  'gemma3_text': _COMMON
  | {
    'vocab_size': 262_208,
    'period': 6,
    'rope_theta': 1_000_000.0,
    'rope_local_base_freq': 10_000.0,
    'sliding_window': 4096,
    'query_pre_attn_scalar': 256,
    'max_position_embeddings': 131_072,
  },
}


def from_hf(
  config: Mapping[str, Any], *, text_only: bool = False
) -> _config.TransformerConfig:
  """The architecture that a `config.json` describes.

  Args:
    config: The parsed file.
    text_only: Whether to leave out a vision encoder.

  Returns:
    The config of the model.

  Raises:
    ValueError: If the file asks for something that no Gemma model has; the
      message names the key.
  """
  file = dict(config.get('text_config', config))
  model_type = str(config.get('model_type'))
  model_type = _TEXT_OF.get(model_type, model_type)
  if model_type in _hf_newer.DEFAULTS:
    _refuse_media(config, text_only)
    file = _hf_newer.DEFAULTS[model_type] | file
    _refuse_unknown(file)
    return _hf_newer.from_hf(model_type, file, file.get(_TOKENS))
  if model_type not in _DEFAULTS:
    raise ValueError(
      f'model_type={model_type!r} in config.json is not one of '
      f'{[*_DEFAULTS, *_hf_newer.DEFAULTS, *_TEXT_OF]}.'
    )
  vision = {} if text_only else _hf_vision.from_hf(config)
  file = _DEFAULTS[model_type] | file
  _refuse_unknown(file)
  gemma1, gemma3 = model_type == 'gemma', model_type == 'gemma3_text'
  rows, tokens = file['vocab_size'], file.get(_TOKENS)
  if gemma3 and rows == _PADDED_ROWS and tokens is None:
    rows = _TEXT_ROWS
  local_base, global_base, factor = _rope(file)
  return _config.TransformerConfig(
    num_embed=rows,
    embed_dim=file['hidden_size'],
    hidden_dim=file['intermediate_size'],
    num_heads=file['num_attention_heads'],
    head_dim=file['head_dim'],
    num_kv_heads=file['num_key_value_heads'],
    final_logit_softcap=file.get('final_logit_softcapping'),
    use_post_attn_norm=not gemma1,
    use_post_ffw_norm=not gemma1,
    attention_types=_attention_types(file),
    query_scale=None if gemma1 else _query_scale(model_type, file),
    attn_logits_soft_cap=None if gemma3 else file.get('attn_logit_softcapping'),
    sliding_window_size=None if gemma1 else file['sliding_window'],
    # The storage order of the released Orbax files, so that trees agree.
    transpose_gating_einsum=gemma3
    or (model_type == 'gemma2' and file['hidden_size'] != 2304),
    use_qk_norm=gemma3,
    local_base_frequency=local_base,
    global_base_frequency=global_base,
    global_scale_factor=factor,
    norm_eps=file['rms_norm_eps'],
    vocab_size=None if tokens == rows else tokens,
    **vision,
  )


def to_hf(config: _config.TransformerConfig) -> dict[str, Any]:
  """The `config.json` of a model; `from_hf` reads it back.

  Raises:
    ValueError: If no Hugging Face Gemma class can hold the config.
  """
  if not config.zero_centered_norms:
    return _finish(config, _hf_newer.to_hf(config))
  gemma3 = config.use_qk_norm
  gemma2 = config.use_post_attn_norm and not gemma3
  name, family = 'Gemma', 'gemma'
  if gemma3:
    name, family = 'Gemma3', 'gemma3_text'
  elif gemma2:
    name, family = 'Gemma2', 'gemma2'
  names = {kind: key for key, kind in _KINDS.items()}
  out = {
    'architectures': [f'{name}ForCausalLM'],
    'model_type': family,
    'vocab_size': config.num_embed,
    'hidden_size': config.embed_dim,
    'intermediate_size': config.hidden_dim,
    'num_hidden_layers': config.num_layers,
    'num_attention_heads': config.num_heads,
    'num_key_value_heads': config.num_kv_heads,
    'head_dim': config.head_dim,
    'hidden_activation': 'gelu_pytorch_tanh',
    'rms_norm_eps': config.norm_eps,
    'max_position_embeddings': _DEFAULTS[family]['max_position_embeddings'],
    'tie_word_embeddings': True,
    'attention_bias': False,
    'pad_token_id': 0,
    'eos_token_id': 1,
    'bos_token_id': 2,
    'rope_theta': config.global_base_frequency,
  }
  if gemma2 or gemma3:
    out |= {
      'layer_types': [names[kind] for kind in config.attention_types],
      'sliding_window': config.sliding_window_size,
      'query_pre_attn_scalar': _exact(config.query_pre_attn_scalar() ** -2),
      'attn_logit_softcapping': config.attn_logits_soft_cap,
      'final_logit_softcapping': config.final_logit_softcap,
    }
  if gemma3:
    out['rope_local_base_freq'] = config.local_base_frequency
    if config.global_scale_factor != 1:
      out['rope_scaling'] = {
        'rope_type': 'linear',
        'factor': config.global_scale_factor,
      }
  return _finish(config, out)


def _finish(
  config: _config.TransformerConfig, out: dict[str, Any]
) -> dict[str, Any]:
  """The file, with what all generations have, once it is known to be right."""
  padded = _PADDED_ROWS, _hf_newer.PADDED_ROWS
  if config.vocab_size is not None or config.num_embed in padded:
    out[_TOKENS] = config.vocab_size or config.num_embed
  _check_inverse(config, out)
  out['vocab_size'] += padding_rows(config)
  if config.vision_encoder is None:
    return out
  return _hf_vision.to_hf(config, out)


def padding_rows(config: _config.TransformerConfig) -> int:
  """Rows that a folder has behind those of the model.

  Folders of the sizes with vision have a row for the id of soft tokens, and
  some more.
  """
  if config.num_embed != _TEXT_ROWS or config.vocab_size is not None:
    return 0
  if config.altup is not None:
    return _hf_newer.PADDED_ROWS - _TEXT_ROWS
  return 0 if config.vision_encoder is None else _PADDED_ROWS - _TEXT_ROWS


def _refuse_media(config: Mapping[str, Any], text_only: bool) -> None:
  """Raises on encoders that we do not have, unless they are to be left out."""
  media = [key for key in _MEDIA if config.get(key) is not None]
  if media and not text_only:
    raise ValueError(
      f'config.json has {media}: the encoders of {config["model_type"]} are '
      'not supported yet. Pass text_only=True to load the text model.'
    )


def _refuse_unknown(file: Mapping[str, Any]) -> None:
  """Raises on switches that would change the numbers without being heard."""
  activation = file.get('hidden_activation', file.get('hidden_act'))
  refused = {
    'hidden_activation': activation not in _TANH_GELU,
    'tie_word_embeddings': not file.get('tie_word_embeddings', True),
    'attention_bias': bool(file.get('attention_bias')),
    'use_bidirectional_attention': file.get('use_bidirectional_attention')
    not in (None, False, 'vision'),
    'quantization_config': file.get('quantization_config') is not None,
  }
  for key, refuse in refused.items():
    if refuse:
      raise ValueError(
        f'{key}={file.get(key)!r} in config.json is not supported: Gemma text '
        'models have tied embeddings, no biases, tanh GeLU, causal attention '
        'and plain weights.'
      )


def _attention_types(
  file: Mapping[str, Any],
) -> tuple[_config.AttentionType, ...]:
  """Layer by layer, or by the period of the global layers."""
  layers = file['num_hidden_layers']
  if file.get('layer_types'):
    kinds = tuple(_KINDS[kind] for kind in file['layer_types'])
    if len(kinds) != layers:
      raise ValueError(
        f'layer_types in config.json names {len(kinds)} layers, '
        f'num_hidden_layers is {layers}. They must agree.'
      )
    return kinds
  period = file.get('sliding_window_pattern') or file.get(
    '_sliding_window_pattern', file['period']
  )
  pattern = (_LOCAL,) * (period - 1) + (_GLOBAL,)
  return _config.make_attention_layers_types(pattern, num_layers=layers)


def _rope(file: Mapping[str, Any]) -> tuple[float, float, float]:
  """Base of the local layers, base and factor of the global layers."""
  nested = file.get('rope_parameters') or {}
  full = nested.get('full_attention', nested)
  sliding = nested.get('sliding_attention', nested)
  base = full.get('rope_theta', file['rope_theta'])
  local_base = sliding.get('rope_theta', file.get('rope_local_base_freq', base))
  scaling = full if 'rope_type' in full else file.get('rope_scaling') or {}
  kind = scaling.get('rope_type', scaling.get('type', 'default'))
  if kind not in ('default', 'linear'):
    raise ValueError(
      f'rope_type={kind!r} in config.json is not one of default, linear.'
    )
  factor = scaling.get('factor', 1.0) if kind == 'linear' else 1.0
  return local_base, base, factor


def _query_scale(model_type: str, file: Mapping[str, Any]) -> float | None:
  """Factor on the scores; None where it is the rule, by the head's width."""
  scalar = file['query_pre_attn_scalar']
  # The first files of Gemma 2 9B say 224; its weights were trained with 256.
  if model_type == 'gemma2' and file['hidden_size'] == 3584:
    scalar = 256
  return None if scalar == file['head_dim'] else scalar**-0.5


def _exact(scalar: float) -> float:
  """Undoes the rounding of `(x ** -0.5) ** -2` where `x` was whole."""
  return round(scalar) if abs(scalar - round(scalar)) < 1e-6 else scalar


def _check_inverse(
  config: _config.TransformerConfig, out: Mapping[str, Any]
) -> None:
  """Raises if reading the file would not give the same layers back."""
  back = from_hf(out)
  for mine, theirs in zip(config.layers(), back.layers(), strict=True):
    for field, value in vars(mine).items():
      same = value == vars(theirs)[field]
      if field == 'query_scale':
        same = abs(value - theirs.query_scale) < 1e-9
      if field not in ('ffw', 'fused_qkv') and not same:
        raise ValueError(
          f'{field}={value!r} has no place in a Hugging Face '
          f'{out["model_type"]} config.'
        )
