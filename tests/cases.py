"""The tiny models on which every property is tested, each listed once."""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gemma.gm.ckpts import _tree
from gemma.gm.nn import _config
from gemma.gm.nn import _shapes
from gemma.gm.nn import _transformer
from gemma.gm.text import _album
from gemma.gm.text import _decode
from gemma.gm.text import _sampler
from gemma.gm.text import _state
from gemma.gm.text import _tokenizer
from gemma.gm.vision import _expand
from gemma.gm.vision import _siglip

LENGTH = 24  # Four times the window.
_WINDOW = 6
_VOCAB = 300
# Sizes of samplers, few of them, because each is another compiled program: with
# room for every answer, soon full, and for texts. Batches have one row or four.
ROOM = {'cache_length': 128, 'max_out_length': 16, 'pad_length': 8}
TIGHT = {**ROOM, 'cache_length': 21}
TEXT = {'cache_length': 256, 'max_out_length': 48, 'pad_length': 16}

_GLOBAL = _config.AttentionType.GLOBAL
_LOCAL = _config.AttentionType.LOCAL_SLIDING


@dataclasses.dataclass(frozen=True)
class Case:
  """A tiny model.

  Attributes:
    name: What tests call it.
    config: Its config.
    tolerance: Most that its float32 logits may differ from those of another
      implementation; the streams of Gemma 3n lose digits where they cancel.
  """

  name: str
  config: _config.TransformerConfig
  tolerance: float = 5e-5

  @property
  def noise(self) -> float:
    """Most that float32 logits may differ between two ways to compute them."""
    return 0.4 * self.tolerance

  @property
  def rounding(self) -> float:
    """Most that bfloat16 may change a token's logits, of their deviation."""
    return 2e-2 if self.config.zero_centered_norms else 4e-2

  @property
  def model(self) -> _transformer.Transformer:
    return _transformer.Transformer(config=self.config, dtype=jnp.float32)

  @functools.cached_property
  def params(self) -> dict[str, Any]:
    """Random float32 weights of this model, the same on every machine."""
    flat = _tree.flatten(_shapes.param_shapes(self.model))
    with jax.ensure_compile_time_eval():  # The first use may be in a trace.
      weights = {path: self._weight(path, x.shape) for path, x in flat.items()}
    return _tree.unflatten(weights)

  def apply(self, tokens: Any, **kwargs: Any) -> _transformer.Output:
    return self.model.apply({'params': self.params}, tokens, **kwargs)

  def _weight(self, path: str, shape: tuple[int, ...]) -> jax.Array:
    rng = np.random.RandomState(zlib.crc32(path.encode()))
    std, mean = 0.2, 0.0
    if path.endswith('scale'):
      std, mean = 0.3, 0.0 if self.config.zero_centered_norms else 1.0
      if not self.config.zero_centered_norms and 'query_norm' in path:
        mean = 16**-0.5  # As in trained models, which have no other factor.
        std = 0.1
    return jnp.asarray(rng.normal(mean, std, shape), jnp.float32)

  def tokens(self, rows: int = 3, length: int = LENGTH) -> np.ndarray:
    """Random tokens without padding, `int32[rows, length]`."""
    rng = np.random.RandomState(zlib.crc32(self.name.encode()))
    return rng.randint(1, _VOCAB, (rows, length)).astype(np.int32)

  def cache(
    self, rows: int = 3, length: int = LENGTH, dtype: Any = jnp.float32
  ):
    return self.model.init_cache(
      batch_size=rows, dtype=dtype, cache_length=length
    )

  def prompts(self, *lengths: int) -> list[list[int]]:
    """Random prompts of these lengths."""
    rows = self.tokens(len(lengths), max(lengths)).tolist()
    return [row[:n] for row, n in zip(rows, lengths, strict=True)]

  def sampler(self, **fields: Any) -> _sampler.Sampler:
    """A small sampler, to be given one prompt of ids, or four."""
    return _sampler.Sampler(
      model=self.model,
      params=self.params,
      tokenizer=_tokenizer.Gemma3TinyTokenizer(),
      **{**ROOM, **fields},
    )

  def one_pass(
    self, rows: list[list[int]]
  ) -> list[tuple[np.ndarray, np.ndarray]]:
    """Logits and states of four rows of up to 96 tokens, without a cache."""
    tokens = np.zeros((4, 96), np.int32)
    for i, row in enumerate(rows):
      tokens[i, : len(row)] = row
    out = self.apply(tokens, return_hidden_states=True)
    both = np.asarray(out.logits), np.asarray(out.hidden_states)
    return [
      (logits[: len(row)], states[: len(row)])
      for row, logits, states in zip(rows, *both, strict=True)
    ]

  def after(self, state: _state.SamplingState) -> np.ndarray:
    """Logits behind the newest tokens of a state, whose cache is used up."""
    _, ahead = _decode.prefill(
      self.model,
      self.params,
      np.asarray(state.last_token)[:, None].tolist(),
      state.cache,
      album=_album.Album(),
      buckets=[ROOM['pad_length']],
    )
    return np.asarray(ahead.logits)

  def images(self, rows: int = 3, count: int = 2) -> np.ndarray:
    """Random images of the size that the encoder takes."""
    rng = np.random.RandomState(zlib.crc32(self.name.encode()))
    return rng.randint(0, 256, (rows, count, 16, 16, 3)).astype(np.uint8)

  def picture_prompts(self) -> np.ndarray:
    """Three rows with two images, one image, and padding before two images."""
    start = self.config.image_tokens.start
    tokens = self.tokens(3, 16) % 280 + 1
    tokens[0, [3, 9]] = start
    tokens[1, 6] = start
    tokens[2, :5] = 0
    tokens[2, [7, 8]] = start
    return tokens

  def __str__(self) -> str:
    return self.name


