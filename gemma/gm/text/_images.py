"""Images of every form that a caller may give, as pixels of each prompt."""

from collections.abc import Sequence
import dataclasses
import os
from typing import Any

import jax
import numpy as np

from gemma.gm.nn import _like
from gemma.gm.text import _album
from gemma.gm.vision import _preprocess

_FORMS = (
  'Give a list with one entry for each prompt: an image, a list of images, or '
  'None.'
)


@dataclasses.dataclass(frozen=True)
class Given:
  """Images of each prompt.

  Attributes:
    rows: The images.
    padded: Whether rows may end in images that nobody asked for, because all
      are one array.
  """

  rows: list[list[Any]]
  padded: bool = False


def by_prompt(images: Any, prompts: int, *, batched: bool) -> Given:
  """Which images belong to which prompt.

  Args:
    images: For one prompt, an image, several as a list, or an array `N H W C`.
      For several prompts, a list with such an entry, or None, for each of them;
      or an array `B H W C` or `B N H W C`. An image is anything that
      `gm.vision.read_image` takes.
    prompts: How many prompts there are.
    batched: Whether the caller gave several.

  Raises:
    ValueError: If images are not those of so many prompts.
  """
  if images is None:
    return Given([[] for _ in range(prompts)])
  if not batched:
    return Given([_of_prompt(images)])
  if _is_array(images):
    if images.ndim not in (4, 5) or images.shape[0] != prompts:
      raise ValueError(
        f'images have shape {images.shape} for {prompts} prompts. Give '
        f'B H W C or B N H W C with B = {prompts}. {_FORMS}'
      )
    rows = [_of_prompt(row) for row in np.asarray(images)]
    return Given(rows, padded=images.ndim == 5)
  if _is_image(images):
    raise ValueError(f'One image was given for {prompts} prompts. {_FORMS}')
  if len(images) != prompts:
    raise ValueError(
      f'images has {len(images)} entries for {prompts} prompts. {_FORMS}'
    )
  return Given([_of_prompt(row) for row in images])


def are_given(images: Any) -> bool:
  """Whether there is any image, in whatever form."""
  if isinstance(images, list | tuple):
    return any(map(are_given, images))
  return images is not None


class Reader:
  """Images to pixels, as a model gets to see them.

  Attributes:
    album: All that was read.
  """

  def __init__(self, model: _like.TransformerLike):
    """Reads for a model.

    Args:
      model: The model.
    """
    self.album: dict[_album.Ids, np.ndarray] = {}
    self._model = model
    self._known: dict[Any, _album.Ids] = {}

  def __call__(self, images: Sequence[Any], *, where: str) -> list[_album.Ids]:
    """Ids of the images of one prompt.

    Args:
      images: The images.
      where: Says in errors which prompt it is.

    Raises:
      ValueError: If the model does not see; or as `gm.vision.read_image`, with
        a note on which image it is.
    """
    keys = [_key(image) for image in images]
    if not all(key in self._known for key in keys):
      count = soft_tokens_of(self._model)
      for key, pixels in zip(keys, self.pixels(images, where), strict=True):
        self._known[key] = _album.soft_ids(pixels, count)
        self.album[self._known[key]] = pixels
    return [self._known[key] for key in keys]

  def pixels(self, images: Sequence[Any], where: str) -> list[np.ndarray]:
    """Pixels of the images of one prompt; see above."""
    if not images:
      return []
    size = check_sees(self._model)
    try:
      return [*_preprocess.preprocess([*images], size=size)]
    except (OSError, TypeError, ValueError) as e:
      e.add_note(f'It belongs to {where}.')
      raise


def check_sees(model: _like.TransformerLike) -> int:
  """Height and width of what the model gets to see.

  Raises:
    ValueError: If it has no vision encoder.
  """
  encoder = model.config.vision_encoder
  if encoder is None:
    raise ValueError(
      f'{type(model).__name__} does not support vision, but images were given. '
      'Leave them out, or take a size with a vision encoder, such as '
      'Gemma3_4B, without text_only=True.'
    )
  return encoder.image_height


def soft_tokens_of(model: _like.TransformerLike) -> int:
  """Soft tokens of an image; 1 for a model that does not see."""
  encoder = model.config.vision_encoder
  return 1 if encoder is None else encoder.num_mm_tokens_per_image


def album_of(
  images: Sequence[Any], model: _like.TransformerLike
) -> _album.Album:
  """Pixels as an album for a model."""
  return _album.Album.of(map(np.asarray, images), soft_tokens_of(model))


def count_error(images: int, placeholders: int, where: str) -> ValueError:
  """What is said where images and placeholders differ in number."""
  return ValueError(
    f'{images} image{"" if images == 1 else "s"} but {placeholders} '
    f'<start_of_image> in {where}. Add or remove placeholders.'
  )


def _of_prompt(images: Any) -> list[Any]:
  """Images of one prompt."""
  if images is None:
    return []
  if _is_array(images):
    if images.ndim > 4:
      raise ValueError(
        f'images have shape {images.shape} for one prompt. Give H W C, or '
        'N H W C for several images.'
      )
    # On the host: parts of a JAX array are a program for each of its shapes.
    return [*np.asarray(images)] if images.ndim == 4 else [images]
  if _is_image(images):
    return [images]
  for image in images:
    if not _is_image(image) or (_is_array(image) and image.ndim > 3):
      raise ValueError(
        f'images of one prompt have a {type(image).__name__} among them. Give '
        'a flat list of images; for a list of prompts, a list of such lists.'
      )
  return [*images]


def _is_array(value: Any) -> bool:
  """An array of numbers, not one of objects."""
  arrays = np.ndarray | jax.Array
  return isinstance(value, arrays) and value.dtype != object


def _is_image(value: Any) -> bool:
  """Anything but a list of images: what it is, is found out when it is read."""
  if isinstance(value, str | bytes | bytearray | memoryview) or _is_array(
    value
  ):
    return True
  return value is not None and not isinstance(value, Sequence | np.ndarray)


def _key(image: Any) -> Any:
  """What equal images have in common, as far as it can be told at a glance."""
  path = isinstance(image, str | bytes | os.PathLike)
  return image if path else id(image)
