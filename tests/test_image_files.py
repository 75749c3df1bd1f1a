"""Images of every kind are read; what is none raises, and says why."""

import base64
import pathlib
import struct
import warnings
import zlib

import jax.numpy as jnp
import jaxtyping
import numpy as np
from PIL import Image
import pytest

from gemma import gm
import images


def test_every_source_is_the_same(tmp_path):
  pixels = images.picture(9, 12)
  data = images.encode(Image.fromarray(pixels))
  path = tmp_path / 'ä b.png'
  path.write_bytes(data)
  text = base64.b64encode(data).decode()
  lines = '\n'.join(text[i : i + 76] for i in range(0, len(text), 76))
  with Image.open(path) as opened:
    opened.load()
  for source in (
    path,
    str(path),
    data,
    f'data:image/png;base64,{text}',
    f'DATA:;base64,{lines}',
    f'data:image/png;base64,{text.replace("+", "%2B").replace("=", "%3D")}',
    'data:image/png,' + ''.join(f'%{byte:02x}' for byte in data),
    opened,
    pixels,
    jnp.asarray(pixels),
    pixels / 255,
    (pixels / 255).astype(np.float32),
  ):
    ours = gm.vision.read_image(source)
    assert ours.dtype == np.uint8
    np.testing.assert_array_equal(ours, pixels)


def test_arrays_of_other_channels():
  gray = images.picture(4, 5)[..., 0]
  three = np.stack([gray] * 3, axis=-1)
  for image in (gray, gray[..., None], three):
    np.testing.assert_array_equal(gm.vision.read_image(image), three)
  half = jnp.full((2, 2), 0.5, jnp.bfloat16)
  assert gm.vision.read_image(half).tolist() == [[[128] * 3] * 2] * 2


@pytest.mark.parametrize('as_array', [False, True])
@pytest.mark.parametrize('color', [(40,), (10, 20, 30)])
def test_transparent_pixels_are_white(color, as_array):
  opaque, half, none = (
    np.array([*color, alpha], np.uint8) for alpha in (255, 128, 0)
  )
  image = np.stack([opaque, half, none])[None]
  ours = gm.vision.read_image(image if as_array else Image.fromarray(image))
  color = np.broadcast_to(color, 3)
  np.testing.assert_array_equal(ours[0, 0], color)
  np.testing.assert_allclose(ours[0, 1], (color + 255) / 2, atol=1)
  np.testing.assert_array_equal(ours[0, 2], [255] * 3)


@pytest.mark.parametrize('mode', [
  '1', 'L', 'P', 'RGB', 'RGBX', 'YCbCr', 'HSV', 'LAB', 'CMYK', 'LA', 'PA',
  'RGBA', 'La', 'RGBa', 'I;16',
])  # fmt: skip
def test_every_mode(mode):
  if mode in ('La', 'RGBa', 'PA'):
    image = images.pil({'La': 'LA', 'RGBa': 'RGBA', 'PA': 'P'}[mode])
    image = image.convert(mode)
  elif mode == 'LAB':
    image = Image.frombytes('LAB', (53, 37), images.picture(37, 53).tobytes())
  else:
    image = images.pil(mode)
  assert image.mode == mode
  ours = gm.vision.read_image(image)
  assert ours.shape == (37, 53, 3) and ours.dtype == np.uint8
  assert ours.std() > 10
  assert image.mode == mode


def test_sixteen_bits_are_scaled():
  """PIL's own way would clip at 255, and `transformers` goes it."""
  image = Image.fromarray(np.array([[0, 255, 256, 30_000, 65_535]], np.uint16))
  for source in (image, images.encode(image), images.encode(image, 'TIFF')):
    ours = gm.vision.read_image(source)
    assert ours[0, :, 1].tolist() == [0, 0, 1, 117, 255]


