"""A way through JPEG, as some of the published code went."""

import io

from jaxtyping import UInt8
import numpy as np
from PIL import Image

from gemma.gm.vision import _read


def recompress_jpeg(
  image: _read.ImageLike, quality: int = 95
) -> UInt8[np.ndarray, 'H W 3']:
  """An image as it is after it was saved as a JPEG, in its own size.

  Gemma 3 saw JPEGs in training. An old helper of the published package sent
  every image through JPEG before its resize; its models' own path does not, and
  neither does `preprocess`. For images that never were JPEGs, it may be tried:
  `preprocess(recompress_jpeg(image))`.

  >>> from gemma import gm
  >>> import numpy as np
  >>> gm.vision.recompress_jpeg(np.full((8, 8), 100, np.uint8))[0, 0]
  array([100, 100, 100], dtype=uint8)

  Args:
    image: Anything that `read_image` takes.
    quality: From 1 to 100. 95, with colors in half the resolution, is the
      default of the encoder that the helper called.

  Raises:
    ValueError: If `quality` is out of range; else as `read_image`.
    TypeError: As `read_image`.
  """
  if not 1 <= quality <= 100:
    raise ValueError(f'quality={quality} is not from 1 to 100.')
  file = io.BytesIO()
  Image.fromarray(_read.read_image(image)).save(
    file, 'JPEG', quality=quality, subsampling='4:2:0'
  )
  return _read.read_image(file.getvalue())
