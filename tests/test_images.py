"""Images become the pixels that models saw in training."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from gemma import gm
import images

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'images.npz'
# Photographs to compare on, beside the images that are made here.
PHOTOS = os.environ.get('GEMMA_TEST_PHOTOS', '')
NAMES = pytest.mark.parametrize('name', images.CASES)


def levels(image, size):
  """Unrounded levels of 255."""
  return gm.vision.pixel_values(image, size=size)[0] * 127.5 + 127.5


@NAMES
def test_golden(name):
  """8 bits, rounded twice, are less than one level from ours."""
  image = images.CASES[name]
  with np.load(GOLDEN) as golden:
    theirs = golden[name].astype(np.int32)
  ours = gm.vision.preprocess(image, size=32)
  assert ours.dtype == np.uint8 and ours.shape == (1, 32, 32, 3)
  assert np.abs(ours[0] - theirs).max() <= 1
  assert np.abs(levels(image, 32) - theirs).max() <= 1


@pytest.mark.parametrize('height, width', [
  (1, 1), (1, 4000), (3000, 2), (5, 7), (32, 32), (37, 53), (613, 425),
])  # fmt: skip
def test_resize_is_the_published_one(height, width):
  image = images.picture(height, width)
  theirs = jax.image.resize(
    image.astype(np.float32), (32, 32, 3), 'bilinear', antialias=True
  )
  ours = gm.vision.resize_image(image, 32)
  np.testing.assert_allclose(ours, theirs, atol=2e-3)
  rounded = gm.vision.preprocess(image, size=32)[0]
  assert np.abs(rounded - np.asarray(theirs)).max() < 0.5 + 2e-3


def test_resize_by_hand():
  """Weights are a triangle as wide as two pixels of the result."""
  image = np.zeros((8, 8), np.uint8)
  image[0, 0] = 160
  # Pixel 0 of 4 is at 1; its triangle reaches 2 away: 0.75 + 0.75 + 0.25 there.
  share = 0.75 / 1.75
  ours = gm.vision.resize_image(image, 4)[0, 0]
  np.testing.assert_allclose(ours, [160 * share**2] * 3, rtol=1e-6)


def test_normalize():
  values = gm.vision.normalize(np.array([0, 51, 255], np.uint8))
  np.testing.assert_allclose(values, [-1, -0.6, 1], atol=1e-7)
  assert values.dtype == np.float32
  beyond = gm.vision.normalize(np.array([-9, 300], np.float32))
  assert beyond.tolist() == [-1, 1]


def test_sizes_share_one_program():
  traced = []

  @jax.jit
  def model(pixels):
    traced.append(pixels.shape)
    return pixels.mean()

  for height, width in ((3, 4), (5, 60), (70, 8)):
    model(gm.vision.preprocess([images.picture(height, width)] * 2, size=28))
  assert traced == [(2, 28, 28, 3)]


def test_preprocess_takes_one_or_several():
  one = images.picture(5, 6)
  whole = gm.vision.preprocess(one)
  assert whole.shape == (1, 896, 896, 3) and whole.dtype == np.uint8
  several = [one, images.pil('L'), images.encode(images.pil('RGBA'))]
  rows = gm.vision.preprocess(several, size=28)
  for image, row in zip(several, rows, strict=True):
    np.testing.assert_array_equal(gm.vision.preprocess(image, size=28)[0], row)
  batch = np.stack([one, one // 2])
  for given in (batch, jnp.asarray(batch), tuple(batch)):
    np.testing.assert_array_equal(
      gm.vision.preprocess(given, size=28),
      gm.vision.preprocess([*batch], size=28),
    )
  assert gm.vision.preprocess([], size=28).shape == (0, 28, 28, 3)
  again = gm.vision.preprocess(whole)
  np.testing.assert_array_equal(again, whole)


GRAY = np.full((2, 3), 0.5)


def test_bad_settings():
  for call in (gm.vision.preprocess, gm.vision.resize_image):
    with pytest.raises(ValueError, match='size=-1 is not positive'):
      call(GRAY, size=-1)
  with pytest.raises(ValueError, match='quality=101 is not from 1 to 100'):
    gm.vision.recompress_jpeg(GRAY, quality=101)
  with pytest.raises(ValueError, match='size=100 .* multiple of 64'):
    gm.vision.show_patches(GRAY, size=100)
  for name in ('min_ratio', 'min_crop_size', 'max_crops'):
    with pytest.raises(ValueError, match=f'{name}=0 should be'):
      gm.vision.PanAndScan(**{name: 0})


# Pan and scan.


@pytest.mark.parametrize('height, width, num, crop', [
  (800, 800, 0, None),
  (800, 959, 0, None),  # Less than 1.2.
  (800, 960, 2, (800, 480)),
  (400, 1000, 3, (400, 334)),  # 2.5 is rounded up.
  (400, 800, 2, (400, 400)),
  (300, 3000, 4, (300, 750)),  # Four at most.
  (256, 600, 2, (256, 300)),
  (255, 600, 0, None),  # Crops would be too small...
  (400, 500, 0, None),  # ...on either side.
  (1000, 400, 3, (334, 400)),
])  # fmt: skip
def test_crops(height, width, num, crop):
  image = images.picture(height, width)
  whole, *crops = gm.vision.pan_and_scan(Image.fromarray(image))
  np.testing.assert_array_equal(whole, image)
  assert len(crops) == num
  if num:
    assert crops[0].shape[:2] == crop
    joined = np.concatenate(crops, axis=1 if width >= height else 0)
    np.testing.assert_array_equal(joined, image)
    pixels = gm.vision.preprocess([whole, *crops], size=28)
    assert pixels.shape == (num + 1, 28, 28, 3)


def test_crops_of_few_pixels_are_never_empty():
  config = gm.vision.PanAndScan(min_crop_size=1)
  for width in range(2, 30):
    *_, last = config.boxes(1, width)
    assert last.left < last.right == width


def test_prompt_of_crops():
  config = gm.vision.PanAndScan()
  assert config.prompt(0) == '<start_of_image>'
  assert config.prompt(2, '#') == (
    'Here is the original image # and here are some crops to help you see '
    'better # #'
  )


# Other ways.


def test_jpeg():
  image = images.picture(64, 64)
  ours = gm.vision.recompress_jpeg(image)
  assert ours.shape == image.shape
  change = np.abs(ours.astype(int) - image)
  assert 0 < change.mean() < 20
  worse = gm.vision.recompress_jpeg(image, quality=20).astype(int)
  assert np.abs(worse - image).mean() > change.mean()


def test_patches_are_shown():
  image = Image.new('RGB', (60, 30), (10, 120, 200))
  shown = gm.vision.show_patches(image, size=448)
  assert shown.size == (448, 448)
  pixels = np.asarray(shown)
  assert pixels[3, 3].tolist() == [10, 120, 200]
  for k in range(1, 16):  # Tokens are 28 pixels wide, patches 7.
    assert pixels[28 * k, 3].tolist() == pixels[3, 28 * k].tolist() == [0] * 3
    assert pixels[28 * k - 1, 3].tolist() == [255] * 3
  assert pixels[7, 3].tolist() not in ([10, 120, 200], [0] * 3)
  numbered = np.asarray(
    gm.vision.show_patches(image, size=448, numbers=True)
  ).astype(int)
  cells = np.abs(numbered - pixels).reshape(16, 28, 16, 28, 3)
  assert (cells.max(axis=(1, 3, 4)) > 0).all()


# Comparison with `transformers`.


def photos():
  return sorted(pathlib.Path(PHOTOS).glob('*.jpg')) if PHOTOS else []


@pytest.mark.parity
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('source', [*images.CASES, *photos()], ids=str)
def test_parity(source):
  import hf

  image = images.CASES.get(source) or Image.open(source)
  theirs = hf.image_levels(image, 896).astype(np.int32)
  ours = gm.vision.preprocess(image)[0]
  assert np.abs(ours - theirs).max() <= 1
  assert np.abs(levels(image, 896) - theirs).max() <= 1


@pytest.mark.parity
@pytest.mark.filterwarnings('ignore')
def test_parity_of_golden():
  import hf

  with np.load(GOLDEN) as golden:
    assert {*golden} == {*images.CASES}
    for name, image in images.CASES.items():
      np.testing.assert_array_equal(golden[name], hf.image_levels(image, 32))


@pytest.mark.parity
@pytest.mark.filterwarnings('ignore')
def test_parity_of_crops():
  """The same crops in the same order, for sides of many lengths."""
  from transformers.models.gemma3 import image_processing_pil_gemma3 as pil

  processor = pil.Gemma3ImageProcessorPil()
  sides = (1, 255, 256, 257, 300, 383, 400, 512, 640, 853, 1000, 1279, 2500)
  for ratio in (1.0, 1.2, 1.5):
    config = gm.vision.PanAndScan(min_ratio=ratio)
    for height in sides:
      for width in sides:
        # Each pixel is its own address.
        image = np.arange(height * width).reshape(1, height, width)
        theirs = processor.pan_and_scan(image, 256, 4, ratio)
        boxes = config.boxes(height, width)
        assert len(theirs) == len(boxes)
        for crop, box in zip(theirs, boxes, strict=True):
          ours = image[:, box.top : box.bottom, box.left : box.right]
          np.testing.assert_array_equal(ours, crop)
