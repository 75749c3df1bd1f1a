"""What a model thinks of texts that are there already.

Axes: B batch, C one chunk of a text, c a slice of C, N images of it, S soft
tokens of an image, V vocab, D model.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import functools
from typing import Any
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int
import numpy as np

from gemma.gm.nn import _cache
from gemma.gm.nn import _compiled
from gemma.gm.nn import _like
from gemma.gm.nn import _weights
from gemma.gm.text import _chunks
from gemma.gm.text import _images
from gemma.gm.text import _prompt
from gemma.gm.text import _state

PAD = _state.PAD
Params = Mapping[str, Any]
Pooling = Literal['mean', 'last']

_SLICE = 16  # Tokens of each row whose logits are there at a time.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
  """How likely a model finds a text.

  Attributes:
    token_ids: The tokens, with one for each image.
    logprobs: Log-probability of each token but the first, given all before it;
      0 of an image, which is not predicted.
    num_images: Images among these.
  """

  token_ids: list[int]
  logprobs: list[float]
  num_images: int = 0

  @property
  def total(self) -> float:
    """Log-probability of the whole text, given its first token."""
    return sum(self.logprobs)

  @property
  def perplexity(self) -> float:
    """`exp` of the mean negative log-probability."""
    words = len(self.logprobs) - self.num_images
    return float(np.exp(-self.total / max(1, words)))


def score(
  model: _like.TransformerLike,
  params: Params,
  prompts: _prompt.Prompts,
  *,
  chunk_length: int,
) -> list[Score]:
  """Scores of texts; see `Sampler.score`."""
  # The last token predicts nothing that is there, and an image is no word.
  targets = [[*map(lambda i: max(i, 0), row[1:]), PAD] for row in prompts.rows]
  found = [np.zeros(len(row)) for row in prompts.rows]
  for chunk, hidden in _hidden_states(model, params, prompts, chunk_length):
    size = chunk.tokens.shape[1]
    ahead = _prompt.pad(
      [
        [*row[begin : begin + size], *[PAD] * size][:size]
        for row, begin in zip(targets, chunk.begin, strict=True)
      ]
    )
    logprobs = np.asarray(_logprobs(model, params, hidden, ahead))
    for out, begin, new in zip(found, chunk.begin, logprobs, strict=True):
      part = out[begin : begin + size]
      part[:] = new[: len(part)]
  return [
    _score(row, values, model)
    for row, values in zip(prompts.rows, found, strict=True)
  ]


def _score(
  row: list[int], logprobs: np.ndarray, model: _like.TransformerLike
) -> Score:
  """The score of a row from what each of its tokens says of the next."""
  tokens, places = _prompt.collapse(row, model)
  values = [
    0.0 if row[place] < 0 else float(logprobs[place - 1])
    for place in places[1:]
  ]
  images = sum(row[place] < 0 for place in places[1:])
  return Score(token_ids=tokens, logprobs=values, num_images=images)


def embed(
  model: _like.TransformerLike,
  params: Params,
  prompts: _prompt.Prompts,
  *,
  pooling: Pooling,
  normalize: bool,
  chunk_length: int,
) -> np.ndarray:
  """Vectors of texts; see `Sampler.embed`."""
  if pooling not in ('mean', 'last'):
    raise ValueError(f"pooling={pooling!r} is neither 'mean' nor 'last'.")
  rows = prompts.rows
  lengths = np.array([len(row) for row in rows])[:, None]
  total = np.zeros((len(rows), model.config.embed_dim), np.float32)
  for chunk, hidden in _hidden_states(model, params, prompts, chunk_length):
    place = chunk.begin[:, None] + np.arange(hidden.shape[1])[None]
    real = chunk.tokens != PAD
    weights = real / lengths
    if pooling == 'last':
      weights = real & (place == lengths - 1)
    weights = jnp.asarray(weights, jnp.float32)
    total += np.asarray(
      jnp.einsum('BCD,BC->BD', hidden.astype(jnp.float32), weights)
    )
  if normalize:
    total /= np.linalg.norm(total, axis=1, keepdims=True)
  return total


def _hidden_states(
  model: _like.TransformerLike,
  params: Params,
  prompts: _prompt.Prompts,
  chunk_length: int,
) -> Iterator[tuple[_chunks.Chunk, Float[Array, 'B C D']]]:
  """Pieces of the texts, and the states after the final norm of each."""
  if chunk_length < 1:
    raise ValueError(f'chunk_length={chunk_length} must be at least 1.')
  longest = max(map(len, prompts.rows))
  cache = model.init_cache(
    batch_size=len(prompts.rows),
    dtype=_weights.dtype_of(params),
    cache_length=longest + -longest % chunk_length,
  )
  image = _images.soft_tokens_of(model)
  for chunk in _chunks.cut(prompts.rows, [chunk_length], image):
    soft = prompts.album.soft_tokens_of(chunk, model, params)
    cache, hidden = _next_hidden(model, params, chunk.tokens, soft, cache)
    yield chunk, hidden


@functools.partial(_compiled.jit, static_argnums=0, donate_argnames='cache')
def _next_hidden(
  model: _like.TransformerLike,
  params: Params,
  chunk: Int[Array, 'B C'],
  soft_tokens: Float[Array, 'B N S D'] | None,
  cache: _cache.KVCache,
) -> tuple[_cache.KVCache, Float[Array, 'B C D']]:
  # The compiler leaves out logits, as nobody reads them.
  out: Any = model.apply(
    {'params': params},
    chunk,
    soft_tokens=soft_tokens,
    cache=cache,
    return_hidden_states=True,
  )
  return out.cache, out.hidden_states


@functools.partial(_compiled.jit, static_argnums=0)
def _logprobs(
  model: _like.TransformerLike,
  params: Params,
  hidden: Float[Array, 'B C D'],
  targets: Int[Array, 'B C'],
) -> Float[Array, 'B C']:
  """Log-probability of each target, with the logits of few tokens at a time."""

  def part(xs: Any) -> jax.Array:
    hidden, target = xs  # [B c D], [B c]
    logits: Any = model.apply({'params': params}, hidden, method='logits')
    logprobs = jax.nn.log_softmax(logits, axis=-1)
    return jnp.take_along_axis(logprobs, target[..., None], axis=-1)[..., 0]

  rows, length = targets.shape
  size = min(_SLICE, length)
  short = -length % size
  hidden = jnp.pad(hidden, [(0, 0), (0, short), (0, 0)])
  targets = jnp.pad(targets, [(0, 0), (0, short)])
  parts = jax.lax.map(
    part,
    (
      jnp.moveaxis(hidden.reshape(rows, -1, size, hidden.shape[-1]), 1, 0),
      jnp.moveaxis(targets.reshape(rows, -1, size), 1, 0),
    ),
  )
  return jnp.moveaxis(parts, 0, 1).reshape(rows, -1)[:, :length]
