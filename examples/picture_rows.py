"""Dialogues about pictures as rows of tokens, and the batches of training."""

from collections.abc import Sequence
import dataclasses
import functools
import itertools
import os
import pathlib
from typing import Any

import numpy as np

from gemma import gm
import instructions
import picture_dialogues
import pictures
import pretrain
import pretrain_encoder
import pretrain_tokenizer

TOKENS_PER_STEP = 4096
TEXT_TOKENS, DIALOGUE_TOKENS = 256, 1280  # The others are about pictures.
MISSES = 4  # Dialogues that do not fit into a row before it is full.
TOKENS_PER_PICTURE = 64  # At least, in rows of pictures.
# Of a token of plain text, which is hard, and known already; of a token of an
# answer without pictures.
TEXT_WEIGHT, DIALOGUE_WEIGHT = 0.25, 2.0
ANSWER_WEIGHT = 3.0  # Of an answer of one token; of more, by their root.
GREETING_SHARE = 0.04  # Of dialogues without pictures.
BOS = pretrain_tokenizer.BOS


@dataclasses.dataclass
class Row:
  """Tokens with room for pictures, and what is learned of them.

  Attributes:
    tokens: Token ids; `gm.vision.PLACEHOLDER` where soft tokens go.
    weights: Of each token as a target.
    branches: Which of the last turns that a dialogue might have each token
      belongs to; these do not see each other. 0 for what all of them see.
    scenes: The pictures.
  """

  tokens: list[int] = dataclasses.field(default_factory=list)
  weights: list[float] = dataclasses.field(default_factory=list)
  branches: list[int] = dataclasses.field(default_factory=list)
  scenes: list[pictures.Scene] = dataclasses.field(default_factory=list)

  def __add__(self, other: 'Row') -> 'Row':
    """One behind the other."""
    return Row(
      self.tokens + other.tokens,
      self.weights + other.weights,
      self.branches + other.branches,
      self.scenes + other.scenes,
    )


