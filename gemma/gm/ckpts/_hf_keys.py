"""The keys of a `config.json`: those that are read, and those without effect.

A key that no table has is reported: see `Schema`. Values are those that the
classes of `transformers` accept, within limits that no model exceeds.
"""

import re
from typing import Any

from gemma.gm.ckpts import _fields

_NAME = 'config.json'
_LAYERS = 256  # Most layers; the deepest Gemma has 62.
_ARCHITECTURE = re.compile(r'\w+(ForCausalLM|ForConditionalGeneration|Model)')

_size = _fields.integer(1, 2**24)
_small = _fields.integer(1, 2**16)
_count = _fields.integer(0, 2**24)
_layers = _fields.integer(1, _LAYERS)
_token = _fields.integer(0, 2**24)
_cap = _fields.above(0) | _fields.NULL
_flag_or_null = _fields.FLAG | _fields.NULL
_object_or_null = _fields.OBJECT | _fields.NULL
_number_or_null = _fields.number(0) | _fields.NULL
_kinds = _fields.list_of(
  _fields.one_of('sliding_attention', 'full_attention'), _LAYERS
)
_ends = _token | _fields.list_of(_token, 1000) | _fields.NULL
_tanh_gelu = _fields.one_of('gelu_pytorch_tanh')
_no_quantization = _fields.Check(
  'null: the weights of a quantized folder are not weights of a Gemma model, '
  'so open the folder that it was made from',
  lambda x: x is None,
)
_causal = _fields.Check(
  'false or null: attention is causal here',
  lambda x: x is None or x is False,
)
_architectures = _fields.NULL | _fields.Check(
  'a list of names that end in ForCausalLM, ForConditionalGeneration or Model; '
  'heads of other kinds are not read',
  lambda x: (
    isinstance(x, list)
    and all(isinstance(y, str) and _ARCHITECTURE.fullmatch(y) for y in x)
  ),
)

# Keys of `PreTrainedConfig`, settings of training and of one library's runs,
# and what older versions or other tools have left.
_NO_EFFECT: dict[str, _fields.Check] = {
  **dict.fromkeys(
    (
      '_attn_implementation', '_attn_implementation_autoset', '_commit_hash',
      '_name_or_path', 'add_cross_attention', 'attn_implementation',
      'auto_map', 'base_model_name_or_path', 'cache_implementation',
      'cross_attention_hidden_size', 'custom_pipelines',
      'decoder_start_token_id', 'experts_implementation', 'finetuning_task',
      'id2label', 'is_decoder', 'label2id', 'max_cache_len', 'model_name',
      'name_or_path', 'neftune_noise_alpha', 'num_labels',
      'output_attentions', 'output_hidden_states', 'prefix',
      'pretraining_tp', 'problem_type', 'pruned_heads', 'return_dict',
      'sep_token_id', 'task_specific_params', 'tf_legacy_loss',
      'tie_encoder_decoder', 'tie_last_hidden_states', 'tokenizer_class',
      'torchscript', 'transformers.js_config', 'transformers_version',
      'unsloth_fixed', 'unsloth_version', 'use_bfloat16',
      # Of `generate`: no longer read from this file by `transformers` either.
      'bad_words_ids', 'begin_suppress_tokens', 'diversity_penalty',
      'do_sample', 'early_stopping', 'encoder_no_repeat_ngram_size',
      'exponential_decay_length_penalty', 'forced_bos_token_id',
      'forced_eos_token_id', 'length_penalty', 'max_length', 'min_length',
      'no_repeat_ngram_size', 'num_beam_groups', 'num_beams',
      'num_return_sequences', 'output_scores', 'remove_invalid_values',
      'repetition_penalty', 'return_dict_in_generate', 'suppress_tokens',
      'temperature', 'top_k', 'top_p', 'typical_p',
    ),
    _fields.ANYTHING,
  ),
  'is_encoder_decoder': _fields.one_of(False),
  'chunk_size_feed_forward': _count,
  'use_cache': _flag_or_null,
  'initializer_range': _number_or_null,
  'attention_dropout': _number_or_null,  # In training alone, there.
  'max_position_embeddings': _size | _fields.NULL,
  'pad_token_id': _fields.integer(-1, 2**24) | _fields.NULL,
  'bos_token_id': _token | _fields.NULL,
  'dtype': _fields.TEXT | _object_or_null,
  'torch_dtype': _fields.TEXT | _object_or_null,
}  # fmt: skip

