"""Gemma 3n and 4 in a Hugging Face `config.json`, and back: the text model."""

from collections.abc import Mapping
from typing import Any

from gemma.gm.ckpts import _fields
from gemma.gm.ckpts import _hf_layers
from gemma.gm.ckpts import _hf_rope
from gemma.gm.nn import _config

_GLOBAL = _config.AttentionType.GLOBAL
_GEMMA3N, _GEMMA4, _UNIFIED = (
  'gemma3n_text',
  'gemma4_text',
  'gemma4_unified_text',
)
# Gemma 3n's table, with rows behind the text that stand for media elsewhere.
PADDED_ROWS, _TEXT_ROWS = 262_400, 262_144
# What a layer may have of its own.
_LAYER = {
  'head_dim': _fields.integer(1, 2**16),
  'num_key_value_heads': _fields.integer(1, 2**16),
}

# Defaults of the Hugging Face classes; `period` is that of the global layers.
_COMMON = {
  'num_attention_heads': 8,
  'head_dim': 256,
  'rms_norm_eps': 1e-6,
  'sliding_window': 512,
  'vocab_size_per_layer_input': _TEXT_ROWS,
  'hidden_size_per_layer_input': 256,
}
DEFAULTS: dict[str, dict[str, Any]] = {
  _GEMMA3N: _COMMON
  | {
    'vocab_size': PADDED_ROWS,
    'hidden_size': 2048,
    'intermediate_size': 16384,
    'num_hidden_layers': 35,
    'num_key_value_heads': 2,
    'num_kv_shared_layers': 15,
    'final_logit_softcapping': 30.0,
    'altup_num_inputs': 4,
    'altup_active_idx': 0,
    'altup_coef_clip': 120.0,
    'laurel_rank': 64,
    'period': 5,
  },
  _GEMMA4: _COMMON
  | {
    'vocab_size': _TEXT_ROWS,
    'hidden_size': 2304,
    'intermediate_size': 9216,
    'num_hidden_layers': 30,
    'num_key_value_heads': 4,
    'num_kv_shared_layers': 0,
    'global_head_dim': 512,
    'period': 6,
  },
}
DEFAULTS[_UNIFIED] = DEFAULTS[_GEMMA4] | {
  'sliding_window': 1024,
  'hidden_size_per_layer_input': 0,
  'use_bidirectional_attention': 'vision',
}


def from_hf(
  model_type: str, file: Mapping[str, Any], tokens: int | None = None
) -> _config.TransformerConfig:
  """The architecture that a file describes.

  Args:
    model_type: `gemma3n_text`, `gemma4_text` or `gemma4_unified_text`.
    file: The part of the file about the text model, with defaults.
    tokens: Rows that stand for a token, if the file says.
  """
  gemma3n = model_type == _GEMMA3N
  kinds = _hf_layers.attention_types(file, last_is_global=not gemma3n)
  file = {**file, 'kinds': kinds}
  own = _gemma3n(file) if gemma3n else _gemma4(file)
  rows = file['vocab_size']
  dims = _hidden_dims(file)
  return _config.TransformerConfig(
    num_embed=rows,
    vocab_size=None if tokens == rows else tokens,
    embed_dim=file['hidden_size'],
    hidden_dim=dims[0],
    hidden_dims=None if len(set(dims)) == 1 else tuple(dims),
    num_heads=file['num_attention_heads'],
    head_dim=file['head_dim'],
    num_kv_heads=file['num_key_value_heads'],
    final_logit_softcap=file.get('final_logit_softcapping'),
    use_post_attn_norm=True,
    use_post_ffw_norm=True,
    attention_types=kinds,
    query_scale=1.0,
    sliding_window_size=file['sliding_window'],
    transpose_gating_einsum=True,
    use_qk_norm=True,
    use_value_norm=True,
    zero_centered_norms=False,
    norm_eps=file['rms_norm_eps'],
    num_kv_shared_layers=file['num_kv_shared_layers'],
    per_layer_input_dim=file['hidden_size_per_layer_input'],
    per_layer_rows=_per_layer_rows(file, gemma3n=gemma3n),
    **_hf_rope.from_hf(model_type, file),
    **own,
  )


