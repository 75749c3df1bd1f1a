"""Where images are in a sequence of tokens, and what stands there.

Axes: B batch, L tokens as they were given, T with room for the images, S soft
tokens of all images of a row, D model.
"""

from collections.abc import Sequence
import dataclasses

import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Shaped

PLACEHOLDER = -2  # In place of a token where the model puts a soft token.
_PAD = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTokens:
  """Ids around an image.

  Attributes:
    start: Start of an image; in a prompt, it stands for the image.
    end: End of an image.
    newlines: The double newline before and behind.
    soft: What others put where we have `PLACEHOLDER`: an id behind the table
      of the model, for their files only.
  """

  start: int = 255_999
  end: int = 256_000
  newlines: int = 108
  soft: int = 262_144

  def around(self, count: int) -> tuple[int, ...]:
    """What stands for one image of `count` soft tokens."""
    return self.block((PLACEHOLDER,) * count)

  def block(self, soft: Sequence[int]) -> tuple[int, ...]:
    """What stands for one image, with these ids for its soft tokens."""
    return (self.newlines, self.start, *soft, self.end, self.newlines)


def expanded_length(length: int, *, images: int, count: int) -> int:
  """Tokens of a row after `expand`."""
  return length + images * (len(ImageTokens().around(count)) - 1)


def expand(
  tokens: Int[Array, 'B L'],
  *,
  images: int,
  count: int,
  ids: ImageTokens,
) -> tuple[Int[Array, 'B T'], Int[Array, 'B L']]:
  """Makes room for images where they start.

  Rows with fewer images end in padding. Further starts are left as they are.

  Args:
    tokens: Token ids.
    images: Most images of a row.
    count: Soft tokens of an image.
    ids: Ids of the tokens around an image.

  Returns:
    The longer rows, and where each given token is in them; a start is where
    the first token that stands for the image is.
  """
  block = jnp.array(ids.around(count))
  more = len(block) - 1
  is_start = tokens == ids.start
  number = jnp.cumsum(is_start, axis=1)
  is_start &= number <= images
  before = jnp.minimum(number, images) - is_start
  place = jnp.arange(tokens.shape[1])[None] + more * before

  rows = jnp.arange(tokens.shape[0])[:, None]
  length = expanded_length(tokens.shape[1], images=images, count=count)
  empty = jnp.full((tokens.shape[0], length), _PAD, tokens.dtype)
  out = empty.at[rows, place].set(tokens)
  # How far each place is behind the token that it comes from.
  offset = jnp.arange(length)[None] - spread(place, place, length)
  inside = spread(is_start, place, length) & (offset <= more)
  return jnp.where(inside, block[jnp.minimum(offset, more)], out), place


def spread(
  x: Shaped[Array, 'B L'], place: Int[Array, 'B L'], length: int
) -> Shaped[Array, 'B T']:
  """What each token had, for all that stands in its place after `expand`.

  Args:
    x: A value for each token as it was given.
    place: Where it is now.
    length: Length of the longer rows.
  """
  rows = jnp.arange(x.shape[0])[:, None]
  ones = jnp.zeros((x.shape[0], length), jnp.int32).at[rows, place].set(1)
  return jnp.take_along_axis(x, jnp.cumsum(ones, axis=1) - 1, axis=1)


def insert(
  x: Float[Array, 'B T D'],
  soft_tokens: Float[Array, 'B S D'],
  here: Bool[Array, 'B T'],
) -> Float[Array, 'B T D']:
  """Puts soft tokens, in their order, where they go.

  Args:
    x: Embedded tokens.
    soft_tokens: What goes in; those without a place are left out.
    here: Their places. If there are more, the rest gets zeros.
  """
  order = jnp.cumsum(here, axis=1) - 1
  soft = jnp.take_along_axis(
    soft_tokens, order[:, :, None], axis=1, mode='fill', fill_value=0
  )
  return jnp.where(here[:, :, None], soft.astype(x.dtype), x)
