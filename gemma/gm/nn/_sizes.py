"""The numbers of the released sizes, a row each.

Numbers as in the technical reports (https://arxiv.org/abs/2403.08295,
https://arxiv.org/abs/2408.00118, https://arxiv.org/abs/2503.19786) and the
released checkpoints; `hidden_dim` is the width of one branch, of which the
reports quote the double for Gemma 1 and 2.
"""

from collections.abc import Sequence
from typing import Any

from gemma.gm.nn import _config
from gemma.gm.vision import _expand
from gemma.gm.vision import _siglip

_Rule = _config.QueryPreAttentionNormalisation
_GLOBAL = (_config.AttentionType.GLOBAL,)
_LOCAL = _config.AttentionType.LOCAL_SLIDING
# What Gemma 3n and 4 have in common.
_PLAIN_NORMS: dict[str, Any] = {
  'zero_centered_norms': False,
  'use_post_attn_norm': True,
  'use_post_ffw_norm': True,
  'use_qk_norm': True,
  'use_value_norm': True,
  'query_scale': 1.0,
  'final_logit_softcap': 30.0,
  'transpose_gating_einsum': True,
  'global_base_frequency': 1_000_000,
}
_SIGLIP = _siglip.SigLiPFromPatches(parent=None)
_SIGLIP_TINY = _siglip.siglip(
  image_size=112,
  patch_size=14,
  soft_tokens=16,
  width=128,
  depth=4,
  mlp_dim=512,
  num_heads=4,
)


def _gemma(
  *,
  num_layers: int,
  pattern: Sequence[_config.AttentionType],
  **fields: Any,
) -> _config.TransformerConfig:
  types = _config.make_attention_layers_types(pattern, num_layers=num_layers)
  return _config.TransformerConfig(attention_types=types, **fields)


def _gemma1(**fields: Any) -> _config.TransformerConfig:
  return _gemma(
    num_embed=256_128,
    vocab_size=256_000,
    pattern=_GLOBAL,
    final_logit_softcap=None,
    use_post_attn_norm=False,
    use_post_ffw_norm=False,
    **fields,
  )


def _gemma2(**fields: Any) -> _config.TransformerConfig:
  return _gemma(
    num_embed=256_128,
    vocab_size=256_000,
    pattern=_config.GEMMA2_ATTENTION_PATTERN,
    sliding_window_size=4096,
    attn_logits_soft_cap=50.0,
    final_logit_softcap=30.0,
    use_post_attn_norm=True,
    use_post_ffw_norm=True,
    **fields,
  )


def _gemma3(
  num_embed: int = 262_144, **fields: Any
) -> _config.TransformerConfig:
  return _gemma(
    num_embed=num_embed,
    pattern=_config.GEMMA3_ATTENTION_PATTERN,
    final_logit_softcap=None,
    use_post_attn_norm=True,
    use_post_ffw_norm=True,
    use_qk_norm=True,
    transpose_gating_einsum=True,
    global_base_frequency=1_000_000,
    **fields,
  )


def _gemma3n(
  num_layers: int, *, shared: int, hidden_dim: int
) -> _config.TransformerConfig:
  return _gemma(
    num_embed=262_144,
    num_layers=num_layers,
    pattern=(_LOCAL,) * 4 + _GLOBAL,
    embed_dim=2048,
    hidden_dim=hidden_dim,
    num_heads=8,
    num_kv_heads=2,
    head_dim=256,
    sliding_window_size=512,
    num_kv_shared_layers=shared,
    activation_sparsity=(0.95,) * 10,
    per_layer_input_dim=256,
    altup=_config.AltUp(),
    laurel_rank=64,
    image_attention=_config.ImageAttention.NONE,
    origin=_config.MULTIMODAL,
    **_PLAIN_NORMS,
  )


def _gemma4(
  num_layers: int, *, locals_: int = 5, **fields: Any
) -> _config.TransformerConfig:
  return _gemma(
    num_embed=262_144,
    num_layers=num_layers,
    pattern=(_LOCAL,) * locals_ + _GLOBAL,
    head_dim=256,
    global_head_dim=512,
    global_rope_proportion=0.25,
    use_layer_scalar=True,
    origin=_config.MULTIMODAL,
    **_PLAIN_NORMS,
    **fields,
  )


# fmt: off
GEMMA1_2B = _gemma1(
  embed_dim=2048, hidden_dim=16384, num_heads=8, num_kv_heads=1, head_dim=256, num_layers=18)
