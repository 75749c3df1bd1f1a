"""Images to soft tokens, as Gemma 3 sees them.

Axes: *B any batch dims, H W C rows, columns and channels of an image, P
patches, E elements of a patch, S soft tokens, D width.
"""

import math

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Num

from gemma.gm.vision import _patches
from gemma.gm.vision import _vit


class SigLiPFromPatches(nn.Module):
  """The vision encoder of Gemma 3, https://arxiv.org/abs/2503.19786.

  ```python
  >>> import jax, jax.numpy as jnp
  >>> from gemma import gm
  >>> encoder = gm.nn.SigLiPFromPatches()
  >>> images = jax.ShapeDtypeStruct((2, 600, 800, 3), jnp.uint8)
  >>> jax.eval_shape(encoder.patchify_images, images).shape
  (2, 4096, 588)

  ```

  Attributes:
    siglip_encoder: Patches to features.
    siglip_exit: Features to fewer of them.
    num_mm_tokens_per_image_prepool: Patches of an image.
    num_mm_tokens_per_image: Soft tokens of an image.
    image_height: Rows that images are resized to.
    image_width: Columns that images are resized to.
    image_channels: Channels of an image.
    apply_stop_gradient: Whether the encoder stays as it is in training. What
      projects the soft tokens into the model is trained even so.
  """

  siglip_encoder: _vit.ViTModel = _vit.ViTModel(parent=None)
  siglip_exit: _vit.VisionExit = _vit.VisionExit(parent=None)
  num_mm_tokens_per_image_prepool: int = 4096
  num_mm_tokens_per_image: int = 256
  image_height: int = 896
  image_width: int = 896
  image_channels: int = 3
  apply_stop_gradient: bool = True

  def patchify_images(
    self, images: Num[Array, '*B H W C']
  ) -> Float[Array, '*B P E']:
    """Patches of images of any size, resized and normalised.

    Args:
      images: Pixels from 0 to 255.
    """
    images = _patches.fit(
      images, height=self.image_height, width=self.image_width
    )
    return _patches.patchify(images, self.siglip_encoder.patch_size)

  def __call__(
    self, *, patches: Float[Array, '*B P E'], is_training: bool
  ) -> Float[Array, '*B S D']:
    """Soft tokens of each image, not yet in the width of the model.

    Args:
      patches: From `patchify_images`.
      is_training: Changes nothing: there is no dropout.
    """
    del is_training
    x = self.siglip_encoder(patches.reshape(-1, *patches.shape[-2:]))
    x = self.siglip_exit(x)
    if self.apply_stop_gradient:
      x = jax.lax.stop_gradient(x)
    return x.reshape(*patches.shape[:-2], *x.shape[1:])


def siglip(
  *,
  image_size: int,
  patch_size: int,
  soft_tokens: int,
  width: int,
  depth: int,
  mlp_dim: int,
  num_heads: int,
) -> SigLiPFromPatches:
  """An encoder of another size, from the numbers that others follow from."""
  encoder = SigLiPFromPatches(
    siglip_encoder=_vit.ViTModel(
      patch_size=(patch_size, patch_size),
      width=width,
      depth=depth,
      mlp_dim=mlp_dim,
      num_heads=num_heads,
      parent=None,
    ),
    siglip_exit=_vit.VisionExit(output_length=soft_tokens, parent=None),
    num_mm_tokens_per_image_prepool=(image_size // patch_size) ** 2,
    num_mm_tokens_per_image=soft_tokens,
    image_height=image_size,
    image_width=image_size,
    parent=None,
  )
  check(encoder)
  return encoder


def check(encoder: SigLiPFromPatches) -> None:
  """Raises on an encoder whose numbers contradict each other."""
  vit, tokens = encoder.siglip_encoder, encoder.num_mm_tokens_per_image
  rows, columns = vit.patch_size
  height, width = encoder.image_height, encoder.image_width
  if height % rows or width % columns:
    raise ValueError(
      f'Images of {height} x {width} cannot be cut into patches of {rows} x '
      f'{columns}. Change image_height and image_width, or patch_size.'
    )
  patches = height // rows * (width // columns)
  if patches != encoder.num_mm_tokens_per_image_prepool:
    raise ValueError(
      f'An image of {height} x {width} has {patches} patches of {rows} x '
      f'{columns}, but num_mm_tokens_per_image_prepool is '
      f'{encoder.num_mm_tokens_per_image_prepool}. They must agree.'
    )
  if tokens != encoder.siglip_exit.output_length:
    raise ValueError(
      f'num_mm_tokens_per_image={tokens}, but siglip_exit has output_length='
      f'{encoder.siglip_exit.output_length}. They must agree.'
    )
  square = height // rows == width // columns and _root(tokens)
  if not square or (height // rows) % _root(tokens):
    raise ValueError(
      f'{height // rows} x {width // columns} patches cannot be pooled into '
      f'num_mm_tokens_per_image={tokens}: both must be squares, and one side '
      'divide the other.'
    )
  if vit.width % vit.num_heads:
    raise ValueError(
      f'width={vit.width} of siglip_encoder is not a multiple of its '
      f'num_heads={vit.num_heads}.'
    )


def _root(x: int) -> int:
  """The side of a square of this area; 0 if there is none."""
  root = math.isqrt(x)
  return root if root * root == x else 0


def blank(encoder: SigLiPFromPatches) -> Num[Array, '1 1 H W C']:
  """An image for the parameters to be made by."""
  size = encoder.image_height, encoder.image_width, encoder.image_channels
  return jnp.zeros((1, 1, *size), jnp.uint8)