def tree_of(model: _transformer.Transformer) -> str:
  """Path, shape and dtype of each parameter, a line each."""
  flat = _tree.flatten(_shapes.param_shapes(model))
  return ''.join(
    f'{path} {"x".join(map(str, leaf.shape))} {leaf.dtype}\n'
    for path, leaf in sorted(flat.items())
  )


def _case(name: str, pattern: tuple, num_layers: int, **fields: Any) -> Case:
  gemma1 = name.startswith('gemma1')
  shape = {
    'num_embed': _VOCAB,
    'embed_dim': 32,
    'hidden_dim': 48,
    'num_heads': 4,
    'head_dim': 16,
    'final_logit_softcap': None,
    'use_post_attn_norm': not gemma1,
    'use_post_ffw_norm': not gemma1,
    'sliding_window_size': None if gemma1 else _WINDOW,
  }
  types = _config.make_attention_layers_types(pattern, num_layers=num_layers)
  config = _config.TransformerConfig(attention_types=types, **(shape | fields))
  tolerance = {'gemma3n': 3e-4, 'gemma4': 1e-4}.get(
    name.split('_', maxsplit=1)[0], 5e-5
  )
  return Case(name, config, tolerance)


# Three layers: one local layer before the global one and one behind it.
_GEMMA2 = {
  'pattern': (_LOCAL, _GLOBAL),
  'num_layers': 3,
  'num_kv_heads': 2,
  'attn_logits_soft_cap': 50.0,
  'final_logit_softcap': 30.0,
}
_GEMMA3 = {
  'pattern': (_LOCAL, _GLOBAL),
  'use_qk_norm': True,
  'transpose_gating_einsum': True,
  'global_base_frequency': 1_000_000,
}