GEMMA1_7B = _gemma1(
  embed_dim=3072, hidden_dim=24576, num_heads=16, num_kv_heads=16, head_dim=256, num_layers=28)
GEMMA2_2B = _gemma2(
  embed_dim=2304, hidden_dim=9216, num_heads=8, num_kv_heads=4, head_dim=256, num_layers=26)
GEMMA2_9B = _gemma2(
  embed_dim=3584, hidden_dim=14336, num_heads=16, num_kv_heads=8, head_dim=256, num_layers=42,
  transpose_gating_einsum=True)
GEMMA2_27B = _gemma2(
  embed_dim=4608, hidden_dim=36864, num_heads=32, num_kv_heads=16, head_dim=128, num_layers=46,
  transpose_gating_einsum=True,
  query_pre_attn_norm=_Rule.BY_ONE_OVER_SQRT_EMBED_DIM_DIV_NUM_HEADS)
GEMMA3_TINY = _gemma3(
  num_embed=2048, embed_dim=192, hidden_dim=512, num_heads=4, num_kv_heads=1, head_dim=48,
  num_layers=6, sliding_window_size=64, vision_encoder=_SIGLIP_TINY,
  image_tokens=_expand.ImageTokens(start=110, end=111, soft=112))
GEMMA3_270M = _gemma3(
  embed_dim=640, hidden_dim=2048, num_heads=4, num_kv_heads=1, head_dim=256, num_layers=18,
  sliding_window_size=512)
GEMMA3_1B = _gemma3(
  embed_dim=1152, hidden_dim=6912, num_heads=4, num_kv_heads=1, head_dim=256, num_layers=26,
  sliding_window_size=512)
GEMMA3_4B = _gemma3(
  embed_dim=2560, hidden_dim=10240, num_heads=8, num_kv_heads=4, head_dim=256, num_layers=34,
  sliding_window_size=1024, global_scale_factor=8.0, vision_encoder=_SIGLIP)
GEMMA3_12B = _gemma3(
  embed_dim=3840, hidden_dim=15360, num_heads=16, num_kv_heads=8, head_dim=256, num_layers=48,
  sliding_window_size=1024, global_scale_factor=8.0, vision_encoder=_SIGLIP)
GEMMA3_27B = _gemma3(
  embed_dim=5376, hidden_dim=21504, num_heads=32, num_kv_heads=16, head_dim=128, num_layers=62,
  sliding_window_size=1024, global_scale_factor=8.0, vision_encoder=_SIGLIP,
  query_pre_attn_norm=_Rule.BY_ONE_OVER_SQRT_EMBED_DIM_DIV_NUM_HEADS)
GEMMA3N_E2B = _gemma3n(30, shared=10, hidden_dim=8192)
GEMMA3N_E4B = _gemma3n(35, shared=15, hidden_dim=16384)
GEMMA4_E2B = _gemma4(
  35, locals_=4, embed_dim=1536, hidden_dim=6144, hidden_dims=(6144,) * 15 + (12288,) * 20,
  num_heads=8, num_kv_heads=1, sliding_window_size=512, per_layer_input_dim=256,
  num_kv_shared_layers=20, image_attention=_config.ImageAttention.NONE)
GEMMA4_E4B = _gemma4(
  42, embed_dim=2560, hidden_dim=10240, num_heads=8, num_kv_heads=2, sliding_window_size=512,
  per_layer_input_dim=256, num_kv_shared_layers=18, image_attention=_config.ImageAttention.NONE)
GEMMA4_12B = _gemma4(
  48, embed_dim=3840, hidden_dim=15360, num_heads=16, num_kv_heads=8, global_num_kv_heads=1,
  global_keys_as_values=True, sliding_window_size=1024,
  image_attention=_config.ImageAttention.LOCAL)
GEMMA4_26B_A4B = _gemma4(
  30, embed_dim=2816, hidden_dim=2112, num_heads=16, num_kv_heads=8, global_num_kv_heads=2,
  global_keys_as_values=True, sliding_window_size=1024,
  experts=_config.Experts(num_experts=128, top_k=8, hidden_dim=704),
  image_attention=_config.ImageAttention.LOCAL)
GEMMA4_31B = _gemma4(
  60, embed_dim=5376, hidden_dim=21504, num_heads=32, num_kv_heads=16, global_num_kv_heads=4,
  global_keys_as_values=True, sliding_window_size=1024,
  image_attention=_config.ImageAttention.LOCAL)
# fmt: on
