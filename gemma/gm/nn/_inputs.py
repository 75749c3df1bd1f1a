"""What a model is called with, checked and brought into one form.

Axes: *B any batch dims, B the same flattened, L length, T length with room for
images, N images of a row, Y X C rows, columns and channels of an image, S soft
tokens, D model, K columns of a caller's mask.
"""

import math
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Num

from gemma.gm.math import _mask
from gemma.gm.math import _shapes
from gemma.gm.nn import _cache
from gemma.gm.nn import _checks
from gemma.gm.nn import _config
from gemma.gm.nn import _image_checks
from gemma.gm.vision import _expand


class Inputs(struct.PyTreeNode):
  """Arrays with one batch dim.

  Attributes:
    tokens: Token ids.
    images: Pixels; with them, tokens have no room for images yet.
    soft_tokens: Of images that were encoded before; tokens have their places.
    inputs_embeds: Vectors in place of those of the tokens.
    positions: Of the tokens, with room for images.
    attention_mask: Which tokens each token may see, with room for images.
    segment_ids: Of the tokens: equal for those that see each other.
  """

  tokens: Int[Array, 'B L']
  images: Num[Array, 'B N Y X C'] | None = None
  soft_tokens: Float[Array, 'B S D'] | None = None
  inputs_embeds: Float[Array, 'B L D'] | None = None
  positions: Int[Array, 'B T'] | None = None
  attention_mask: Bool[Array, 'B T K'] | None = None
  segment_ids: Int[Array, 'B L'] | None = None

  @property
  def has_images(self) -> bool:
    return self.images is not None or self.soft_tokens is not None


def read(
  config: _config.TransformerConfig,
  tokens: Any,
  cache: _cache.KVCache | None,
  *,
  images: Any = None,
  soft_tokens: Any = None,
  inputs_embeds: Any = None,
  positions: Any = None,
  attention_mask: Any = None,
  segment_ids: Any = None,
) -> Inputs:
  """Checks the arguments of a call; see `Transformer`.

  Raises:
    ValueError: If shapes disagree, or, where values are known, one is
      impossible.
    TypeError: If tokens are not integers.
  """
  tokens = jnp.asarray(tokens)
  _checks.check_tokens(tokens)
  batch = tokens.shape[:-1]
  if images is not None:
    images = _image_checks.as_images(images, config, batch)
  if soft_tokens is not None:
    soft_tokens = _image_checks.as_soft_tokens(soft_tokens, config, batch)
  length = length_of(config, tokens.shape[-1], images)
  _checks.check_shapes(tokens, length, positions, attention_mask, cache)
  _checks.check_embeds(config, tokens, inputs_embeds, images)
  _checks.check_segments(tokens, segment_ids, attention_mask, cache)
  _image_checks.check_places(config, tokens, images, soft_tokens)
  _checks.check_values(config, tokens, cache, images)
  rows = math.prod(batch)
  return Inputs(
    tokens=_flatten(tokens, rows, 2),
    images=_flatten(images, rows, 5),
    soft_tokens=_flatten(soft_tokens, rows, 3),
    inputs_embeds=_flatten(inputs_embeds, rows, 3),
    positions=_flatten(positions, rows, 2),
    attention_mask=_flatten(attention_mask, rows, 3),
    segment_ids=_flatten(segment_ids, rows, 2),
  )


def length_of(
  config: _config.TransformerConfig,
  length: _shapes.Size,
  images: jax.Array | None,
) -> _shapes.Size:
  """Length of a row with room for its images."""
  if images is None or config.vision_encoder is None:
    return length
  return _expand.expanded_length(
    length,
    images=images.shape[-4],
    count=config.vision_encoder.num_mm_tokens_per_image,
  )


def mask_of(
  tokens: Int[Array, 'B T'],
  length: Int[Array, 'B'],
  dense: Bool[Array, 'B T K'] | None,
  *,
  cached: bool,
  images: bool,
  segment_ids: Int[Array, 'B T'] | None = None,
) -> _mask.Mask:
  """The mask that all layers share, with the new tokens as keys.

  Args:
    tokens: Token ids, with room for images.
    length: Tokens that each row had before.
    dense: The caller's own, in place of all rules.
    cached: Whether there is a cache.
    images: Whether there are images.
    segment_ids: Equal for those tokens that see each other.
  """
  real = tokens != _checks.PAD
  if dense is not None and not cached:
    # The caller's columns are places in the row, padding included.
    index = jnp.broadcast_to(jnp.arange(real.shape[1]), real.shape)
    return _mask.Mask(q_index=index, k_index=index, dense=dense, causal=False)
  count = jnp.cumsum(real, axis=1, dtype=jnp.int32)
  index = length[:, None] + jnp.maximum(count - 1, 0)
  q_last = None
  if images:
    q_last = _mask.last_of_runs(index, tokens == _expand.PLACEHOLDER)
  q_first = None
  if segment_ids is not None:
    q_first = _mask.first_of_runs(index, segment_ids)
  return _mask.Mask(
    q_index=index,
    k_index=jnp.where(real, index, -1),
    dense=dense,
    q_last=q_last,
    q_first=q_first,
    causal=dense is None,
  )


def last_of(
  x: Float[Array, 'B T D'], real: Bool[Array, 'B T']
) -> Float[Array, 'B D']:
  """The state of each row's last real token."""
  last = jnp.max(jnp.where(real, jnp.arange(real.shape[1])[None], 0), axis=1)
  return jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]


def _flatten(x: Any, rows: _shapes.Size, ndim: int) -> Any:
  if x is None:
    return None
  return jnp.asarray(x).reshape(rows, *x.shape[x.ndim - ndim + 1 :])
