"""A picture of what a model gets to see."""

import numpy as np
from PIL import Image
from PIL import ImageDraw

from gemma.gm.vision import _preprocess
from gemma.gm.vision import _read
from gemma.gm.vision import _resize

_TOKENS = 16  # Soft tokens in a row of the grid.
_PATCHES = 4  # Patches in a row of one token.


def show_patches(
  image: _read.ImageLike, *, size: int = _resize.SIZE, numbers: bool = False
) -> Image.Image:
  """The image as a model gets it, under the grid of its tokens.

  Strong lines part the 16 x 16 soft tokens, which go to the language model row
  by row; faint ones the 4 x 4 patches of each. Notebooks show the result, and
  `.save('grid.png')` writes it.

  >>> from gemma import gm
  >>> import numpy as np
  >>> gm.vision.show_patches(np.zeros((30, 90), np.uint8)).size
  (896, 896)

  Args:
    image: Anything that `read_image` takes.
    size: Height and width, a multiple of 64.
    numbers: Whether to write the number of each token, from 0.

  Raises:
    ValueError: If patches have no whole size; else as `read_image`.
    TypeError: As `read_image`.
  """
  cells = _TOKENS * _PATCHES
  if size % cells:
    raise ValueError(f'size={size} should be a multiple of {cells}.')
  pixels = _preprocess.preprocess(image, size=size)[0]
  picture = Image.fromarray(pixels).convert('RGBA')
  for step, alpha in ((size // cells, 45), (size // _TOKENS, 255)):
    picture.alpha_composite(_grid(size, step, alpha))
  if numbers:
    _number(picture, size // _TOKENS)
  return picture.convert('RGB')


def _grid(size: int, step: int, alpha: int) -> Image.Image:
  """White lines with a dark side, to be seen on any image."""
  lines = np.zeros((size, size, 4), np.uint8)
  for shift, level in ((0, 0), (-1, 255)):
    for at in range(step + shift, size, step):
      lines[at, :] = lines[:, at] = level, level, level, alpha
  return Image.fromarray(lines)


def _number(picture: Image.Image, step: int) -> None:
  draw = ImageDraw.Draw(picture)
  for i in range(_TOKENS**2):
    row, column = divmod(i, _TOKENS)
    at = column * step + step // 2, row * step + step // 2
    draw.text(
      at, f'{i}', 'white', anchor='mm', stroke_width=2, stroke_fill='black'
    )
