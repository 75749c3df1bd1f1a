"""The images of a call: told apart by what they show, and encoded once.

In a context, the soft tokens of an image are negative ids that spell a digest
of its pixels. So contexts are lists of numbers as ever, and equal ones show the
same images: what compares, cuts or keeps contexts needs to know no more. Only
what goes into the model becomes `PLACEHOLDER`, with the soft tokens beside it.

Axes: N images of a row, S soft tokens of an image, D model, H W C pixels.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import functools
import hashlib
from typing import Any
from typing import TypeAlias

from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import UInt8
import numpy as np

from gemma.gm.nn import _compiled
from gemma.gm.nn import _like
from gemma.gm.text import _chunks
from gemma.gm.vision import _expand

Ids: TypeAlias = _chunks.Ids
Pixels: TypeAlias = UInt8[np.ndarray, 'H W C']

_BITS = 30  # Of the digest in each id.
_BATCHES = (4, 2, 1)  # Images that are encoded at a time: few compilations.
_KEPT = 64  # Encoded images that are kept during a call.


def soft_ids(pixels: Pixels, count: int) -> Ids:
  """Ids that say which image it is; all are below `PLACEHOLDER`.

  Args:
    pixels: As the model gets to see them.
    count: Soft tokens of an image.
  """
  known = hashlib.sha256(f'{pixels.shape}'.encode())
  known.update(pixels.tobytes())
  spelled = hashlib.shake_256(known.digest()).digest(4 * count)
  numbers = np.frombuffer(spelled, '<u4') % (1 << _BITS)
  return tuple((_expand.PLACEHOLDER - 1 - numbers.astype(np.int64)).tolist())


def outside(row: Sequence[int], place: int) -> int:
  """Where to cut a context: at a place, or behind the image that is there.

  To an image belong the two tokens on either side of its soft tokens.

  Args:
    row: Token ids.
    place: The first token that is wanted.
  """
  near = range(max(0, place - 2), min(len(row), place + 2))
  inside = [i for i in near if row[i] < 0]
  if not inside:
    return place
  last = inside[-1]
  while last + 1 < len(row) and row[last + 1] < 0:
    last += 1
  return last + 3


class Album:
  """Images by the ids that stand for them.

  Attributes:
    images: The pixels.
  """

  def __init__(self, images: Mapping[Ids, Pixels] | None = None):
    """Takes images; none of them is encoded yet.

    Args:
      images: The pixels.
    """
    self.images = dict(images or {})
    self._soft: dict[Any, np.ndarray] = {}

  @classmethod
  def of(cls, images: Iterable[Pixels], count: int) -> 'Album':
    """Images without their ids, of `count` soft tokens each."""
    return cls({soft_ids(pixels, count): pixels for pixels in images})

  def __or__(self, other: 'Album') -> 'Album':
    return Album(self.images | other.images)

  def within(self, rows: Iterable[Sequence[int]]) -> 'Album':
    """Those that are in contexts; the others are forgotten."""
    count = len(next(iter(self.images), ()))
    there = {
      tuple(row[i : i + count])
      for row in rows
      for i, token in enumerate(row)
      if token < 0 and row[i - 1] >= 0
    }
    return Album({ids: x for ids, x in self.images.items() if ids in there})

  def soft_tokens_of(
    self,
    chunk: _chunks.Chunk,
    model: _like.TransformerLike,
    params: Mapping[str, Any],
  ) -> Float[np.ndarray, 'B N S D'] | None:
    """Soft tokens of the images in a piece of each row; None without images.

    On the host, because rows have different images: to put them together on the
    device would be a program for each number of them.

    Args:
      chunk: The piece.
      model: The model.
      params: Its parameters.
    """
    if not chunk.images:
      return None
    wanted = {ids: None for row in chunk.images for ids in row}
    self._encode(model, params, [*wanted])
    found = {ids: self._soft[id(params), ids] for ids in wanted}
    some = next(iter(found.values()))
    out = np.zeros((len(chunk.images), chunk.room, *some.shape), some.dtype)
    for i, row in enumerate(chunk.images):
      for j, ids in enumerate(row):
        out[i, j] = found[ids]
    # More than are kept may be needed at once, but not for long.
    for key in [*self._soft][: max(0, len(self._soft) - _KEPT)]:
      del self._soft[key]
    return out

  def warm_up(
    self, model: _like.TransformerLike, params: Mapping[str, Any]
  ) -> None:
    """Compiles the encoder for every number of images that it gets."""
    (some, *_) = self.images.values()
    for count in _BATCHES:
      _encode(model, params, np.stack([some] * count))

  def _encode(
    self,
    model: _like.TransformerLike,
    params: Mapping[str, Any],
    wanted: Sequence[Ids],
  ) -> None:
    """Makes the soft tokens that are not there yet."""
    new = [ids for ids in wanted if (id(params), ids) not in self._soft]
    if not self.images.keys() >= {*new}:
      raise ValueError(
        'What was said before has images that last_state does not have. Give '
        'the state of a SamplerOutput as it is.'
      )
    begin = 0
    while begin < len(new):
      size = next(n for n in _BATCHES if n <= len(new) - begin)
      group = new[begin : begin + size]
      pixels = np.stack([self.images[ids] for ids in group])
      for ids, soft in zip(
        group, np.asarray(_encode(model, params, pixels)), strict=True
      ):
        self._soft[id(params), ids] = soft
      begin += size


@functools.partial(_compiled.jit, static_argnums=0)
def _encode(
  model: _like.TransformerLike,
  params: Mapping[str, Any],
  images: UInt8[Array, 'N H W C'],
) -> Float[Array, 'N S D']:
  out: Any = model.apply({'params': params}, images, method='encode_images')
  return out
