"""How prompts are cut into pieces of few sizes.

Axes: B batch, C one piece.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
from typing import TypeAlias

from jaxtyping import Int
import numpy as np

from gemma.gm.math import _numbers
from gemma.gm.nn import _transformer
from gemma.gm.vision import _expand

Ids: TypeAlias = tuple[int, ...]  # Those that stand for one image.


@dataclasses.dataclass(frozen=True)
class Chunk:
  """A piece of every row.

  Attributes:
    tokens: Token ids, padded on the right; soft tokens are `PLACEHOLDER`.
    begin: Place of the first token in its row.
    images: Images of each row, by their ids; empty if there are none.
    room: Images for which there is room in a row.
  """

  tokens: Int[np.ndarray, 'B C']
  begin: Int[np.ndarray, 'B']
  images: list[list[Ids]]
  room: int


def cut(
  rows: Sequence[Sequence[int]], sizes: Sequence[int] | None, image: int = 1
) -> Iterator[Chunk]:
  """Cuts rows in pieces of few sizes, at most half of each of them empty.

  An image is never cut, because its tokens see each other: a row waits for the
  next piece if the image does not fit, and the others go on. One that is larger
  than all sizes gets a piece of its own size.

  Args:
    rows: Token ids, of which those below 0 stand for an image.
    sizes: Sizes of a piece; None for one of any length.
    image: Soft tokens of an image.
  """
  ids = [np.asarray(row, np.int64) for row in rows]
  begins = [np.flatnonzero(row < 0)[::image] for row in ids]
  lengths = np.array([len(row) for row in ids])
  done = np.zeros(len(ids), np.int64)
  while (done < lengths).any():
    at_image = any(at in found for at, found in zip(done, begins, strict=True))
    size = _size(
      int((lengths - done).max()), sizes, least=image if at_image else 1
    )
    ends = np.minimum(done + size, lengths)
    for i, found in enumerate(begins):
      split = found[(found < ends[i]) & (found + image > ends[i])]
      ends[i] = split[0] if split.size else ends[i]
    if sizes:  # Rows that wait may leave a smaller size than was thought.
      size = min(s for s in (*sizes, size) if s >= (ends - done).max())
    yield _chunk(ids, done, ends, begins, size, image)
    done = ends


def sizes_of(pad_length: int | Sequence[int] | None) -> tuple[int, ...] | None:
  """Sizes of a piece, as a sampler is given them.

  Raises:
    ValueError: If one is not a whole number above 0.
  """
  if pad_length is None:
    return None
  if isinstance(pad_length, Sequence):
    sizes = tuple(pad_length)
  else:
    sizes = (pad_length,)
  if not sizes:
    raise ValueError('pad_length=() has no size. Give some, or None.')
  for size in sizes:
    _numbers.whole(1, pad_length=size)
  return sizes


def _chunk(
  ids: list[np.ndarray],
  done: np.ndarray,
  ends: np.ndarray,
  begins: list[np.ndarray],
  size: int,
  image: int,
) -> Chunk:
  tokens = np.full((len(ids), size), _transformer.PAD, np.int32)
  images: list[list[Ids]] = []
  for i, (row, a, b) in enumerate(zip(ids, done, ends, strict=True)):
    tokens[i, : b - a] = np.where(row[a:b] < 0, _expand.PLACEHOLDER, row[a:b])
    here = begins[i][(begins[i] >= a) & (begins[i] < b)]
    images.append([tuple(row[at : at + image].tolist()) for at in here])
  return Chunk(
    tokens=tokens,
    begin=done,
    images=images if any(images) else [],
    room=max(1, size // image),
  )


def _size(rest: int, sizes: Sequence[int] | None, *, least: int) -> int:
  """The size for so many tokens, of which `least` must not be parted."""
  if not sizes:
    return rest
  sizes = [s for s in sorted(sizes) if s >= least] or [least]
  fitting = [s for s in sizes if rest <= s <= max(2 * rest, sizes[0])]
  if fitting:
    return fitting[0]
  return max((s for s in sizes if s <= rest), default=sizes[0])