def test_float_pil_images():
  image = Image.fromarray(np.array([[0, 0.25, 1]], np.float32))
  assert gm.vision.read_image(image)[0, :, 0].tolist() == [0, 64, 255]


@pytest.mark.parametrize('orientation, turn', [
  (1, lambda x: x),
  (2, lambda x: x[:, ::-1]),
  (3, lambda x: x[::-1, ::-1]),
  (4, lambda x: x[::-1]),
  (5, lambda x: x.swapaxes(0, 1)),
  (6, lambda x: np.rot90(x, -1)),
  (7, lambda x: x[::-1, ::-1].swapaxes(0, 1)),
  (8, np.rot90),
])  # fmt: skip
def test_orientation_is_applied(orientation, turn):
  pixels = images.picture(2, 3)
  exif = Image.Exif()
  exif[0x0112] = orientation
  data = images.encode(Image.fromarray(pixels), exif=exif)
  np.testing.assert_array_equal(gm.vision.read_image(data), turn(pixels))


def test_broken_exif_is_no_reason_to_refuse():
  data = images.encode(images.pil('RGB'), 'JPEG', exif=b'Exif\0\0garbage')
  assert gm.vision.read_image(data).shape == (37, 53, 3)


@pytest.mark.parametrize('kind', ['GIF', 'PNG', 'WEBP', 'TIFF'])
def test_first_frame(kind):
  frames = [Image.new('RGB', (4, 3), color) for color in ('red', 'blue')]
  kwargs = {'lossless': True} if kind == 'WEBP' else {}
  data = images.encode(
    frames[0], kind, save_all=True, append_images=frames[1:], **kwargs
  )
  assert gm.vision.read_image(data)[0, 0].tolist() == [255, 0, 0]


def test_what_is_given_stays_as_it_is():
  image = images.palette()
  before = image.tobytes()
  gm.vision.preprocess(image, size=28)
  assert image.mode == 'P' and image.tobytes() == before
  assert image.info['transparency'] == 7


# Bad input.


def png_header(width, height):
  """A PNG of a size, of which no pixel is there."""

  def chunk(kind, data):
    crc = zlib.crc32(kind + data)
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', crc)

  size = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
  rest = chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b'')
  return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', size) + rest