def to_hf(config: _config.TransformerConfig) -> dict[str, Any]:
  """The `config.json` of a model; `from_hf` reads it back.

  Raises:
    ValueError: If no Hugging Face Gemma class can hold the config.
  """
  gemma3n = config.altup is not None
  if gemma3n != bool(config.laurel_rank) or gemma3n == config.use_layer_scalar:
    raise ValueError(
      'No Hugging Face class has these parts together: altup and laurel_rank '
      'are those of Gemma 3n, use_layer_scalar is that of Gemma 4.'
    )
  rows = config.num_embed
  family = _GEMMA3N if gemma3n else _GEMMA4
  out = {
    'architectures': [f'{"Gemma3n" if gemma3n else "Gemma4"}ForCausalLM'],
    'model_type': family,
    'vocab_size': rows,
    'vocab_size_per_layer_input': config.per_layer_rows or rows,
    'hidden_size': config.embed_dim,
    'intermediate_size': config.hidden_dim,
    'num_hidden_layers': config.num_layers,
    'num_attention_heads': config.num_heads,
    'num_key_value_heads': config.num_kv_heads,
    'head_dim': config.head_dim,
    'hidden_activation': 'gelu_pytorch_tanh',
    'rms_norm_eps': config.norm_eps,
    'tie_word_embeddings': True,
    'attention_bias': False,
    'pad_token_id': 0,
    'eos_token_id': 1,
    'bos_token_id': 2,
    'layer_types': [_hf_rope.NAMES[kind] for kind in config.attention_types],
    'sliding_window': config.sliding_window_size,
    'final_logit_softcapping': config.final_logit_softcap,
    'hidden_size_per_layer_input': config.per_layer_input_dim,
    'num_kv_shared_layers': config.num_kv_shared_layers,
    **_hf_rope.to_hf(config, family),
  }
  return out | (_gemma3n_to_hf(config) if gemma3n else _gemma4_to_hf(config))


def _gemma3n(file: Mapping[str, Any]) -> dict[str, Any]:
  """The fields that are Gemma 3n's own."""
  sparsity, layers = file.get('activation_sparsity_pattern'), len(file['kinds'])
  if sparsity is None:
    sparsity = [0.95] * 10 if layers > 10 else []
  elif len(sparsity) != layers:
    raise ValueError(
      f'activation_sparsity_pattern in config.json has {len(sparsity)} '
      f'numbers, num_hidden_layers is {layers}. They must agree.'
    )
  if file['altup_active_idx'] >= file['altup_num_inputs']:
    raise ValueError(
      f'altup_active_idx={file["altup_active_idx"]} in config.json must be '
      f'below altup_num_inputs={file["altup_num_inputs"]}.'
    )
  while sparsity and not sparsity[-1]:
    sparsity = sparsity[:-1]
  return {
    'altup': _config.AltUp(
      num_inputs=file['altup_num_inputs'],
      active=file['altup_active_idx'],
      coef_clip=file['altup_coef_clip'],
    ),
    'laurel_rank': file['laurel_rank'],
    'activation_sparsity': tuple(sparsity),
    'image_attention': _config.ImageAttention.NONE,
  }


def _gemma3n_to_hf(config: _config.TransformerConfig) -> dict[str, Any]:
  altup, sparsity = config.altup, config.activation_sparsity
  assert altup is not None
  off = (0.0,) * (config.num_layers - len(sparsity))
  dims = config.hidden_dims or (config.hidden_dim,) * config.num_layers
  return {
    'altup_num_inputs': altup.num_inputs,
    'altup_active_idx': altup.active,
    'altup_coef_clip': altup.coef_clip,
    'altup_correct_scale': True,
    'laurel_rank': config.laurel_rank,
    'activation_sparsity_pattern': [*sparsity, *off],
    'intermediate_size': [*dims],
  }


def _gemma4(file: Mapping[str, Any]) -> dict[str, Any]:
  """The fields that are Gemma 4's own."""
  same = bool(file.get('attention_k_eq_v'))
  head_dim, heads = _global_heads(file, same)
  local = file.get('use_bidirectional_attention') == 'vision'
  kind = _config.ImageAttention
  return {
    'experts': _experts(file),
    'use_layer_scalar': True,
    'global_keys_as_values': same,
    'global_head_dim': None if head_dim == file['head_dim'] else head_dim,
    'global_num_kv_heads': (
      None if heads == file['num_key_value_heads'] else heads
    ),
    'image_attention': kind.LOCAL if local else kind.NONE,
  }


