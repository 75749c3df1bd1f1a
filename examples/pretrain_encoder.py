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
OCCUPIED_WEIGHT = 4.0
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


def init_reader(encoder: gm.nn.SigLiPFromPatches) -> jax.Array:
  """What reads the answers: scores of names and colours, all equal."""
  width = encoder.siglip_encoder.width
  return jnp.zeros((width, len(NAMES) + len(COLOURS)))


def losses(
  features: jax.Array, reader: jax.Array, answers: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Cross-entropy of the names and of the colours."""
  scores = jnp.split(features @ reader, [len(NAMES)], axis=-1)
  # Few cells have something in them: those count more than the empty ones.
  weights = jnp.where(answers[..., 0] > 0, OCCUPIED_WEIGHT, 1.0)
  name, colour = (
    jnp.average(
      optax.softmax_cross_entropy_with_integer_labels(s, answers[..., i]),
      weights=weights,
    )
    for i, s in enumerate(scores)
  )
  return name, colour


def train(
  encoder: gm.nn.SigLiPFromPatches, runs: Sequence[int]
) -> tuple[Any, jax.Array]:
  """An encoder that sees what is where, and what reads its answers.

  Args:
    encoder: Its sizes.
    runs: Steps of each run. One goes on from the last, at the full rate again.
  """
  encoder = encoder.clone(apply_stop_gradient=False)
  side = math.isqrt(encoder.num_mm_tokens_per_image)
  patches = encoder.patchify_images(batch(0, side)[0][:1])
  key = jax.random.key(pretrain.SEED)
  params = encoder.init(key, patches=patches, is_training=True)['params']
  state = {'encoder': params, 'reader': init_reader(encoder)}
  first, start = 0, time.time()
  for steps in runs:
    state = _run(encoder, state, first, steps, start)
    first += steps
  return state['encoder'], state['reader']


def _run(
  encoder: gm.nn.SigLiPFromPatches,
  params: dict[str, Any],
  first: int,
  steps: int,
  start: float,
) -> dict[str, Any]:
  """One run, on the batches from `first` on."""
  optimizer = pretrain.make_optimizer(steps, MUON_RATE, ADAM_RATE)
  state = optimizer.init(params)
  side = math.isqrt(encoder.num_mm_tokens_per_image)

  def loss(params, images, answers):
    patches = encoder.patchify_images(images)
    features = encoder.apply(
      {'params': params['encoder']}, patches=patches, is_training=True
    )
    parts = losses(features, params['reader'], answers)
    return sum(parts), parts

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step_fn(params, state, images, answers):
    grads, parts = jax.grad(loss, has_aux=True)(params, images, answers)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, parts

  for step in range(first, first + steps):
    params, state, parts = step_fn(params, state, *batch(step, side))
    if step % LOG_EVERY == 0 or step == first + steps - 1:
      name, colour = (float(x) for x in parts)
      print(
        f'encoder step {step} names {name:.4f} colours {colour:.4f} '
        f'{time.time() - start:.0f} s',
        flush=True,
      )
  return params