# Read of every model, and checked where only one value can be computed.
_FILE = {
  'model_type': _fields.TEXT,
  'architectures': _architectures,
  'eos_token_id': _ends,  # By samplers, if there is no generation_config.json.
  'tie_word_embeddings': _fields.FLAG,
  'quantization_config': _no_quantization,
}
_TEXT = _FILE | {
  'num_tokens': _size,  # A key of ours: rows that stand for a token.
  'vocab_size': _size,
  'hidden_size': _size,
  'intermediate_size': _size,
  'num_hidden_layers': _layers,
  'num_attention_heads': _small,
  'num_key_value_heads': _small,
  'head_dim': _small,
  'rms_norm_eps': _fields.number(0, 1),
  'hidden_activation': _tanh_gelu,
  # Of older files; the first of Gemma 1 say gelu and mean its approximation.
  'hidden_act': _fields.one_of('gelu_pytorch_tanh', 'gelu', None),
  'attention_bias': _fields.one_of(False),
  'use_bidirectional_attention': _causal,
  'rope_parameters': _object_or_null,
  'rope_scaling': _object_or_null,
  'rope_theta': _fields.above(0) | _fields.NULL,
  'partial_rotary_factor': _fields.one_of(1, 1.0, None),
}
_SLIDING = {
  'sliding_window': _fields.integer(1, 2**31 - 1) | _fields.NULL,
  'layer_types': _kinds | _fields.NULL,
  'final_logit_softcapping': _cap,
}
_PATTERN = dict.fromkeys(
  ('sliding_window_pattern', '_sliding_window_pattern'),
  _fields.integer(1, _LAYERS) | _fields.NULL,
)
_PER_LAYER = {
  'rope_local_base_freq': _fields.above(0) | _fields.NULL,
  'num_kv_shared_layers': _fields.integer(0, _LAYERS),
  'hidden_size_per_layer_input': _count,
  'vocab_size_per_layer_input': _count,
}
_GEMMA2 = _TEXT | _SLIDING | _PATTERN
_GEMMA2 |= {
  'query_pre_attn_scalar': _fields.above(0),
  'attn_logit_softcapping': _cap,
}
_GEMMA3N = _TEXT | _SLIDING | _PATTERN | _PER_LAYER
_GEMMA3N |= {
  'intermediate_size': _size | _fields.list_of(_size, _LAYERS),
  'activation_sparsity_pattern': _fields.list_of(
    _fields.number(0, 0.999999), _LAYERS
  )
  | _fields.NULL,
  'altup_num_inputs': _fields.integer(1, 64),
  'altup_active_idx': _fields.integer(0, 63),
  'altup_coef_clip': _fields.above(0),
  'altup_correct_scale': _fields.one_of(True),
  'laurel_rank': _size,
}
_GEMMA4 = _TEXT | _SLIDING | _PATTERN | _PER_LAYER
_GEMMA4 |= {
  'use_bidirectional_attention': _fields.one_of('vision', None),
  'attention_k_eq_v': _fields.FLAG,
  'use_double_wide_mlp': _fields.FLAG,
  'global_head_dim': _small,
  'num_global_key_value_heads': _small | _fields.NULL,
  'per_layer_config': _object_or_null,
  'enable_moe_block': _fields.FLAG,
  'num_experts': _small | _fields.NULL,
  'top_k_experts': _small | _fields.NULL,
  'moe_intermediate_size': _size | _fields.NULL,
}
_UNIFIED = _GEMMA4 | {
  'enable_moe_block': _fields.one_of(False),
  'hidden_size_per_layer_input': _fields.one_of(0),
}


