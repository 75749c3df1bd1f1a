"""The released sizes: a row of numbers and a class for each.

Numbers as in the technical reports (https://arxiv.org/abs/2403.08295,
https://arxiv.org/abs/2408.00118, https://arxiv.org/abs/2503.19786) and the
released checkpoints; `hidden_dim` is the width of one branch, of which the
reports quote the double for Gemma 1 and 2.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
from typing import Any

from gemma.gm.nn import _config
from gemma.gm.nn import _info
from gemma.gm.nn import _transformer
from gemma.gm.vision import _expand
from gemma.gm.vision import _siglip

_Rule = _config.QueryPreAttentionNormalisation
_GLOBAL = (_config.AttentionType.GLOBAL,)
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
_CHECKPOINTS = 'gs://gemma-data/checkpoints/'


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
# fmt: on


def _info_of(version: int | str, ckpt: str | None = None) -> _info.ModelInfo:
  path = None if ckpt is None else _CHECKPOINTS + ckpt
  return _info.ModelInfo(tokenizer_version=version, default_ckpt=path)


class _WithVision(_transformer.Transformer):
  """A size that reads images.

  Attributes:
    text_only: Whether to leave the vision encoder out, with its parameters.
  """

  text_only: bool = False

  def __post_init__(self):
    if self.text_only:
      self.config = dataclasses.replace(self.config, vision_encoder=None)
    super().__post_init__()


class Gemma1_2B(_transformer.Transformer):
  """Gemma 1 2B."""

  config: _config.TransformerConfig = GEMMA1_2B

  INFO = _info_of(2)


class Gemma1_7B(_transformer.Transformer):
  """Gemma 1 7B."""

  config: _config.TransformerConfig = GEMMA1_7B

  INFO = _info_of(2)


class Gemma2_2B(_transformer.Transformer):
  """Gemma 2 2B."""

  config: _config.TransformerConfig = GEMMA2_2B

  INFO = _info_of(2, 'gemma2-2b-it')


class Gemma2_9B(_transformer.Transformer):
  """Gemma 2 9B."""

  config: _config.TransformerConfig = GEMMA2_9B

  INFO = _info_of(2, 'gemma2-9b-it')


class Gemma2_27B(_transformer.Transformer):
  """Gemma 2 27B."""

  config: _config.TransformerConfig = GEMMA2_27B

  INFO = _info_of(2, 'gemma2-27b-it')


class Gemma3_Tiny(_WithVision):
  """The small model that ships with the package: Gemma 3 in full, tiny."""

  config: _config.TransformerConfig = GEMMA3_TINY

  INFO = _info_of('3-tiny')


class Gemma3_270M(_transformer.Transformer):
  """Gemma 3 270M."""

  config: _config.TransformerConfig = GEMMA3_270M

  INFO = _info_of(3)


class Gemma3_1B(_transformer.Transformer):
  """Gemma 3 1B."""

  config: _config.TransformerConfig = GEMMA3_1B

  INFO = _info_of(3)


class Gemma3_4B(_WithVision):
  """Gemma 3 4B."""

  config: _config.TransformerConfig = GEMMA3_4B

  INFO = _info_of(3)


class Gemma3_12B(_WithVision):
  """Gemma 3 12B."""

  config: _config.TransformerConfig = GEMMA3_12B

  INFO = _info_of(3)


class Gemma3_27B(_WithVision):
  """Gemma 3 27B."""

  config: _config.TransformerConfig = GEMMA3_27B

  INFO = _info_of(3)


# By name, for command lines and tables.
PRESETS: dict[str, Callable[..., _transformer.Transformer]] = {
  model.__name__: model
  for model in (
    Gemma1_2B,
    Gemma1_7B,
    Gemma2_2B,
    Gemma2_9B,
    Gemma2_27B,
    Gemma3_Tiny,
    Gemma3_270M,
    Gemma3_1B,
    Gemma3_4B,
    Gemma3_12B,
    Gemma3_27B,
  )
}
