"""Arrays and PIL images of every kind to RGB, 8 bits each.

Axes: H rows, W columns, C channels.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import UInt8
import numpy as np
from PIL import Image

# As long as a JPEG can be. Beyond, the weights of a resize alone, which are
# about a side for each pixel of the result, would fill a gigabyte.
MAX_SIDE = 65_535
_CHANNELS = (1, 2, 3, 4)
# Of floats beyond 0 and 1: what rounding makes of a sum of weights, far less
# than a level.
_SLACK = 1e-4


def check_size(height: int, width: int, *, name: str) -> None:
  """Raises unless an image of this size can be resized.

  Raises:
    ValueError: If a side is 0, or longer than `MAX_SIDE`.
  """
  if not height or not width:
    raise ValueError(
      f'{name} is {height} x {width} (height x width): it has no pixels.'
    )
  if max(height, width) > MAX_SIDE:
    raise ValueError(
      f'{name} is {height:,} x {width:,} (height x width), and a side may '
      f'have {MAX_SIDE:,} pixels. Crop it, or make it smaller.'
    )


def from_array(image: Any) -> UInt8[np.ndarray, 'H W 3']:
  """Pixels of an array: rows, columns, and channels if it is not grey.

  Args:
    image: `uint8`, or floats from 0 to 1.

  Returns:
    The array itself where it is RGB already.

  Raises:
    TypeError: If the dtype is another.
    ValueError: If the shape is not that of one image, or if floats are not
      finite or not from 0 to 1.
  """
  pixels = np.asarray(image)
  if pixels.ndim == 2:
    pixels = pixels[..., None]
  _check_shape(pixels)
  # The floats of JAX include bfloat16, which is none to NumPy.
  if jnp.issubdtype(pixels.dtype, jnp.floating):
    pixels = _from_floats(pixels)
  if pixels.dtype != np.uint8:
    raise TypeError(
      f'The image is an array of {pixels.dtype}. Give uint8 (0 to 255), or '
      'floats from 0 to 1. For 8-bit values in a wider dtype: '
      'image.astype(np.uint8); for 16-bit values: '
      '(image >> 8).astype(np.uint8).'
    )
  match pixels.shape[-1]:
    case 1:
      return np.repeat(pixels, 3, axis=-1)
    case 3:
      return pixels
    case _:
      return _on_white(Image.fromarray(pixels))


def from_pil(image: Image.Image) -> UInt8[np.ndarray, 'H W 3']:
  """Pixels of a PIL image of any mode.

  Args:
    image: Decoded, and upright.

  Raises:
    TypeError: If pixels are 32-bit integers, whose range is unknown.
    ValueError: If pixels are floats out of the range from 0 to 1, or if PIL
      has no way from its mode to RGB.
  """
  if image.mode.startswith('I;16'):
    # The high byte, which is what PIL takes of 16-bit color images too. Its own
    # way from grey clips instead: all above 255 of 65,535 would be white.
    return from_array((np.asarray(image) >> 8).astype(np.uint8))
  if image.mode in ('I', 'F'):
    return from_array(np.asarray(image))
  if image.mode == 'La':
    image = image.convert('LA')  # There is no direct way to RGBA.
  if image.has_transparency_data:
    return _on_white(image)
  return np.array(image.convert('RGB'))


def _on_white(image: Image.Image) -> np.ndarray:
  """What transparent pixels hold is arbitrary, so they must not be seen."""
  image = image.convert('RGBA')
  white = Image.new('RGBA', image.size, 'white')
  return np.array(Image.alpha_composite(white, image).convert('RGB'))


def _check_shape(pixels: np.ndarray) -> None:
  shape = pixels.shape
  if len(shape) == 3 and shape[-1] in _CHANNELS:
    check_size(*shape[:2], name='The image')
    return
  fix = 'Give rows x columns (x 1 to 4 channels).'
  if len(shape) == 3 and shape[0] in _CHANNELS:
    fix = 'Channels come last: image.transpose(1, 2, 0).'
  elif len(shape) > 3:
    fix = 'It looks like several images: give them as a list.'
  raise ValueError(f'The image is an array of shape {shape}. {fix}')


def _from_floats(pixels: np.ndarray) -> np.ndarray:
  """Floats from 0 to 1 as the nearest of 256 levels."""
  pixels = pixels.astype(np.float32)
  if not np.isfinite(pixels).all():
    raise ValueError(
      f'{np.count_nonzero(~np.isfinite(pixels)):,} of {pixels.size:,} values '
      'of the image are NaN or infinite. Find out where they come from, or '
      'replace them with np.nan_to_num.'
    )
  low, high = pixels.min(), pixels.max()
  if low < -_SLACK or high > 1 + _SLACK:
    raise ValueError(
      f'The image has floats from {low:g} to {high:g}, and they should be from '
      '0 to 1. For 0 to 255: image.astype(np.uint8); for -1 to 1: '
      '(image + 1) / 2.'
    )
  return np.rint(pixels.clip(0, 1) * 255).astype(np.uint8)
