"""A vision encoder learns to see before it is joined with words.

Of each soft token it is asked what has its centre in that part of the picture:
which shape or digit, and of which colour. Many answers for each picture, and no
language model to run: most of what there is to see is learned in minutes, as
SigLIP was trained before Gemma saw with it. What read the answers is thrown
away.
"""

from collections.abc import Sequence
import functools
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gemma import gm
import picture_dialogues
import pictures
import pretrain

NAMES = ('', *pictures.SHAPES, *pictures.DIGITS)
COLOURS = ('', *pictures.COLOURS)
PICTURES_PER_STEP = 96
MUON_RATE, ADAM_RATE = 0.02, 3e-3
LOG_EVERY = 50


def labels(scenes: Sequence[pictures.Scene], side: int) -> np.ndarray:
  """Name and colour of what is in each cell, `[N, side * side, 2]`."""
  out = np.zeros((len(scenes), side, side, 2), np.int32)
  cell = pictures.SIZE / side
  for i, scene in enumerate(scenes):
    for thing in scene.things:
      row, column = int(thing.y / cell), int(thing.x / cell)
      answer = NAMES.index(thing.name), COLOURS.index(thing.colour)
      out[i, row, column] = answer
  return out.reshape(len(scenes), -1, 2)


def batch(step: int, side: int) -> tuple[np.ndarray, np.ndarray]:
  """Pictures and labels, by the step alone."""
  rng = np.random.default_rng([pretrain.SEED, 1, step])
  scenes = [
    picture_dialogues.training_scene(rng) for _ in range(PICTURES_PER_STEP)
  ]
  return pictures.pixels(scenes), labels(scenes, side)


def train(encoder: gm.nn.SigLiPFromPatches, steps: int) -> Any:
  """Parameters of an encoder that sees what is where."""
  encoder = encoder.clone(apply_stop_gradient=False)
  side = math.isqrt(encoder.num_mm_tokens_per_image)
  key = jax.random.key(pretrain.SEED)
  images, _ = batch(0, side)
  patches = encoder.patchify_images(images[:1])
  params = {
    'encoder': encoder.init(key, patches=patches, is_training=True)['params'],
    'reader': jnp.zeros(
      (encoder.siglip_encoder.width, len(NAMES) + len(COLOURS))
    ),
  }
  optimizer = pretrain.make_optimizer(steps, MUON_RATE, ADAM_RATE)
  state = optimizer.init(params)

  losses = functools.partial(_losses, encoder)

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step_fn(params, state, images, answers):
    grads, parts = jax.grad(losses, has_aux=True)(params, images, answers)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, parts

  start = time.time()
  for step in range(steps):
    params, state, parts = step_fn(params, state, *batch(step, side))
    if step % LOG_EVERY == 0 or step == steps - 1:
      name, colour = (float(x) for x in parts)
      print(
        f'encoder step {step} name {name:.4f} colour {colour:.4f} '
        f'{time.time() - start:.0f} s',
        flush=True,
      )
  return params['encoder']


def _losses(encoder, params, images, answers):
  patches = encoder.patchify_images(images)
  soft = encoder.apply(
    {'params': params['encoder']}, patches=patches, is_training=True
  )
  scores = jnp.split(soft @ params['reader'], [len(NAMES)], axis=-1)
  # Few cells have something in them: those count as much as the empty ones.
  weights = jnp.where(answers[..., 0] > 0, 4.0, 1.0)
  parts = [
    jnp.average(
      optax.softmax_cross_entropy_with_integer_labels(s, answers[..., i]),
      weights=weights,
    )
    for i, s in enumerate(scores)
  ]
  return sum(parts), parts
