"""Writes the golden files. Run `python tests/make_golden.py`.

`golden/logits/*.npz`: logits of the tiny models by `transformers`, on weights
that need no file (`cases.Case.params`). `golden/trees/*.txt`: the parameters of
the released sizes. Both are compared in `test_golden.py`. `golden/images.npz`:
the images of `images.py` as `transformers` makes them 32 x 32, compared in
`test_images.py`.
"""

import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

import cases
from gemma import gm
import hf
import images

FOLDER = pathlib.Path(__file__).parent / 'golden'


def main() -> None:
  """Writes all files."""
  for kind in ('logits', 'trees'):
    (FOLDER / kind).mkdir(parents=True, exist_ok=True)
  for case in cases.CASES:
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder) / 'model'
      gm.ckpts.save_hf(path, model=case.model, params=case.params)
      logits = hf.logits(hf.read_model(path), case.tokens())
    np.savez_compressed(FOLDER / 'logits' / f'{case}.npz', logits=logits)
  write_vision(cases.VISION)
  for name, model in gm.nn.PRESETS.items():
    (FOLDER / 'trees' / f'{name}.txt').write_text(cases.tree_of(model()))
  write_images()


def write_images() -> None:
  """Writes `golden/images.npz`."""
  levels = {
    name: hf.image_levels(image, 32) for name, image in images.CASES.items()
  }
  np.savez_compressed(FOLDER / 'images.npz', **levels)


def write_vision(case: cases.Case) -> None:
  """Logits of prompts with images, with room for them made by us."""
  encoder = case.config.vision_encoder
  tokens, _ = gm.vision.expand(
    jnp.asarray(case.picture_prompts()),
    images=2,
    count=encoder.num_mm_tokens_per_image,
    ids=case.config.image_tokens,
  )
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'model'
    gm.ckpts.save_hf(path, model=case.model, params=case.params)
    model = hf.read_picture_model(path)
    logits = hf.picture_logits(model, np.asarray(tokens), case.images())
  np.savez_compressed(FOLDER / 'logits' / f'{case}.npz', logits=logits)


if __name__ == '__main__':
  jax.config.update('jax_default_matmul_precision', 'highest')
  main()
