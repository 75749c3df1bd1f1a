"""Arrays of pixels to patches, inside of a compiled model.

Axes: *B any batch dims, Y and X rows and columns of an image, H and W those
that the encoder takes, C channels, P patches, E elements of a patch.
"""

import einops
import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Num

_MIDDLE = 127.5  # Of the 256 values of a channel.


def fit(
  images: Num[Array, '*B Y X C'], *, height: int, width: int
) -> Float[Array, '*B H W C']:
  """Images in the encoder's size, normalized to [-1, 1].

  The ratio of the sides is not kept. Smaller images are anti-aliased: each
  pixel is a weighted mean of all that it covers, in float32 and unrounded.

  Args:
    images: Pixels from 0 to 255, integers or floats.
    height: Rows that the encoder takes.
    width: Columns that the encoder takes.
  """
  size = (*images.shape[:-3], height, width, images.shape[-1])
  pixels = images.astype(jnp.float32)
  pixels = jax.image.resize(pixels, size, method='bilinear', antialias=True)
  return jnp.clip((pixels - _MIDDLE) / _MIDDLE, -1, 1)


def patchify(
  images: Float[Array, '*B H W C'], patch_size: tuple[int, int]
) -> Float[Array, '*B P E']:
  """Cuts images into patches, row by row; inside too, channels together."""
  rows, columns = patch_size
  return einops.rearrange(
    images,
    '... (h p) (w q) c -> ... (h w) (p q c)',
    p=rows,
    q=columns,
  )
