"""Images to what models take: squares of one size, as one array.

Axes: N images, S height and width.
"""

from collections.abc import Sequence
from typing import TypeAlias

import jax
from jaxtyping import Float32
from jaxtyping import UInt8
import numpy as np

from gemma.gm.vision import _read
from gemma.gm.vision import _resize

# One, several, or several of one size as one array.
Images: TypeAlias = _read.ImageLike | Sequence[_read.ImageLike]


def preprocess(
  images: Images, *, size: int = _resize.SIZE
) -> UInt8[np.ndarray, 'N S S 3']:
  """One row's images, of any sizes, as the array that `Transformer` takes.

  They have the size of the encoder already, so the resize inside of the model
  changes nothing, and one program serves images of all sizes. Levels are
  rounded once: at most half a level of 255 from what the model would make of
  the image itself; see `pixel_values` for none.

  >>> from gemma import gm
  >>> import numpy as np
  >>> wide, tall = np.zeros((2, 9), np.uint8), np.ones((5, 4, 3))
  >>> gm.vision.preprocess([wide, tall]).shape
  (2, 896, 896, 3)

  Args:
    images: One, a list of them, or an array `N H W C`; each is anything that
      `read_image` takes. For crops, give those of `pan_and_scan`.
    size: Height and width.

  Returns:
    `uint8[N, size, size, 3]`, levels from 0 to 255. `N` is 0 for an empty list.

  Raises:
    ValueError: As `read_image`, with a note on which image it is; or if `size`
      is not positive.
    TypeError: As `read_image`.
  """
  return _stack(images, size, np.uint8)


def pixel_values(
  images: Images, *, size: int = _resize.SIZE
) -> Float32[np.ndarray, 'N S S 3']:
  """What the vision encoder gets to see: resized and normalized, not rounded.

  Equal to the published pipeline within 0.0002, which is what that rounds its
  weights by. `transformers` resizes in 8 bits, which is up to one level of 255
  (0.0079) away from both; docs/vision.md has the numbers.

  >>> from gemma import gm
  >>> import numpy as np
  >>> gm.vision.pixel_values(np.array([[0, 255]], np.uint8), size=4)[
  ...   0, 0, :, 0
  ... ]
  array([-1. , -0.5,  0.5,  1. ], dtype=float32)

  Args:
    images: As for `preprocess`.
    size: Height and width.

  Returns:
    `float32[N, size, size, 3]`, from -1 to 1.

  Raises:
    ValueError: As `preprocess`.
    TypeError: As `preprocess`.
  """
  return normalize(_stack(images, size, np.float32))


def normalize(
  levels: UInt8[np.ndarray, '*B'] | Float32[np.ndarray, '*B'],
) -> Float32[np.ndarray, '*B']:
  """Levels from 0 to 255 as numbers from -1 to 1; beyond, they are clipped."""
  half = np.float32(127.5)
  return np.clip((levels.astype(np.float32) - half) / half, -1, 1)


def _stack(
  images: Images, size: int, dtype: type[np.uint8] | type[np.float32]
) -> np.ndarray:
  _resize.check_size(size)
  listed = _as_list(images)
  out = np.empty((len(listed), size, size, 3), dtype)
  for i, image in enumerate(listed):
    try:
      resized = _resize.resize_image(image, size)
    except (OSError, TypeError, ValueError) as e:
      e.add_note(f'This is image {i} of {len(listed)}.')
      raise
    out[i] = np.rint(resized) if dtype == np.uint8 else resized
  return out


def _as_list(images: Images) -> Sequence[_read.ImageLike]:
  if isinstance(images, np.ndarray | jax.Array):
    # On the host: parts of a JAX array are a program for each of its shapes.
    return [*np.asarray(images)] if images.ndim == 4 else [images]
  if isinstance(images, Sequence) and not isinstance(images, str | bytes):
    return images
  return [images]