PNG = images.encode(images.pil('RGB'))
JPEG = images.encode(images.pil('RGB'), 'JPEG')
FLOATS = np.full((2, 3), 0.5)
BAD = {
  'empty': (b'', ValueError, 'given as bytes, is empty: it has 0 bytes'),
  'text': (
    b'<html>Not found</html>', ValueError,
    'given as bytes, is no image of a known format. Convert it to PNG',
  ),
  'program': (
    b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', ValueError,
    'no image of a known format',
  ),
  'half a png': (PNG[: len(PNG) // 2], ValueError, 'damaged: .*Get it anew'),
  'half a jpeg': (JPEG[: len(JPEG) // 2], ValueError, 'damaged: .*truncated'),
  'flipped bits': (
    PNG[:60] + bytes(255 - x for x in PNG[60:90]) + PNG[90:], ValueError,
    'damaged',
  ),
  'start of a png': (PNG[:20], ValueError, 'damaged|no image'),
  'bomb': (
    png_header(30_000, 30_000), ValueError,
    'too large. .*900000000 pixels.* raise PIL.Image.MAX_IMAGE_PIXELS',
  ),
  'long': (png_header(70_000, 1), ValueError, 'is 1 x 70,000 .* 65,535 pixels'),
  'missing file': (
    'none/such.png', FileNotFoundError,
    "no image at 'none/such.png'. Relative paths begin at /",
  ),
  'base64 alone': (
    base64.b64encode(PNG).decode(), FileNotFoundError,
    r"no image at 'iVBOR.{55}\.\.\.'.* base64 text needs data:",
  ),
  'folder': (pathlib.Path(__file__).parent, IsADirectoryError, 'is a folder'),
  'no name': ('', FileNotFoundError, "no image at ''"),
  'odd name': ('a\0b', FileNotFoundError, 'no image at'),
  'address': (
    'https://x.org/a.png', ValueError,
    "'https://x.org/a.png' is an address, .*not fetched. Download it",
  ),
  'url without comma': ('data:image/png;base64', ValueError, 'has no comma'),
  'url cut off': (
    'data:image/png;base64,iVBORw0KG', ValueError, '9 characters .*no base64',
  ),
  'url of nothing': ('data:image/png;base64,', ValueError, 'is empty'),
  'number': (7, TypeError, 'is a int. Give a path, bytes, a data: URL'),
  'none': (None, TypeError, 'is a NoneType'),
  'integers': (
    np.zeros((2, 3), np.int64), TypeError, r'int64. .*image.astype\(np.uint8\)',
  ),
  'sixteen bits': (
    np.zeros((2, 3), np.uint16), TypeError, r'uint16. .*\(image >> 8\)',
  ),
  'bools': (np.zeros((2, 3), bool), TypeError, 'array of bool'),
  'strings': (np.array([['a']]), TypeError, 'array of <U1'),
  'nan': (
    np.where(np.eye(2), np.nan, 0.5), ValueError,
    '2 of 4 values of the image are NaN or infinite',
  ),
  'infinite': (FLOATS * np.inf, ValueError, '6 of 6 values'),
  'range': (
    FLOATS * 510, ValueError, r'floats from 255 to 255, .*astype\(np.uint8\)',
  ),
  'signed range': (
    FLOATS - 1, ValueError, r'from -0.5 to -0.5, .*\(image \+ 1\) / 2',
  ),
  'zero size': (
    np.zeros((0, 3), np.uint8), ValueError, 'is 0 x 3 .*no pixels',
  ),
  'zero pil': (Image.new('L', (0, 5)), ValueError, 'PIL image is 5 x 0'),
  'one axis': (np.zeros(3, np.uint8), ValueError, r'shape \(3,\). Give rows'),
  'channels': (np.zeros((5, 6, 7), np.uint8), ValueError, r'\(5, 6, 7\). Give'),
  'channels first': (
    np.zeros((3, 8, 9), np.uint8), ValueError, r'image.transpose\(1, 2, 0\)',
  ),
  'several': (
    np.zeros((2, 2, 8, 9, 3), np.uint8), ValueError, 'give them as a list',
  ),
  'integer pil': (
    Image.fromarray(np.zeros((2, 3), np.int32)), TypeError, 'array of int32',
  ),
}  # fmt: skip


@pytest.fixture
def as_a_user_sees_it():
  """Without the tests' own checks of shapes and dtypes."""
  jaxtyping.config.update('jaxtyping_disable', True)
  yield
  jaxtyping.config.update('jaxtyping_disable', False)


@pytest.mark.usefixtures('as_a_user_sees_it')
@pytest.mark.parametrize('name', BAD)
def test_bad_images(name):
  image, error, match = BAD[name]
  with pytest.raises(error, match=match):
    gm.vision.read_image(image)
  with pytest.raises(error) as raised:
    gm.vision.preprocess([FLOATS, image], size=28)
  assert raised.value.__notes__ == ['This is image 1 of 2.']


def test_large_images_are_refused_before_they_are_decoded(tmp_path):
  """Also those that PIL only warns of."""
  (tmp_path / 'large.png').write_bytes(png_header(10_000, 10_000))
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    with Image.open(tmp_path / 'large.png') as image:
      for source in (tmp_path / 'large.png', image):
        with pytest.raises(ValueError, match='100,000,000 pixels, and the lim'):
          gm.vision.read_image(source)


def test_limit_is_that_of_pil(monkeypatch):
  image = images.pil('RGB')
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
  with pytest.raises(ValueError, match='limit is 100'):
    gm.vision.read_image(image)
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', None)
  gm.vision.read_image(image)
