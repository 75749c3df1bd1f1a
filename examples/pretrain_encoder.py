"""A vision encoder learns to see before it is joined with words.

Of each soft token it is asked what has its centre in that part of the picture:
which shape or digit, and of which colour. Many answers for each picture, and no
language model to run: most of what there is to see is learned in minutes, as
SigLIP was trained before Gemma saw with it. What read the answers is thrown
away.
"""

from collections.abc import Sequence
import functools
import time
from typing import Any
from typing import NamedTuple

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
LOSSES = 'names', 'colours', 'places'
LOG_EVERY = 50


class Labels(NamedTuple):
  """What is in each cell of pictures.

  Attributes:
    looks: Name and colour, by their number in `NAMES` and `COLOURS`.
    places: From -1 to 1, how far right and how far down its centre is.
  """

  looks: np.ndarray | jax.Array  # [N, cells, 2]
  places: np.ndarray | jax.Array  # [N, cells, 2]


def labels(scenes: Sequence[pictures.Scene]) -> Labels:
  """What is in each cell, row by row."""
  side = pictures.SIZE // pictures.CELL
  looks = np.zeros((len(scenes), side, side, 2), np.int32)
  places = np.zeros((len(scenes), side, side, 2), np.float32)
  for i, scene in enumerate(scenes):
    for thing in scene.things:
      where = i, *thing.cell
      looks[where] = NAMES.index(thing.name), COLOURS.index(thing.colour)
      places[where] = thing.x, thing.y
  shape = len(scenes), side**2, 2
  places = 2 * places / pictures.SIZE - 1
  return Labels(looks.reshape(shape), places.reshape(shape))


def batch(step: int) -> tuple[np.ndarray, Labels]:
  """Pictures and labels, by the step alone."""
  rng = np.random.default_rng([pretrain.SEED, 1, step])
  scenes = [
    picture_dialogues.training_scene(rng) for _ in range(PICTURES_PER_STEP)
  ]
  return pictures.pixels(scenes), labels(scenes)


def init_reader(encoder: gm.nn.SigLiPFromPatches) -> jax.Array:
  """What reads the answers: scores of names and colours, and two numbers."""
  width = encoder.siglip_encoder.width
  return jnp.zeros((width, len(NAMES) + len(COLOURS) + 2))


def losses(
  features: jax.Array, reader: jax.Array, answers: Labels
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Cross-entropy of the names and of the colours, squared error of places."""
  cuts = np.cumsum([len(NAMES), len(COLOURS)])
  *scores, places = jnp.split(features @ reader, cuts, axis=-1)
  there = answers.looks[..., 0] > 0
  # Few cells have something in them: those count more than the empty ones.
  weights = jnp.where(there, OCCUPIED_WEIGHT, 1.0)
  name, colour = (
    jnp.average(
      optax.softmax_cross_entropy_with_integer_labels(s, answers.looks[..., i]),
      weights=weights,
    )
    for i, s in enumerate(scores)
  )
  far = jnp.sum((places - answers.places) ** 2, axis=-1)
  return name, colour, jnp.sum(far * there) / jnp.maximum(jnp.sum(there), 1)


def train(
  encoder: gm.nn.SigLiPFromPatches, steps: int
) -> tuple[Any, jax.Array]:
  """An encoder that sees what is where, and what reads its answers."""
  encoder = encoder.clone(apply_stop_gradient=False)
  patches = encoder.patchify_images(batch(0)[0][:1])
  key = jax.random.key(pretrain.SEED)
  init = jax.jit(encoder.init, static_argnames='is_training')
  first = init(key, patches=patches, is_training=True)['params']
  params = {'encoder': first, 'reader': init_reader(encoder)}
  optimizer = pretrain.make_optimizer(steps, MUON_RATE, ADAM_RATE)
  state = jax.jit(optimizer.init)(params)

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

  start = time.time()
  for step in range(steps):
    params, state, parts = step_fn(params, state, *batch(step))
    if step % LOG_EVERY == 0 or step == steps - 1:
      named = zip(LOSSES, parts, strict=True)
      told = ' '.join(f'{name} {float(x):.4f}' for name, x in named)
      print(
        f'encoder step {step} {told} {time.time() - start:.0f} s', flush=True
      )
  return params['encoder'], params['reader']
