"""Dialogues about pictures as rows of tokens, and the batches of training."""

from collections.abc import Sequence
import dataclasses
import math
import os
import pathlib

import numpy as np

from gemma import gm
import instructions
import picture_dialogues
import pictures
import pretrain
import pretrain_encoder
import pretrain_tokenizer

LENGTH = 256  # Tokens of a row.
PICTURES_PER_ROW = 4
# Of a batch: with pictures, with dialogues, with text.
ROWS = PICTURE_ROWS, DIALOGUE_ROWS, TEXT_ROWS = 12, 3, 1
TEXT_WEIGHT = 0.25  # Of a token of plain text: it is hard, and known already.
BOS = pretrain_tokenizer.BOS


@dataclasses.dataclass
class Row:
  """Tokens with room for pictures, and what is learned of them.

  Attributes:
    tokens: Token ids; `gm.vision.PLACEHOLDER` where soft tokens go.
    weights: Of each token as a target.
    scenes: The pictures.
  """

  tokens: list[int] = dataclasses.field(default_factory=list)
  weights: list[float] = dataclasses.field(default_factory=list)
  scenes: list[pictures.Scene] = dataclasses.field(default_factory=list)


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
    super().__init__(texts, pathlib.Path(tokenizer_path))
    count = config.vision_encoder.num_mm_tokens_per_image
    self._start = config.image_tokens.start
    self._side = math.isqrt(count)
    self._around = config.image_tokens.around(count)

  def batch(self, step: int, length: int = LENGTH) -> dict[str, np.ndarray]:
    """One batch, by the step alone.

    Returns:
      `tokens` `[rows, length + 1]`; `weights`, of each as a target; `images` of
      the first `PICTURE_ROWS` rows, and `labels` of their soft tokens.
    """
    rng = np.random.default_rng([pretrain.SEED, 2, step])
    seen = [self._pictures(rng, length) for _ in range(PICTURE_ROWS)]
    rows = [(row.tokens, row.weights) for row in seen]
    rows += [self._dialogues(rng, length) for _ in range(DIALOGUE_ROWS)]
    for _ in range(TEXT_ROWS):
      tokens, weights = self._text(rng, length)
      rows.append((tokens, weights * TEXT_WEIGHT))
    tokens, weights = zip(*rows, strict=True)
    return {
      'tokens': np.array(tokens, np.int32),
      'weights': np.array(weights, np.float32),
      'images': images_of([row.scenes for row in seen], PICTURES_PER_ROW),
      'labels': self._labels([row.scenes for row in seen]),
    }

  def _labels(self, rows: Sequence[Sequence[pictures.Scene]]) -> np.ndarray:
    shape = len(rows), PICTURES_PER_ROW, self._side**2, 2
    out = np.zeros(shape, np.int32)
    for row, scenes in zip(out, rows, strict=True):
      row[: len(scenes)] = pretrain_encoder.labels(scenes, self._side)
    return out

  def row(self, dialogue: picture_dialogues.Dialogue) -> Row:
    """One dialogue as tokens, behind `<bos>`."""
    out = Row([BOS], [0.0], list(dialogue.scenes))
    for piece, learned in instructions.render(dialogue.turns):
      for token in self.tokenizer.encode(piece):
        ids = self._around if token == self._start else (token,)
        out.tokens += ids
        out.weights += [1.0 if learned else 0.0] * len(ids)
    return out

  def _pictures(self, rng: np.random.Generator, length: int) -> Row:
    """Whole dialogues while there is room, then others, cut off."""
    out = Row()
    while True:
      row = self.row(picture_dialogues.training_dialogue(rng))
      images = len(out.scenes) + len(row.scenes)
      if len(out.tokens + row.tokens) > length or images > PICTURES_PER_ROW:
        break
      out.tokens += row.tokens
      out.weights += row.weights
      out.scenes += row.scenes
    tokens, weights = self._dialogues(rng, length)
    out.tokens = [*out.tokens, *tokens][: length + 1]
    out.weights = [*out.weights, *weights][: length + 1]
    return out


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