_NEWER = {
  'num_kv_heads': 2,
  'final_logit_softcap': 30.0,
  'use_qk_norm': True,
  'use_value_norm': True,
  'zero_centered_norms': False,
  'query_scale': 1.0,
  'transpose_gating_einsum': True,
  'global_base_frequency': 1_000_000,
}
_GEMMA4 = {
  **_NEWER,
  'pattern': (_LOCAL, _GLOBAL),
  'global_head_dim': 32,
  'global_rope_proportion': 0.25,
  'use_layer_scalar': True,
  'image_attention': _config.ImageAttention.NONE,
}
CASES = (
  _case('gemma1_mqa', (_GLOBAL,), 3, num_kv_heads=1),
  _case('gemma1_mha', (_GLOBAL,), 2, num_kv_heads=4),
  _case('gemma2_by_head_dim', **_GEMMA2),
  _case(
    'gemma2_by_width',
    **_GEMMA2,
    transpose_gating_einsum=True,
    query_pre_attn_norm=_config.QueryPreAttentionNormalisation.BY_ONE_OVER_SQRT_EMBED_DIM_DIV_NUM_HEADS,
  ),
  _case('gemma3_mqa', num_layers=3, **_GEMMA3, num_kv_heads=1),
  # Two periods, which are scanned, and a layer left over.
  _case(
    'gemma3_gqa',
    num_layers=5,
    **_GEMMA3,
    num_kv_heads=2,
    global_scale_factor=8.0,
  ),
  _case(
    'gemma3n',
    **_NEWER,
    pattern=(_LOCAL, _GLOBAL),
    num_layers=4,
    num_kv_shared_layers=2,
    activation_sparsity=(0.95,) * 2,
    per_layer_input_dim=8,
    altup=_config.AltUp(),
    laurel_rank=4,
    image_attention=_config.ImageAttention.NONE,
  ),
  _case(
    'gemma4_per_layer',
    **_GEMMA4,
    num_layers=4,
    num_kv_shared_layers=2,
    hidden_dims=(48,) * 2 + (96,) * 2,
    per_layer_input_dim=8,
  ),
  _case(
    'gemma4_keys_as_values',
    **_GEMMA4,
    num_layers=4,
    global_num_kv_heads=1,
    global_keys_as_values=True,
  ),
  _case(
    'gemma4_experts',
    **_GEMMA4,
    num_layers=2,
    global_num_kv_heads=1,
    global_keys_as_values=True,
    experts=_config.Experts(num_experts=8, top_k=3, hidden_dim=16),
  ),
)
NAMED = {case.name: case for case in CASES}
# Of those that differ in one number of heads or one factor, one: for what is
# done with models, and not for what they compute.
DISTINCT = tuple(
  case
  for case in CASES
  if case.name not in ('gemma1_mha', 'gemma2_by_width', 'gemma3_mqa')
)
GEMMA2 = NAMED['gemma2_by_head_dim']  # Samplers are tested on it.
GEMMA3 = NAMED['gemma3_gqa']
# For what grows with depth: two periods of the released pattern.
DEEP = _case(
  'gemma3_deep',
  (_LOCAL,) * 5 + (_GLOBAL,),
  12,
  **{k: v for k, v in _GEMMA3.items() if k != 'pattern'},
  num_kv_heads=2,
  global_scale_factor=8.0,
)
# 4 soft tokens for an image of 16 patches, inside a window of 6.
VISION = _case(
  'gemma3_vision',
  num_layers=3,
  **_GEMMA3,
  num_kv_heads=2,
  global_scale_factor=8.0,
  vision_encoder=_siglip.siglip(
    image_size=16,
    patch_size=4,
    soft_tokens=4,
    width=24,
    depth=2,
    mlp_dim=40,
    num_heads=3,
  ),
  image_tokens=_expand.ImageTokens(start=290, end=291, newlines=7, soft=299),
)
# The same with the vocabulary of the bundled model, to speak with.
SPEAKING = Case(
  'gemma3_speaking',
  dataclasses.replace(
    VISION.config,
    num_embed=2048,
    image_tokens=_expand.ImageTokens(start=110, end=111, newlines=108),
  ),
)
EXHAUSTIVE = pytest.mark.exhaustive


def some(*names: str, among: Sequence[Case] = CASES) -> list[Any]:
  """Values for `parametrize`: these cases, and the others if exhaustive."""
  return [
    case if case.name in names else pytest.param(case, marks=EXHAUSTIVE)
    for case in among
  ]


# On these alone run the fast tests; between them they have most features.
FAST = 'gemma1_mqa', 'gemma2_by_head_dim', 'gemma3_gqa'
