"""The resize of the published pipeline, on the host."""

from jaxtyping import Float32
import numpy as np
from PIL import Image

from gemma.gm.vision import _read

SIZE = 896  # Height and width that the vision encoder of Gemma 3 takes.


def resize_image(
  image: _read.ImageLike, size: int = SIZE
) -> Float32[np.ndarray, 'S S 3']:
  """A square image: bilinear, antialiased, not rounded.

  The aspect ratio is not kept; models were trained so. Where an image shrinks,
  the triangle of weights is widened by as much as it shrinks.

  The same as `jax.image.resize(..., 'bilinear', antialias=True)` in float32,
  but on the host: a compiled program would be one for each size of an image.

  >>> from gemma import gm
  >>> import numpy as np
  >>> gm.vision.resize_image(np.array([[0, 255]], np.uint8), 4)[0, :, 0]
  array([  0.  ,  63.75, 191.25, 255.  ], dtype=float32)

  Args:
    image: Anything that `read_image` takes.
    size: Height and width of the result.

  Returns:
    Size x size x 3, levels from 0 to 255.

  Raises:
    ValueError: If `size` is not positive.
  """
  check_size(size)
  pixels = _read.read_image(image)
  out = np.empty((size, size, 3), np.float32)
  for channel in range(3):
    # PIL resizes floats unrounded, and images of 8 bits with two roundings.
    band = Image.fromarray(np.ascontiguousarray(pixels[..., channel]))
    band = band.convert('F').resize((size, size), Image.Resampling.BILINEAR)
    out[..., channel] = np.asarray(band)
  return out


def check_size(size: int) -> None:
  """Raises unless there can be an image of this height and width."""
  if size < 1:
    raise ValueError(f'size={size} is not positive. Gemma 3 takes {SIZE}.')
