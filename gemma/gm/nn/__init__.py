"""Everything with parameters: layers, blocks, models."""

from etils import epy as _epy

with _epy.lazy_api_imports(globals()):
  from gemma.gm.nn import config as config
  from gemma.gm.nn._block import Attention as Attention
  from gemma.gm.nn._block import Block as Block
  from gemma.gm.nn._cache import KVCache as KVCache
  from gemma.gm.nn._cache import LayerKV as LayerKV
  from gemma.gm.nn._config import AttentionType as AttentionType
  from gemma.gm.nn._config import TransformerConfig as TransformerConfig
  from gemma.gm.nn._layers import Einsum as Einsum
  from gemma.gm.nn._layers import Embedder as Embedder
  from gemma.gm.nn._layers import FeedForward as FeedForward
  from gemma.gm.nn._layers import RMSNorm as RMSNorm
  from gemma.gm.nn._lora import LoRA as LoRA
  from gemma.gm.nn._picture import picture as picture
  from gemma.gm.nn._presets import PRESETS as PRESETS
  from gemma.gm.nn._presets import Gemma1_2B as Gemma1_2B
  from gemma.gm.nn._presets import Gemma1_7B as Gemma1_7B
  from gemma.gm.nn._presets import Gemma2_2B as Gemma2_2B
  from gemma.gm.nn._presets import Gemma2_9B as Gemma2_9B
  from gemma.gm.nn._presets import Gemma2_27B as Gemma2_27B
  from gemma.gm.nn._presets import Gemma3_1B as Gemma3_1B
  from gemma.gm.nn._presets import Gemma3_4B as Gemma3_4B
  from gemma.gm.nn._presets import Gemma3_12B as Gemma3_12B
  from gemma.gm.nn._presets import Gemma3_27B as Gemma3_27B
  from gemma.gm.nn._presets import Gemma3_270M as Gemma3_270M
  from gemma.gm.nn._presets import Gemma3_Tiny as Gemma3_Tiny
  from gemma.gm.nn._summary import Summary as Summary
  from gemma.gm.nn._summary import summarize as summarize
  from gemma.gm.nn._transformer import Output as Output
  from gemma.gm.nn._transformer import Transformer as Transformer
  from gemma.gm.vision._siglip import SigLiPFromPatches as SigLiPFromPatches
