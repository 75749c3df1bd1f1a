"""Checks of images and soft tokens that a user hands to a model."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gemma.gm.nn import _config
from gemma.gm.vision import _expand

Batch = tuple[int, ...]


def as_images(
  images: Any, config: _config.TransformerConfig, batch: Batch | None
) -> jax.Array:
  """Images as `*B N H W C`.

  Args:
    images: Pixels, `*B N H W C` or `*B H W C`.
    config: Of a model with a vision encoder.
    batch: Batch dims of the tokens; None if there are none to agree with.

  Raises:
    ValueError: If the shape is another, or the values are no pixels.
  """
  _check_pixels(images)
  images = jnp.asarray(images)
  ndim = images.ndim if batch is None else len(batch) + 4
  if images.ndim == ndim - 1:
    images = images[..., None, :, :, :]
  encoder = config.vision_encoder
  channels = 3 if encoder is None else encoder.image_channels
  wrong = images.ndim != ndim or images.ndim < 3
  if batch is not None:
    wrong = wrong or images.shape[:-4] != batch
  if wrong or images.shape[-1] != channels or images.size == 0:
    first = 'any number of dims' if batch is None else f'{batch}'
    raise ValueError(
      f'images have shape {images.shape}. Give those of the tokens, {first}, '
      'then, if you like, the images of a row, then height, width and '
      f'{channels} channels.'
    )
  return images


def as_soft_tokens(
  soft_tokens: Any, config: _config.TransformerConfig, batch: Batch
) -> jax.Array:
  """Soft tokens as `*B S D`, with those of all images of a row together.

  Raises:
    ValueError: If the shape is another.
  """
  soft_tokens = jnp.asarray(soft_tokens)
  shape = soft_tokens.shape
  extra = len(shape) - len(batch)
  if (
    extra not in (2, 3)
    or shape[: len(batch)] != batch
    or shape[-1] != config.embed_dim
  ):
    raise ValueError(
      f'soft_tokens have shape {shape}, tokens have batch dims {batch}. Give '
      "what `method='encode_images'` returns: batch dims, images, soft tokens "
      f'of one, {config.embed_dim}.'
    )
  return soft_tokens.reshape(*batch, -1, config.embed_dim)


def check_places(
  config: _config.TransformerConfig,
  tokens: jax.Array,
  images: jax.Array | None,
  soft_tokens: jax.Array | None,
) -> None:
  """Raises if images and their places differ in number, where known.

  Raises:
    ValueError: With both numbers.
  """
  if images is not None and soft_tokens is not None:
    raise ValueError(
      'Both images and soft_tokens were given. Give images with tokens that '
      'have no room for them, or soft_tokens with tokens that have.'
    )
  if config.vision_encoder is None or isinstance(tokens, jax.core.Tracer):
    return
  ids = np.asarray(tokens).reshape(-1, tokens.shape[-1])
  _check_room(config, ids, soft_tokens)
  starts = (ids == config.image_tokens.start).sum(axis=1)
  if images is not None and starts.max() != images.shape[-4]:
    raise ValueError(
      f'{images.shape[-4]} images in a row, but the prompts have at most '
      f'{starts.max()} <start_of_image> ({config.image_tokens.start}). Add or '
      'remove placeholders.'
    )


def _check_room(
  config: _config.TransformerConfig,
  ids: np.ndarray,
  soft_tokens: jax.Array | None,
) -> None:
  """Raises on more places than soft tokens, and on parts of an image."""
  count, have = 1, 0
  if config.vision_encoder is not None:
    count = config.vision_encoder.num_mm_tokens_per_image
  if soft_tokens is not None:
    have = soft_tokens.shape[-2]
  for row, n in enumerate((ids == _expand.PLACEHOLDER).sum(axis=1)):
    found = f'Row {row} has {n} placeholders ({_expand.PLACEHOLDER})'
    if n % count:
      raise ValueError(
        f'{found}, but an image has {count}. All of one image must be in one '
        'call: they see each other.'
      )
    if n > have:
      raise ValueError(
        f'{found}, but {have} soft_tokens were given. With images, leave room '
        f'for them to the model: {config.image_tokens.start} stands for one.'
      )


def _check_pixels(images: Any) -> None:
  """Raises on images that are black to the model, as those of [0, 1] are."""
  if isinstance(images, jax.core.Tracer):
    return
  # Integers stay where they are.
  pixels = images if isinstance(images, jax.Array) else np.asarray(images)
  if jnp.issubdtype(pixels.dtype, jnp.floating) and pixels.size:
    low, high = float(pixels.min()), float(pixels.max())
    if not 0 <= low <= high <= 255 or 0 < high <= 1:
      raise ValueError(
        f'images are {pixels.dtype} from {low:g} to {high:g}. Give pixels from '
        '0 to 255: they are normalised inside of the model.'
      )
  elif pixels.dtype == bool or not jnp.issubdtype(pixels.dtype, jnp.number):
    raise ValueError(
      f'images are {pixels.dtype}. Give pixels from 0 to 255, as uint8.'
    )