def _text(read: dict[str, _fields.Check]) -> _fields.Schema:
  return _fields.Schema(_NAME, read, _NO_EFFECT)


TEXT: dict[str, _fields.Schema] = {
  'gemma': _text(
    _TEXT | {'hidden_activation': _tanh_gelu | _fields.NULL} | _PATTERN
  ),
  'gemma2': _text(_GEMMA2),
  'gemma3_text': _text(
    _GEMMA2
    | {
      'rope_local_base_freq': _fields.above(0) | _fields.NULL,
      # The attention of Gemma 3 does not read it, there and here.
      'attn_logit_softcapping': _cap,
    }
  ),
  'gemma3n_text': _text(_GEMMA3N),
  'gemma4_text': _text(_GEMMA4),
  'gemma4_unified_text': _text(_UNIFIED),
}

_IDS = ('boi_token', 'eoi_token', 'image_token')
_MEDIA_IDS = (*_IDS, 'video_token', 'boa_token', 'eoa_token', 'audio_token')
_WHOLE: dict[str, _fields.Check] = _FILE | {
  'text_config': _fields.OBJECT,
  'vision_config': _object_or_null,
  'audio_config': _object_or_null,
}


def _whole(read: dict[str, Any], ignored: dict[str, Any]) -> _fields.Schema:
  return _fields.Schema(
    _NAME, _WHOLE | read, _NO_EFFECT | ignored, required=('text_config',)
  )


_SOUNDS = {
  f'{name}_{end}': _token | _fields.NULL
  for name in _MEDIA_IDS
  for end in ('id', 'index')
} | {
  key: _count | _fields.NULL
  for key in ('audio_soft_tokens_per_image', 'vision_soft_tokens_per_image')
}
# Files of several towers, by model type.
WHOLE: dict[str, _fields.Schema] = {
  'gemma3': _whole(
    {
      'mm_tokens_per_image': _fields.integer(1, 2**16),
      'newlines_token_index': _token,  # A key of ours.
      **{f'{name}_index': _token for name in _IDS},
      **{f'{name}_id': _token for name in _IDS},
    },
    {},
  ),
  **{
    name: _whole({}, _SOUNDS)
    for name in ('gemma3n', 'gemma4', 'gemma4_unified')
  },
}
VISION = _fields.Schema(
  f'vision_config of {_NAME}',
  {
    'model_type': _fields.one_of('siglip_vision_model', 'gemma3_vision'),
    'hidden_size': _size,
    'intermediate_size': _size,
    'num_hidden_layers': _layers,
    'num_attention_heads': _small,
    'image_size': _fields.integer(1, 2**12),
    'patch_size': _fields.integer(1, 2**12),
    'num_channels': _fields.one_of(3),
    'layer_norm_eps': _fields.one_of(1e-6),
    'hidden_act': _tanh_gelu,
    'quantization_config': _no_quantization,
  },
  # The head behind the encoder changes no soft token.
  _NO_EFFECT
  | {'vision_use_head': _fields.FLAG, 'architectures': _fields.ANYTHING},
)
# Keys that decide the shapes of tensors.
SHAPES = (
  'vocab_size', 'hidden_size', 'intermediate_size', 'num_hidden_layers',
  'num_attention_heads', 'num_key_value_heads', 'head_dim', 'global_head_dim',
  'num_global_key_value_heads', 'attention_k_eq_v', 'per_layer_config',
  'num_kv_shared_layers', 'use_double_wide_mlp', 'layer_types',
  'vocab_size_per_layer_input', 'hidden_size_per_layer_input',
  'enable_moe_block', 'num_experts', 'moe_intermediate_size', 'laurel_rank',
  'altup_num_inputs', 'image_size', 'patch_size',
)  # fmt: skip
