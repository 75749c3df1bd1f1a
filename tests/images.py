"""Images for tests: of every kind, made of numbers alone."""

import io

import numpy as np
from PIL import Image


def picture(height, width, channels=3):
  """Waves and noise: smooth parts and fine ones, dark and light.

  Of integers, so that it is the same on every machine.
  """
  y, x = np.ogrid[:height, :width]
  planes = []
  for color in range(channels):
    waves = abs((9 * x + 4 * y + x * y // 50 + 90 * color) % 510 - 255)
    noise = np.random.default_rng(color).integers(-40, 41, waves.shape)
    planes.append(np.clip(waves + noise, 0, 255))
  return np.stack(planes, axis=-1).astype(np.uint8)


def pil(mode, height=37, width=53):
  """A PIL image of a mode."""
  match mode:
    case 'RGBA' | 'CMYK' | 'RGBX':
      return Image.fromarray(picture(height, width, 4)).convert(mode)
    case 'LA':
      return Image.fromarray(picture(height, width, 2))
    case 'I;16':
      gray = picture(height, width)[..., 0].astype(np.uint16)
      return Image.fromarray(gray * 256 + 99)
    case _:
      return Image.fromarray(picture(height, width)).convert(mode)


def palette():
  """Colors by number, one of which is transparent."""
  image = pil('P')
  image.info['transparency'] = 7
  return image


def keyed():
  """RGB, in which one color is transparent."""
  image = pil('RGB')
  image.paste((1, 2, 3), (5, 5, 30, 20))
  image.info['transparency'] = (1, 2, 3)
  return image


# Those that our reading and that of `transformers` should agree on.
CASES = {
  'dot': Image.fromarray(picture(1, 1)),
  'row': Image.fromarray(picture(1, 4000)),
  'column': Image.fromarray(picture(3000, 2)),
  'odd': Image.fromarray(picture(37, 53)),
  'large': Image.fromarray(picture(613, 425)),
  'same': Image.fromarray(picture(32, 32)),
  'gray': pil('L'),
  'bits': pil('1'),
  'alpha': pil('RGBA'),
  'gray alpha': pil('LA'),
  'cmyk': pil('CMYK'),
  'palette': palette(),
  'keyed': keyed(),
}


def encode(image, kind='PNG', **kwargs):
  """The bytes of a file."""
  file = io.BytesIO()
  image.save(file, kind, **kwargs)
  return file.getvalue()