class Data(pretrain.Data):
  """Batches: rows of picture dialogues, then of dialogues, then of text."""

  def __init__(
    self,
    texts: Sequence[str],
    tokenizer_path: str | os.PathLike[str],
    config: gm.nn.TransformerConfig,
  ):
    """Encodes the texts.

    Args:
      texts: What is trained on.
      tokenizer_path: The tokenizer of the model.
      config: The model, which has a vision encoder.
    """
    super().__init__(texts, pathlib.Path(tokenizer_path), _words_alone)
    count = config.vision_encoder.num_mm_tokens_per_image
    # The same questions come again and again.
    self._encode = functools.cache(self.tokenizer.encode)
    self._start = config.image_tokens.start
    self._around = config.image_tokens.around(count)

  def batch(
    self,
    step: int,
    length: int,
    *,
    even: bool,
    mix: picture_dialogues.Mix,
  ) -> dict[str, Any]:
    """One batch.

    Args:
      step: What it is drawn by.
      length: Tokens of a row.
      even: Whether answers about pictures count by the root of their length,
        and not by it.
      mix: What is shown and asked how often.

    Returns:
      `tokens` `[rows, length + 1]`; `weights`, of each as a target; of the
      first rows `branches`, `images`, and `labels` of their soft tokens.
    """
    rng = np.random.default_rng([pretrain.SEED, 2, step])
    counts = rows_of(length)
    seen = [
      self._pictures(rng, length, even=even, mix=mix) for _ in range(counts[0])
    ]
    rows = [(row.tokens, row.weights) for row in seen]
    for _ in range(counts[1]):
      tokens, weights = self._dialogues(rng, length)
      rows.append((tokens, weights * DIALOGUE_WEIGHT))
    for _ in range(counts[2]):
      tokens, weights = self._text(rng, length)
      rows.append((tokens, weights * TEXT_WEIGHT))
    tokens, weights = zip(*rows, strict=True)
    scenes = [row.scenes for row in seen]
    return {
      'tokens': np.array(tokens, np.int32),
      'weights': np.array(weights, np.float32),
      'branches': np.array([row.branches for row in seen], np.int32),
      'images': images_of(scenes, length // TOKENS_PER_PICTURE),
      'labels': _labels_of(scenes, length // TOKENS_PER_PICTURE),
    }

  def row(
    self,
    dialogue: picture_dialogues.Dialogue,
    *,
    even: bool = False,
    room: int | None = None,
  ) -> Row:
    """One dialogue as tokens, behind `<bos>`.

    Args:
      dialogue: The dialogue.
      even: See `batch`.
      room: Tokens there is room for: as many of `Dialogue.others` as fit.
    """
    *earlier, last = dialogue.turns
    rows = [
      self._turns([*earlier, turn], even=even)
      for turn in (last, *dialogue.others)
    ]
    while len(rows) > 1:
      same = _common([row.tokens for row in rows])
      if room is None or sum(len(r.tokens) - same for r in rows) + same <= room:
        break
      rows.pop()
    out = rows[0]
    if len(rows) > 1:
      out = Row(out.tokens[:same], out.weights[:same], [0] * same)
      for i, row in enumerate(rows, start=1):
        rest = row.tokens[same:]
        out += Row(rest, row.weights[same:], [i] * len(rest))
    out.scenes = list(dialogue.scenes)
    return out

  def _turns(self, turns: instructions.Turns, *, even: bool) -> Row:
    out = Row([BOS], [0.0])
    for piece, learned in instructions.render(turns):
      tokens = self._encode(piece)
      weight = ANSWER_WEIGHT / len(tokens) ** 0.5 if even else 1.0
      for token in tokens:
        ids = self._around if token == self._start else (token,)
        out.tokens += ids
        out.weights += [weight * learned] * len(ids)
    out.branches = [0] * len(out.tokens)
    return out

  def _pictures(
    self,
    rng: np.random.Generator,
    length: int,
    *,
    even: bool,
    mix: picture_dialogues.Mix,
  ) -> Row:
    """Whole dialogues while there is room, then others, cut off."""
    out = Row()
    misses = 0
    while misses < MISSES:
      dialogue = picture_dialogues.training_dialogue(rng, mix)
      room = length - len(out.tokens)
      both = out + self.row(dialogue, even=even, room=room)
      many = len(both.scenes) > length // TOKENS_PER_PICTURE
      if many or len(both.tokens) > length:
        misses += 1
      else:
        out = both
    tokens, weights = map(list, self._dialogues(rng, length))
    out += Row(tokens, weights, [0] * len(tokens))
    cut = slice(length + 1)
    return Row(out.tokens[cut], out.weights[cut], out.branches[cut], out.scenes)


def _common(rows: Sequence[Sequence[int]]) -> int:
  """How many tokens all rows begin with."""
  agree = (len({*column}) == 1 for column in zip(*rows, strict=False))
  return sum(itertools.takewhile(bool, agree))


def _words_alone(
  rng: np.random.Generator, words: Sequence[str]
) -> instructions.Turns:
  """What `pretrain.py` taught, and small talk that greets and asks."""
  if instructions.chance(rng, GREETING_SHARE):
    return instructions.greeting_dialogue(rng)
  return instructions.training_dialogue(rng, words)


def rows_of(length: int) -> tuple[int, int, int]:
  """Rows with pictures, with dialogues and with text."""
  dialogues, text = DIALOGUE_TOKENS // length, TEXT_TOKENS // length
  return TOKENS_PER_STEP // length - dialogues - text, dialogues, text


def _labels_of(
  rows: Sequence[Sequence[pictures.Scene]], count: int
) -> pretrain_encoder.Labels:
  """Labels of the same pictures; nothing is there where there is none."""
  blank = pictures.Scene('black', (), 0)
  padded = ([*scenes, *[blank] * count][:count] for scenes in rows)
  parts = zip(*map(pretrain_encoder.labels, padded), strict=True)
  return pretrain_encoder.Labels(*map(np.stack, parts))


def images_of(
  rows: Sequence[Sequence[pictures.Scene]], count: int
) -> np.ndarray:
  """Pictures of rows, `uint8[B, N, SIZE, SIZE, 3]`; black beyond the last."""
  shape = len(rows), count, pictures.SIZE, pictures.SIZE, 3
  out = np.zeros(shape, np.uint8)
  for row, scenes in zip(out, rows, strict=True):
    if scenes:
      row[: len(scenes)] = pictures.pixels(scenes)
  return out
