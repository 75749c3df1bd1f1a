"""The model on rows of dialogues about pictures, and its exam."""

import collections
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gemma import gm
import picture_dialogues
import picture_rows

LENGTH = 160  # Tokens that a question of the exam may have.


def logits_of(
  model: gm.nn.Transformer,
  params: Any,
  tokens: jax.Array,
  features: jax.Array,
  branches: jax.Array | None = None,
) -> jax.Array:
  """Logits of rows that hold several dialogues, each as if it were alone.

  Windows count the tokens of a row. With branches, which are nearer to their
  pictures than that, the model should have longer windows than rows.

  Args:
    model: The model.
    params: Its parameters.
    tokens: `[B, L]`, with room for pictures in the first rows.
    features: Of the pictures of those rows, by `features_of`.
    branches: `[B, L]`, `picture_rows.Row.branches`; all 0 by default.
  """
  soft = model.apply({'params': params}, features, method=_project)
  others = [(0, len(tokens) - len(soft))] + [(0, 0)] * (soft.ndim - 1)
  start = tokens == picture_rows.BOS
  place = jnp.arange(tokens.shape[1])[None]
  first = jax.lax.cummax(jnp.where(start, place, 0), axis=1)
  # What stands for a picture sees all of it, as in the model.
  number = jnp.cumsum(tokens == model.config.image_tokens.start, axis=1)
  picture = jnp.where(tokens == gm.vision.PLACEHOLDER, number, 0)
  together = (picture[:, None] == picture[:, :, None]) & (picture > 0)[:, None]
  alone = first[:, None] == first[:, :, None]
  if branches is not None:
    own = branches[:, None] == branches[:, :, None]
    alone &= own | (branches == 0)[:, None]
  causal = alone & (place[:, None] <= place[:, :, None])
  return model.apply(
    {'params': params},
    tokens,
    soft_tokens=jnp.pad(soft, others),
    positions=jnp.sum(causal, axis=-1) - 1,
    attention_mask=causal | (alone & together),
  ).logits


def features_of(
  model: gm.nn.Transformer, params: Any, images: jax.Array
) -> jax.Array:
  """What the encoder makes of images, in its own width."""
  encoder = model.config.vision_encoder
  patches = encoder.patchify_images(images)
  return encoder.apply(
    {'params': params['vision_encoder']}, patches=patches, is_training=True
  )


def _project(model: gm.nn.Transformer, features: jax.Array) -> jax.Array:
  return model.embedder.encode_vision(features)


class Exam:
  """Held-out questions, asked while the model trains.

  The right answer is given and each of its tokens predicted: all are right if
  and only if the greedy answer is, so one pass is enough.
  """

  def __init__(
    self,
    model: gm.nn.Transformer,
    data: picture_rows.Data,
    count: int,
    batch_size: int = 50,
  ):
    """Draws the pictures of `count` questions."""
    questions = picture_dialogues.held_out(count, seed=1)
    self._kinds = [kind for kind, _ in questions]
    rows = [data.row(dialogue) for _, dialogue in questions]
    self._batches = [
      _exam_batch(rows[i : i + batch_size])
      for i in range(0, len(rows), batch_size)
    ]
    self._model = model

  def __call__(self, params: Any) -> str:
    """Percentage of right answers, in all and by kind."""
    good: list[bool] = []
    for tokens, answer, images in self._batches:
      logits = _answer(self._model, params, tokens[:, :-1], images)
      hit = np.asarray(logits.argmax(axis=-1)) == tokens[:, 1:]
      good += np.all(hit | ~answer[:, 1:], axis=1).tolist()
    by_kind = collections.defaultdict(list)
    for kind, right in zip(self._kinds, good, strict=True):
      by_kind[kind].append(right)
    parts = [f'{kind} {100 * np.mean(x):.0f}' for kind, x in by_kind.items()]
    return f'{100 * np.mean(good):.1f} % right: {", ".join(parts)}'


@functools.partial(jax.jit, static_argnums=0)
def _answer(model, params, tokens, images):
  return logits_of(model, params, tokens, features_of(model, params, images))


def _exam_batch(
  rows: list[picture_rows.Row],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Tokens, which of them are the last answer, images."""
  shape = len(rows), LENGTH
  tokens, answer = np.zeros(shape, np.int32), np.zeros(shape, bool)
  for i, row in enumerate(rows):
    tokens[i, : len(row.tokens)] = row.tokens
    learned = np.flatnonzero(row.weights)
    # The last unbroken run of them.
    first = learned[np.flatnonzero(np.diff(learned, prepend=-2) > 1)[-1]]
    answer[i, first : learned[-1] + 1] = True
  return tokens, answer, picture_rows.images_of([r.scenes for r in rows], 2)
