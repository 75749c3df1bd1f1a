"""Gemma 3n and 4 in a Hugging Face `config.json`, and back: the text model."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from gemma.gm.nn import _config

_LOCAL = _config.AttentionType.LOCAL_SLIDING
_GLOBAL = _config.AttentionType.GLOBAL
_KINDS = {'sliding_attention': _LOCAL, 'full_attention': _GLOBAL}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_GEMMA3N, _GEMMA4 = 'gemma3n_text', 'gemma4_text'
# Gemma 3n's table, with rows behind the text that stand for media elsewhere.
PADDED_ROWS, _TEXT_ROWS = 262_400, 262_144

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
    'period': 6,
  },
}


def from_hf(
  model_type: str, file: Mapping[str, Any], tokens: int | None = None
) -> _config.TransformerConfig:
  """The architecture that a file describes.

  Args:
    model_type: `gemma3n_text` or `gemma4_text`.
    file: The part of the file about the text model, with defaults.
    tokens: Rows that stand for a token, if the file says.
  """
  own = _gemma3n(file) if model_type == _GEMMA3N else _gemma4(file)
  kinds, rows = _attention_types(file), file['vocab_size']
  if rows == PADDED_ROWS and tokens is None:
    rows = _TEXT_ROWS
  dims = _as_list(file['intermediate_size'], len(kinds))
  if file.get('use_double_wide_mlp') and file['num_kv_shared_layers']:
    first = len(kinds) - file['num_kv_shared_layers']
    dims = dims[:first] + [2 * dim for dim in dims[first:]]
  rope = _rope(file)
  config = _config.TransformerConfig(
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
    local_base_frequency=rope['sliding_attention'].get('rope_theta', 10_000.0),
    global_base_frequency=rope['full_attention'].get('rope_theta', 1e6),
    norm_eps=file['rms_norm_eps'],
    num_kv_shared_layers=file['num_kv_shared_layers'],
    per_layer_input_dim=file['hidden_size_per_layer_input'] or 0,
    **own,
  )
  _check_rows(config, file)
  return config


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
  out = {
    'architectures': [f'{"Gemma3n" if gemma3n else "Gemma4"}ForCausalLM'],
    'model_type': _GEMMA3N if gemma3n else _GEMMA4,
    'vocab_size': rows,
    'vocab_size_per_layer_input': rows,
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
    'layer_types': [_NAMES[kind] for kind in config.attention_types],
    'sliding_window': config.sliding_window_size,
    'final_logit_softcapping': config.final_logit_softcap,
    'hidden_size_per_layer_input': config.per_layer_input_dim,
    'num_kv_shared_layers': config.num_kv_shared_layers,
    'rope_parameters': _rope_to_hf(config),
  }
  return out | (_gemma3n_to_hf(config) if gemma3n else _gemma4_to_hf(config))


def _gemma3n(file: Mapping[str, Any]) -> dict[str, Any]:
  """The fields that are Gemma 3n's own."""
  if not file.get('altup_correct_scale', True):
    raise ValueError(
      'altup_correct_scale=False in config.json is not supported: Gemma 3n '
      'scales what it gives to its per-layer inputs.'
    )
  sparsity = file.get('activation_sparsity_pattern')
  layers = file['num_hidden_layers']
  if sparsity is None:
    sparsity = [0.95] * min(10, layers)
  sparsity = _as_list(sparsity, layers)
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
  experts = None
  if file.get('enable_moe_block'):
    experts = _config.Experts(
      num_experts=file['num_experts'],
      top_k=file['top_k_experts'],
      hidden_dim=file['moe_intermediate_size'],
    )
  same = bool(file.get('attention_k_eq_v'))
  head_dim, heads = _global_heads(file, same)
  full = _rope(file)['full_attention']
  proportional = full.get('rope_type', 'proportional') == 'proportional'
  share = full.get('partial_rotary_factor', 0.25) if proportional else 1.0
  local = file.get('use_bidirectional_attention') == 'vision'
  kind = _config.ImageAttention
  return {
    'experts': experts,
    'use_layer_scalar': True,
    'global_keys_as_values': same,
    'global_head_dim': None if head_dim == file['head_dim'] else head_dim,
    'global_num_kv_heads': (
      None if heads == file['num_key_value_heads'] else heads
    ),
    'global_rope_proportion': share,
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


def _global_heads(file: Mapping[str, Any], same: bool) -> tuple[int, int]:
  """Width and number of the kv heads of the global layers."""
  heads = file['num_key_value_heads']
  layers = file.get('per_layer_config')
  if layers is None:
    given = file.get('num_global_key_value_heads') if same else None
    return file.get('global_head_dim', 512), given or heads
  found = set()
  for i, kind in enumerate(_attention_types(file)):
    layer = layers.get(str(i), layers.get(i, {}))
    width = layer.get('head_dim', file['head_dim'])
    here = width, layer.get('num_key_value_heads', heads)
    if kind is _GLOBAL:
      found.add(here)
    elif here != (file['head_dim'], heads):
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


def _attention_types(
  file: Mapping[str, Any],
) -> tuple[_config.AttentionType, ...]:
  layers, names = file['num_hidden_layers'], file.get('layer_types')
  if not names:
    pattern = (_LOCAL,) * (file['period'] - 1) + (_GLOBAL,)
    return _config.make_attention_layers_types(pattern, num_layers=layers)
  if len(names) != layers:
    raise ValueError(
      f'layer_types in config.json names {len(names)} layers, '
      f'num_hidden_layers is {layers}. They must agree.'
    )
  return tuple(_KINDS[name] for name in names)


def _rope(file: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """What the file says of each kind of layer."""
  nested = file.get('rope_parameters')
  if nested is None:  # Older files.
    old = {
      'full_attention': 'rope_theta',
      'sliding_attention': 'rope_local_base_freq',
    }
    return {
      kind: {'rope_theta': file[key]} if key in file else {}
      for kind, key in old.items()
    }
  return {kind: dict(nested.get(kind) or {}) for kind in _KINDS}


def _rope_to_hf(config: _config.TransformerConfig) -> dict[str, Any]:
  full = {'rope_type': 'default', 'rope_theta': config.global_base_frequency}
  if config.altup is None:
    full |= {
      'rope_type': 'proportional',
      'partial_rotary_factor': config.global_rope_proportion,
    }
  local = {'rope_type': 'default', 'rope_theta': config.local_base_frequency}
  return {'sliding_attention': local, 'full_attention': full}


def _check_rows(
  config: _config.TransformerConfig, file: Mapping[str, Any]
) -> None:
  rows = file['vocab_size_per_layer_input']
  if config.per_layer_input_dim and rows != config.num_embed:
    raise ValueError(
      f'vocab_size_per_layer_input={rows} in config.json, but the table has '
      f'{config.num_embed} rows that are text. They must agree.'
    )


def _as_list(value: Any, count: int) -> list[Any]:
  return [*value] if isinstance(value, Sequence) else [value] * count
