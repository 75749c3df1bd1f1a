"""Pan and scan: an oblong image, and crops along its longer side.

An image is squeezed to a square, whatever its shape. Crops keep small details
of oblong ones, for 260 more tokens each. Optional: see the report of Gemma 3
(arXiv:2503.19786), section 2.1.
"""

import dataclasses
from typing import NamedTuple

from jaxtyping import UInt8
import numpy as np

from gemma.gm.vision import _read


class Box(NamedTuple):
  """A part of an image, in pixels. The last row and column are not in it."""

  top: int
  left: int
  bottom: int
  right: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class PanAndScan:
  """Which images are cut, and into how many crops.

  >>> from gemma import gm
  >>> gm.vision.PanAndScan().boxes(height=400, width=800)
  (Box(top=0, left=0, bottom=400, right=400),
   Box(top=0, left=400, bottom=400, right=800))

  Attributes:
    min_ratio: Images whose longer side is less than this many times the
      shorter one are not cut. 1.2 in `transformers`, 1.5 in Google's port to
      PyTorch.
    min_crop_size: Images are not cut into crops with a side of fewer pixels.
    max_crops: The most crops of an image.
  """

  min_ratio: float = 1.2
  min_crop_size: int = 256
  max_crops: int = 4

  def __post_init__(self) -> None:
    """Checks the fields."""
    at_least = {'min_ratio': 1, 'min_crop_size': 1, 'max_crops': 2}
    for name, least in at_least.items():
      value = getattr(self, name)
      if not value >= least:
        raise ValueError(f'{name}={value} should be {least} or more.')

  def boxes(self, height: int, width: int) -> tuple[Box, ...]:
    """The crops of an image of this size, from the top or the left."""
    long, short = max(height, width), min(height, width)
    if long / short < self.min_ratio:
      return ()
    num = min((2 * long + short) // (2 * short), long // self.min_crop_size)
    num = min(max(num, 2), self.max_crops)
    side = -(-long // num)
    if min(side, short) < self.min_crop_size:
      return ()
    # The last crop ends with the image. Of a few pixels, none may be left.
    cuts = [(i, min(i + side, long)) for i in range(0, long, side)]
    if width >= height:
      return tuple(Box(0, start, height, stop) for start, stop in cuts)
    return tuple(Box(start, 0, stop, width) for start, stop in cuts)

  def prompt(self, num_crops: int, image: str = '<start_of_image>') -> str:
    """What a prompt says in place of one image, with a placeholder for each.

    The words are those of `transformers`.

    Args:
      num_crops: Crops of this image; none leave the placeholder alone.
      image: The placeholder.
    """
    if not num_crops:
      return image
    crops = ' '.join([image] * num_crops)
    return (
      f'Here is the original image {image} and here are some crops to help you '
      f'see better {crops}'
    )


def pan_and_scan(
  image: _read.ImageLike, config: PanAndScan | None = None
) -> list[UInt8[np.ndarray, '_ _ 3']]:
  """An image and its crops, for `preprocess`.

  >>> from gemma import gm
  >>> import numpy as np
  >>> images = gm.vision.pan_and_scan(np.zeros((300, 1000), np.uint8))
  >>> [image.shape[:2] for image in images]
  [(300, 1000), (300, 334), (300, 334), (300, 332)]
  >>> print(gm.vision.PanAndScan().prompt(len(images) - 1, '[]'))
  Here is the original image [] and here are some crops to help you see
  better [] [] []

  Args:
    image: Anything that `read_image` takes.
    config: When to cut; `PanAndScan()` if not given.

  Returns:
    The whole image, then the crops from the left or the top: views, in their
    own sizes. The whole image alone if it is not oblong, or small.

  Raises:
    ValueError: As `read_image`.
    TypeError: As `read_image`.
  """
  pixels = _read.read_image(image)
  boxes = (config or PanAndScan()).boxes(*pixels.shape[:2])
  return [pixels, *(pixels[b.top : b.bottom, b.left : b.right] for b in boxes)]
