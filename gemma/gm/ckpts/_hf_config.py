"""Hugging Face `config.json` to `TransformerConfig`, and back.

Files differ in age and completeness: a key may be missing (then the default of
the Hugging Face class holds), or have an older name.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from gemma.gm.ckpts import _fields
from gemma.gm.ckpts import _hf_keys
from gemma.gm.ckpts import _hf_layers
from gemma.gm.ckpts import _hf_newer
from gemma.gm.ckpts import _hf_rope
from gemma.gm.ckpts import _hf_vision
from gemma.gm.nn import _config

# The text model in a file with several.
_TEXT_OF = {
  'gemma3': 'gemma3_text',
  'gemma3n': 'gemma3n_text',
  'gemma4': 'gemma4_text',
  'gemma4_unified': 'gemma4_unified_text',
}
_MEDIA = 'vision_config', 'audio_config'
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
  model_type, text = text_part(config)
  read = _hf_keys.TEXT[model_type].check(text)
  file = {**_DEFAULTS, **_hf_newer.DEFAULTS}[model_type] | read
  _hf_layers.check_heads(file)
  try:
    if model_type in _DEFAULTS:
      vision = {} if text_only else _hf_vision.from_hf(config)
      return dataclasses.replace(_older(model_type, file), **vision)
    _refuse_media(config, text_only)
    return _hf_newer.from_hf(model_type, file, file.get(_TOKENS))
  except ValueError as e:
    if 'config.json' in str(e):
      raise
    # Fields of `TransformerConfig` that are known by other names in the file.
    raise ValueError(f'config.json describes no model: {e}') from e


def _older(
  model_type: str, file: Mapping[str, Any]
) -> _config.TransformerConfig:
  """Gemma 1, 2 and 3, from a file with defaults."""
  gemma1, gemma3 = model_type == 'gemma', model_type == 'gemma3_text'
  rows, tokens = file['vocab_size'], file.get(_TOKENS)
  kinds = _hf_layers.attention_types(
    file, reads_pattern=gemma3, last_is_global=False
  )
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
    attention_types=kinds,
    query_scale=None if gemma1 else _query_scale(model_type, file),
    attn_logits_soft_cap=None if gemma3 else file.get('attn_logit_softcapping'),
    sliding_window_size=None if gemma1 else file['sliding_window'],
    # The storage order of the released Orbax files, so that trees agree.
    transpose_gating_einsum=gemma3
    or (model_type == 'gemma2' and file['hidden_size'] != 2304),
    use_qk_norm=gemma3,
    norm_eps=file['rms_norm_eps'],
    vocab_size=None if tokens == rows else tokens,
    **_hf_rope.from_hf(model_type, file),
  )


def text_part(config: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
  """The text model of a `config.json`: its type, and its keys.

  Raises:
    ValueError: If the type is unknown, or keys beside the text model are not
      supported.
  """
  given = config.get('model_type')
  whole = _hf_keys.WHOLE.get(given) if isinstance(given, str) else None
  if whole is None:
    if not isinstance(given, str) or given not in _hf_keys.TEXT:
      raise ValueError(
        f'model_type={_fields.shown(given)} in config.json is not one of '
        f'{[*_hf_keys.TEXT, *_hf_keys.WHOLE]}.'
      )
    return given, config
  whole.check(config)
  model_type, text = _TEXT_OF[str(given)], config['text_config']
  if text.get('model_type', model_type) != model_type:
    raise ValueError(
      f'model_type={_fields.shown(text["model_type"])} in text_config of '
      f'config.json must be {model_type!r} in a {given!r} model.'
    )
  return model_type, text


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
    **_hf_rope.to_hf(config, family),
  }
  if gemma2 or gemma3:
    out |= {
      'layer_types': [_hf_rope.NAMES[kind] for kind in config.attention_types],
      'sliding_window': config.sliding_window_size,
      'query_pre_attn_scalar': _exact(config.query_pre_attn_scalar() ** -2),
      'attn_logit_softcapping': config.attn_logits_soft_cap,
      'final_logit_softcapping': config.final_logit_softcap,
    }
  return _finish(config, out)


def _finish(
  config: _config.TransformerConfig, out: dict[str, Any]
) -> dict[str, Any]:
  """The file, with what all generations have, once it is known to be right."""
  if config.vocab_size is not None:
    out[_TOKENS] = config.vocab_size
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


def _query_scale(model_type: str, file: Mapping[str, Any]) -> float | None:
  """Factor on the scores; None where it is the rule, by the head's width."""
  scalar = file['query_pre_attn_scalar']
  # The first files of Gemma 2 9B say 224; its weights were trained with 256.
  if model_type == 'gemma2' and file['hidden_size'] == 3584 and scalar == 224:
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
