"""Pure functions on arrays, without parameters."""

from etils import epy as _epy

with _epy.lazy_api_imports(globals()):
  from gemma.gm.math._attention import Implementation as Implementation
  from gemma.gm.math._attention import attend as attend
  from gemma.gm.math._attention import naive_attention as naive_attention
  from gemma.gm.math._chunked_attention import (
    chunked_attention as chunked_attention,
  )
  from gemma.gm.math._cross_entropy import cross_entropy as cross_entropy
  from gemma.gm.math._cross_entropy import (
    linear_cross_entropy as linear_cross_entropy,
  )
  from gemma.gm.math._mask import Mask as Mask
  from gemma.gm.math._rope import Rope as Rope
  from gemma.gm.math._rope import apply_rope as apply_rope
  from gemma.gm.math._runs import count_consecutive as count_consecutive
