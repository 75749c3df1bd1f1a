"""Anything that shows an image, as an array of its pixels."""

import base64
import binascii
import io
import os
import re
from typing import Any
from typing import TypeAlias
import urllib.parse

import jax
from jaxtyping import UInt8
import numpy as np
from PIL import Image
from PIL import ImageOps
from PIL import UnidentifiedImageError

from gemma.gm.vision import _pixels

ImageLike: TypeAlias = (
  str | os.PathLike[str] | bytes | Image.Image | np.ndarray | jax.Array
)

# PIL knows more: EPS, which an interpreter runs, and some without a signature,
# which anything may pass for.
_FORMATS = (
  'AVIF', 'BMP', 'GIF', 'HEIF', 'ICO', 'JPEG', 'JPEG2000', 'MPO', 'PNG', 'PPM',
  'QOI', 'TIFF', 'WEBP',
)  # fmt: skip


def read_image(image: ImageLike) -> UInt8[np.ndarray, 'H W 3']:
  """The pixels of an image: RGB, 8 bits each, upright.

  Files are turned as their EXIF orientation says. Transparent images are laid
  on white. Of animations, it is the first frame; of a PIL image, the one that
  it is at. Of 16-bit images, it is the high byte.

  >>> from gemma import gm
  >>> import numpy as np
  >>> gm.vision.read_image(np.array([[0.0, 0.5], [0.75, 1.0]]))[..., 0]
  array([[  0, 128],
         [191, 255]], dtype=uint8)

  Args:
    image: A path; the bytes of a file; a `data:` URL; a PIL image; an array,
      `uint8` or floats from 0 to 1, of rows x columns (x 1 to 4 channels).
      Addresses such as `https://` are not fetched.

  Returns:
    Rows x columns x 3. An array that is this already is returned as it is.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If it is no image, is damaged, has no pixels, or has more of
      them than `PIL.Image.MAX_IMAGE_PIXELS` (89 million), which is found out
      before they are decoded.
    TypeError: If it is none of the above.
  """
  if isinstance(image, np.ndarray | jax.Array):
    return _pixels.from_array(image)
  if isinstance(image, Image.Image):
    return _decode(image, name='The PIL image')
  if isinstance(image, bytes | bytearray | memoryview):
    return _open(io.BytesIO(image), name='The image, given as bytes,')
  if isinstance(image, str) and image[:5].lower() == 'data:':
    return _open(io.BytesIO(_from_url(image)), name=_short(image))
  if isinstance(image, str | os.PathLike):
    _check_path(os.fspath(image))
    with open(image, 'rb') as file:
      return _open(file, name=_short(image))
  raise TypeError(
    f'The image is a {type(image).__name__}. Give a path, bytes, a data: URL, '
    'a PIL image, or an array.'
  )


def _open(file: io.BytesIO | io.BufferedReader, *, name: str) -> np.ndarray:
  """Decodes a file, of which `name` is told in errors."""
  if not file.read(1):
    raise ValueError(f'{name} is empty: it has 0 bytes.')
  file.seek(0)
  Image.init()
  formats = [known for known in _FORMATS if known in Image.OPEN]
  try:
    image = Image.open(file, formats=formats)
  except UnidentifiedImageError as e:
    raise ValueError(
      f'{name} is no image of a known format. Convert it to PNG or JPEG; known '
      f'are {", ".join(formats)}.'
    ) from e
  except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
    raise ValueError(f'{name} is too large. {e}. {_SMALLER}') from e
  except Exception as e:  # Decoders raise whatever they stumble over.
    raise ValueError(_damaged(name, e)) from e
  with image:
    return _decode(image, name=name)


def _decode(image: Image.Image, *, name: str) -> np.ndarray:
  width, height = image.size
  _pixels.check_size(height, width, name=name)
  limit = Image.MAX_IMAGE_PIXELS
  # PIL itself lets up to twice the limit pass, with a warning.
  if limit is not None and width * height > limit:
    raise ValueError(
      f'{name} is too large: {height:,} x {width:,} are '
      f'{width * height:,} pixels, and the limit is {limit:,}. {_SMALLER}'
    )
  try:
    image.load()
    image = ImageOps.exif_transpose(image)
  except Exception as e:  # Decoders raise whatever they stumble over.
    raise ValueError(_damaged(name, e)) from e
  return _pixels.from_pil(image)


_SMALLER = (
  'Make it smaller first or, if you trust it, raise PIL.Image.MAX_IMAGE_PIXELS.'
)


def _damaged(name: str, error: Exception) -> str:
  # Decoders quote bytes of the file, which may be anyone's.
  reason = re.sub(r'b?(["\']).*\1', '...', str(error), flags=re.DOTALL)
  return (
    f'{name} is damaged: {reason or type(error).__name__}. Get it anew, or '
    'save it again with a program that can open it.'
  )


def _check_path(path: str) -> None:
  """Raises unless there is a file, by a name that says what is wrong."""
  if os.path.isfile(path):  # Also false for names that no file can have.
    return
  if '://' in path:
    raise ValueError(
      f'{_short(path)} is an address, and images are not fetched. Download it, '
      'and give its bytes or its path.'
    )
  if os.path.isdir(path):
    raise IsADirectoryError(
      f'{_short(path)} is a folder. Give the path of one image.'
    )
  raise FileNotFoundError(
    f'There is no image at {_short(path)}. Relative paths begin at '
    f'{os.getcwd()}; base64 text needs data:image/png;base64, before it.'
  )


def _from_url(url: str) -> bytes:
  """The bytes of a `data:` URL (RFC 2397)."""
  head, comma, data = url.partition(',')
  if not comma:
    raise ValueError(
      f'{_short(url)} has no comma. A data: URL is '
      'data:image/png;base64,<base64 text>.'
    )
  content = urllib.parse.unquote_to_bytes(data)
  if not head.lower().endswith(';base64'):
    return content
  try:
    return base64.b64decode(b''.join(content.split()), validate=True)
  except binascii.Error as e:
    raise ValueError(
      f'{_short(url)} has {len(content):,} characters that are no base64: {e}. '
      'Is it cut off?'
    ) from e


def _short(value: Any) -> str:
  text = os.fspath(value)
  if text[:5].lower() == 'data:':
    head, comma, _ = text.partition(',')
    text = f'{head[:60]}{comma}...'
  return repr(text if len(text) <= 80 else f'{text[:60]}...')