def _gemma4_to_hf(config: _config.TransformerConfig) -> dict[str, Any]:
  experts, dims = config.experts, config.hidden_dims
  own = config.num_own_kv
  wide = dims is not None
  if dims is not None and dims != (
    (config.hidden_dim,) * own
    + (2 * config.hidden_dim,) * config.num_kv_shared_layers
  ):
    raise ValueError(
      f'hidden_dims={dims} has no place in a Gemma 4 config.json: there, '
      'layers that share keys are twice as wide, or all are the same.'
    )
  local = config.image_attention is _config.ImageAttention.LOCAL
  return {
    'attention_k_eq_v': config.global_keys_as_values,
    'global_head_dim': config.global_head_dim or config.head_dim,
    'num_global_key_value_heads': config.global_num_kv_heads,
    'use_double_wide_mlp': wide,
    'enable_moe_block': experts is not None,
    'num_experts': experts and experts.num_experts,
    'top_k_experts': experts and experts.top_k,
    'moe_intermediate_size': experts and experts.hidden_dim,
    'use_bidirectional_attention': 'vision' if local else None,
  }


def _experts(file: Mapping[str, Any]) -> _config.Experts | None:
  if not file.get('enable_moe_block'):
    return None
  sizes = {
    'num_experts': 'num_experts',
    'top_k': 'top_k_experts',
    'hidden_dim': 'moe_intermediate_size',
  }
  for key in sizes.values():
    if file.get(key) is None:
      raise ValueError(
        f'{key} is missing in config.json, but enable_moe_block is true.'
      )
  if file['top_k_experts'] > file['num_experts']:
    raise ValueError(
      f'top_k_experts={file["top_k_experts"]} in config.json is more than '
      f'num_experts={file["num_experts"]}.'
    )
  return _config.Experts(**{ours: file[key] for ours, key in sizes.items()})


def _global_heads(file: Mapping[str, Any], same: bool) -> tuple[int, int]:
  """Width and number of the kv heads of the global layers."""
  width, heads = file['head_dim'], file['num_key_value_heads']
  layers = _by_layer(file)
  if layers is None:
    given = file.get('num_global_key_value_heads') if same else None
    return file['global_head_dim'], given or heads
  found = set()
  for i, kind in enumerate(file['kinds']):
    layer = layers.get(i, {})
    here = (
      layer.get('head_dim', width),
      layer.get('num_key_value_heads', heads),
    )
    if kind is _GLOBAL:
      found.add(here)
    elif here != (width, heads):
      raise ValueError(
        f'per_layer_config in config.json changes local layer {i} to {layer}. '
        'Only global layers may differ, all in the same way.'
      )
  if len(found) != 1:
    raise ValueError(
      f'per_layer_config in config.json gives global layers different heads: '
      f'{sorted(found)}. They must be the same.'
    )
  return found.pop()


def _by_layer(file: Mapping[str, Any]) -> dict[int, dict[str, Any]] | None:
  """`per_layer_config` by number; keys are padded with zeros, or are not."""
  layers = file.get('per_layer_config')
  if layers is None:
    return None
  out: dict[int, dict[str, Any]] = {}
  for key, values in layers.items():
    number = int(key) if key.isdecimal() and len(key) < 9 else -1
    if not 0 <= number < len(file['kinds']) or number in out:
      raise ValueError(
        f'{_fields.shown(key)} in per_layer_config of config.json is not the '
        f'number of one of the {len(file["kinds"])} layers, each given once.'
      )
    out[number] = _fields.Schema(
      f'per_layer_config.{key} of config.json', _LAYER, unknown='refuse'
    ).check(values)
  return out


def _hidden_dims(file: Mapping[str, Any]) -> list[int]:
  """Width of the feed-forward of each layer."""
  layers, dims = len(file['kinds']), file['intermediate_size']
  if not isinstance(dims, list):
    dims = [dims] * layers
  if len(dims) != layers:
    raise ValueError(
      f'intermediate_size in config.json has {len(dims)} numbers, '
      f'num_hidden_layers is {layers}. They must agree.'
    )
  if file.get('use_double_wide_mlp') and file['num_kv_shared_layers']:
    first = layers - file['num_kv_shared_layers']
    dims = dims[:first] + [2 * dim for dim in dims[first:]]
  return dims


def _per_layer_rows(file: Mapping[str, Any], *, gemma3n: bool) -> int | None:
  """Rows of the per-layer table; None if they are those of the vocabulary."""
  rows, given = file['vocab_size'], file['vocab_size_per_layer_input']
  if not file['hidden_size_per_layer_input'] or given == rows:
    return None
  if not gemma3n or not 0 < given < rows:
    raise ValueError(
      f'vocab_size_per_layer_input={given} in config.json, but vocab_size='
      f'{rows}. They must agree; in Gemma 3n it may be smaller.'
    )
  return given
