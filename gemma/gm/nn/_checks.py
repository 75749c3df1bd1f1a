"""Checks of what a user hands to a model, raised before any compute."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
import numpy as np

from gemma.gm.math import _shapes
from gemma.gm.nn import _cache
from gemma.gm.nn import _config
from gemma.gm.vision import _expand

PAD = 0  # Token id that stands for nothing: unseen, and takes no position.


def check_dtype(dtype: DTypeLike) -> None:
  """Raises on float16 parameters."""
  if jnp.dtype(dtype) == jnp.float16:
    raise ValueError(
      'Parameters in float16: activations of these models exceed its largest '
      'number, 65504, and become NaN. Load or create them in bfloat16 or '
      "float32, for example `load_params(path, dtype='bfloat16')`."
    )


def check_values(
  config: _config.TransformerConfig,
  tokens: jax.Array,
  cache: _cache.KVCache | None,
  images: jax.Array | None = None,
) -> None:
  """Raises on ids outside of the table and on a full cache, where known."""
  if isinstance(tokens, jax.core.Tracer):
    return
  ids = np.asarray(tokens)
  odd = (ids < 0) | (ids >= config.num_embed)
  if config.vision_encoder is not None:
    odd &= ids != _expand.PLACEHOLDER
  bad = ids[odd]
  if bad.size:
    raise ValueError(
      f'Token id {bad[0]} is outside of the table of {config.num_embed} rows. '
      'Was the text encoded with the tokenizer of another model?'
    )
  if cache is not None and not isinstance(cache.length, jax.core.Tracer):
    rows = ids.reshape(-1, ids.shape[-1])
    new = (rows != PAD).sum(axis=1)
    if images is not None and config.vision_encoder is not None:
      count = config.vision_encoder.num_mm_tokens_per_image
      starts = (rows == config.image_tokens.start).sum(axis=1)
      new += starts * (_expand.expanded_length(0, images=1, count=count))
    check_room(np.asarray(cache.length) + new, cache.cache_length)


def check_room(lengths: np.ndarray, cache_length: int) -> None:
  """Raises if a row has more tokens than the cache can hold."""
  if lengths.size and lengths.max() > cache_length:
    row = int(lengths.argmax())
    raise ValueError(
      f'Row {row} has {lengths[row]} tokens, but the cache holds '
      f'{cache_length}. Shorten the input or raise cache_length.'
    )


def check_tokens(tokens: jax.Array) -> None:
  """Raises on what cannot be token ids."""
  if not jnp.issubdtype(tokens.dtype, jnp.integer):
    raise TypeError(
      f'tokens are {tokens.dtype}, but must be integer ids, such as those of '
      '`tokenizer.encode`.'
    )
  if tokens.ndim < 1 or tokens.size == 0:
    raise ValueError(
      f'tokens have shape {tokens.shape}. Give at least one token, *B L.'
    )


def check_embeds(
  config: _config.TransformerConfig,
  tokens: jax.Array,
  inputs_embeds: Any,
  images: Any,
) -> None:
  """Raises on vectors that do not go with the tokens."""
  if inputs_embeds is None:
    return
  shape = (*tokens.shape, config.embed_dim)
  if jnp.shape(inputs_embeds) != shape:
    raise ValueError(
      f'inputs_embeds have shape {jnp.shape(inputs_embeds)} instead of '
      f"{shape}: a vector for each token, as `method='embed'` gives them."
    )
  if images is not None:
    raise ValueError(
      'inputs_embeds cannot go with images, which make room among the tokens. '
      "Encode them first, `method='encode_images'`, and give soft_tokens."
    )


def check_segments(
  tokens: jax.Array,
  segment_ids: Any,
  attention_mask: Any,
  cache: _cache.KVCache | None,
) -> None:
  """Raises on segments that cannot be."""
  if segment_ids is None:
    return
  if jnp.shape(segment_ids) != tokens.shape:
    raise ValueError(
      f'segment_ids have shape {jnp.shape(segment_ids)}, tokens '
      f'{tokens.shape}. They must be equal.'
    )
  if cache is not None or attention_mask is not None:
    raise ValueError(
      'segment_ids go without a cache and without an attention_mask: they are '
      'for rows with several sequences. Leave the others out.'
    )


def check_shapes(
  tokens: jax.Array,
  length: _shapes.Size,
  positions: Any,
  attention_mask: Any,
  cache: _cache.KVCache | None,
) -> None:
  """Raises on shapes that disagree.

  Args:
    tokens: Token ids.
    length: Tokens of a row with room for images.
    positions: Of the tokens.
    attention_mask: The caller's.
    cache: The cache.
  """
  shape = (*tokens.shape[:-1], length)
  inside = '' if tokens.shape == shape else ' with room for the images'
  if positions is not None and jnp.shape(positions) != shape:
    raise ValueError(
      f'positions have shape {jnp.shape(positions)}, tokens {shape}{inside}. '
      'They must be equal.'
    )
  columns = length if cache is None else cache.cache_length
  expected = (*shape, columns)
  if attention_mask is not None and jnp.shape(attention_mask) != expected:
    raise ValueError(
      f'attention_mask has shape {jnp.shape(attention_mask)} instead of '
      f'{expected}: *B, tokens, and '
      + ('tokens again.' if cache is None else 'slots of the cache.')
    )
  rows = tokens.size // tokens.shape[-1]
  if cache is not None and cache.batch_size != rows:
    raise ValueError(
      f'The cache has {cache.batch_size} rows, tokens have {rows}. Make it '
      f'with init_cache(batch_size={rows}, ...).'
    )
