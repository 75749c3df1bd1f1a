"""Images to 896 x 896 in three ways: how far apart, and how fast.

Command: `python benchmarks/images.py a.jpg b.jpg ...`, or without files for
noise of a few sizes. Hardware: any; seconds. Metric: levels of 255 from the
resize in float64, the worst and the mean; the best of five times.

`model` is `jax.image.resize` in float32, which the published package calls
inside of the model; `8 bits` is what `transformers` calls; `preprocess` and
`resize_image` are ours.
"""

import argparse
from collections.abc import Callable
from collections.abc import Sequence
import time

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from gemma import gm

SIZES = (425, 612), (853, 640), (3000, 4000)
SIZE = 896


def main(argv: Sequence[str] | None = None) -> None:
  """Prints a table in Markdown."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
  parser.add_argument('files', nargs='*')
  args = parser.parse_args(argv)
  rng = np.random.default_rng(0)
  images = [gm.vision.read_image(file) for file in args.files] or [
    rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES
  ]
  print('| image | way | worst | mean | first ms | ms |')
  print('|---|---|---|---|---|---|')
  for image in images:
    exact = resize_exactly(image)
    for name, way in WAYS.items():
      first, best = seconds(lambda way=way, image=image: way(image))
      error = np.abs(way(image) - exact)
      print(
        f'| {image.shape[0]} x {image.shape[1]} | {name} | {error.max():.5f} '
        f'| {error.mean():.5f} | {first * 1e3:,.0f} | {best * 1e3:,.0f} |',
        flush=True,
      )


def seconds(call: Callable[[], object]) -> tuple[float, float]:
  """Of the first call, and of the fastest of five more."""
  times = []
  for _ in range(6):
    start = time.perf_counter()
    call()
    times.append(time.perf_counter() - start)
  return times[0], min(times[1:])


def resize_exactly(image: np.ndarray) -> np.ndarray:
  """By the definition, in float64."""
  rows, columns = (weights(side) for side in image.shape[:2])
  return np.einsum('yh,hwc,xw->yxc', rows, image, columns, optimize=True)


def weights(side: int) -> np.ndarray:
  """Triangles, `[SIZE, side]`, as wide as a step where the image shrinks."""
  scale = side / SIZE
  centers = (np.arange(SIZE) + 0.5) * scale
  distance = np.abs(np.arange(side) + 0.5 - centers[:, None])
  triangle = np.clip(1 - distance / max(scale, 1), 0, None)
  return triangle / triangle.sum(axis=1, keepdims=True)


def in_model(image: np.ndarray) -> np.ndarray:
  """As the published package does it."""
  x = jnp.asarray(image, jnp.float32)
  return np.asarray(
    jax.image.resize(x, (SIZE, SIZE, 3), 'bilinear', antialias=True)
  )


def in_8_bits(image: np.ndarray) -> np.ndarray:
  """As `transformers` does it."""
  resized = Image.fromarray(image).resize(
    (SIZE, SIZE), Image.Resampling.BILINEAR
  )
  return np.asarray(resized)


WAYS = {
  'model': in_model,
  '8 bits': in_8_bits,
  'preprocess': lambda image: gm.vision.preprocess(image)[0],
  'resize_image': gm.vision.resize_image,
}

if __name__ == '__main__':
  main()
