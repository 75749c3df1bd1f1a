"""Checks of what a user hands to a model, raised before any compute."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
import numpy as np

from gemma.gm.nn import _cache
from gemma.gm.nn import _config


def check_dtype(dtype: DTypeLike) -> None:
  """Raises on float16 parameters."""
  if jnp.dtype(dtype) == jnp.float16:
    raise ValueError(
      'Parameters in float16: activations of these models exceed its largest '
      'number, 65504, and become NaN. Load or create them in bfloat16 or '
      "float32, for example `load_params(path, dtype='bfloat16')`."
    )


def check_inputs(
  config: _config.TransformerConfig,
  tokens: jax.Array,
  positions: Any,
  attention_mask: Any,
  cache: _cache.KVCache | None,
  *,
  pad: int,
) -> None:
  """Raises on shapes that disagree and, where known, on impossible values."""
  _check_shapes(tokens, positions, attention_mask, cache)
  if isinstance(tokens, jax.core.Tracer):
    return
  ids = np.asarray(tokens)
  bad = ids[(ids < 0) | (ids >= config.num_embed)]
  if bad.size:
    raise ValueError(
      f'Token id {bad[0]} is outside of the table of {config.num_embed} rows. '
      'Was the text encoded with the tokenizer of another model?'
    )
  if cache is not None and not isinstance(cache.length, jax.core.Tracer):
    new = (ids != pad).reshape(-1, ids.shape[-1]).sum(axis=1)
    check_room(np.asarray(cache.length) + new, cache.cache_length)


def check_room(lengths: np.ndarray, cache_length: int) -> None:
  """Raises if a row has more tokens than the cache can hold."""
  if lengths.size and lengths.max() > cache_length:
    row = int(lengths.argmax())
    raise ValueError(
      f'Row {row} has {lengths[row]} tokens, but the cache holds '
      f'{cache_length}. Shorten the input or raise cache_length.'
    )


def _check_shapes(
  tokens: jax.Array,
  positions: Any,
  attention_mask: Any,
  cache: _cache.KVCache | None,
) -> None:
  if not jnp.issubdtype(tokens.dtype, jnp.integer):
    raise TypeError(
      f'tokens are {tokens.dtype}, but must be integer ids, such as those of '
      '`tokenizer.encode`.'
    )
  if tokens.ndim < 1 or tokens.size == 0:
    raise ValueError(
      f'tokens have shape {tokens.shape}. Give at least one token, *B L.'
    )
  if positions is not None and jnp.shape(positions) != tokens.shape:
    raise ValueError(
      f'positions have shape {jnp.shape(positions)}, tokens {tokens.shape}. '
      'They must be equal.'
    )
  columns = tokens.shape[-1] if cache is None else cache.cache_length
  expected = (*tokens.shape, columns)
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
