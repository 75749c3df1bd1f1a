"""Parts of a model's config, under their published names: `gm.nn.config`."""

from gemma.gm.nn._config import (
  GEMMA2_ATTENTION_PATTERN as GEMMA2_ATTENTION_PATTERN,
)
from gemma.gm.nn._config import (
  GEMMA3_ATTENTION_PATTERN as GEMMA3_ATTENTION_PATTERN,
)
from gemma.gm.nn._config import AttentionType as AttentionType
from gemma.gm.nn._config import Dense as Dense
from gemma.gm.nn._config import Full as Full
from gemma.gm.nn._config import LayerSpec as LayerSpec
from gemma.gm.nn._config import Origin as Origin
from gemma.gm.nn._config import (
  QueryPreAttentionNormalisation as QueryPreAttentionNormalisation,
)
from gemma.gm.nn._config import Sliding as Sliding
from gemma.gm.nn._config import TransformerConfig as TransformerConfig
from gemma.gm.nn._config import (
  make_attention_layers_types as make_attention_layers_types,
)
from gemma.gm.nn._info import ModelInfo as ModelInfo
