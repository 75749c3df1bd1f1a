"""What a model thinks of texts that are there already.

Axes: B batch, L length, C one chunk of L, c a slice of C, V vocab, D model.
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
from gemma.gm.nn import _transformer
from gemma.gm.nn import _weights
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
    token_ids: The tokens.
    logprobs: Log-probability of each token but the first, given all before it.
  """

  token_ids: list[int]
  logprobs: list[float]

  @property
  def total(self) -> float:
    """Log-probability of the whole text, given its first token."""
    return sum(self.logprobs)

  @property
  def perplexity(self) -> float:
    """`exp` of the mean negative log-probability."""
    return float(np.exp(-self.total / max(1, len(self.logprobs))))


def score(
  model: _transformer.Transformer,
  params: Params,
  rows: list[list[int]],
  *,
  chunk_length: int,
) -> list[Score]:
  """Scores of texts; see `Sampler.score`."""
  tokens = _prompt.pad(rows)
  # The last token predicts nothing that is there.
  targets = np.pad(tokens[:, 1:], [(0, 0), (0, 1)])
  parts = []
  for begin, hidden in _hidden_states(model, params, tokens, chunk_length):
    ahead = targets[:, begin : begin + chunk_length]
    short = hidden.shape[1] - ahead.shape[1]
    ahead = np.pad(ahead, [(0, 0), (0, short)])
    parts.append(np.asarray(_logprobs(model, params, hidden, ahead)))
  logprobs = np.concatenate(parts, axis=1)
  return [
    Score(token_ids=row, logprobs=values[: len(row) - 1].tolist())
    for row, values in zip(rows, logprobs, strict=True)
  ]


def embed(
  model: _transformer.Transformer,
  params: Params,
  rows: list[list[int]],
  *,
  pooling: Pooling,
  normalize: bool,
  chunk_length: int,
) -> np.ndarray:
  """Vectors of texts; see `Sampler.embed`."""
  if pooling not in ('mean', 'last'):
    raise ValueError(f"pooling={pooling!r} is neither 'mean' nor 'last'.")
  tokens = _prompt.pad(rows)
  lengths = np.array([len(row) for row in rows])
  total = np.zeros((len(rows), model.config.embed_dim), np.float32)
  for begin, hidden in _hidden_states(model, params, tokens, chunk_length):
    place = begin + np.arange(hidden.shape[1])[None]
    weights = (place < lengths[:, None]) / lengths[:, None]
    if pooling == 'last':
      weights = place == lengths[:, None] - 1
    weights = jnp.asarray(weights, jnp.float32)
    total += np.asarray(
      jnp.einsum('BCD,BC->BD', hidden.astype(jnp.float32), weights)
    )
  if normalize:
    total /= np.linalg.norm(total, axis=1, keepdims=True)
  return total


def _hidden_states(
  model: _transformer.Transformer,
  params: Params,
  tokens: Int[np.ndarray, 'B L'],
  chunk_length: int,
) -> Iterator[tuple[int, Float[Array, 'B C D']]]:
  """The states after the final norm, chunk by chunk, and where each begins."""
  if chunk_length < 1:
    raise ValueError(f'chunk_length={chunk_length} must be at least 1.')
  rows, length = tokens.shape
  whole = length + -length % chunk_length
  cache = model.init_cache(
    batch_size=rows,
    dtype=_weights.dtype_of(params),
    cache_length=whole,
  )
  tokens = np.pad(tokens, [(0, 0), (0, whole - length)])
  for begin in range(0, whole, chunk_length):
    chunk = tokens[:, begin : begin + chunk_length]
    cache, hidden = _next_hidden(model, params, chunk, cache)
    yield begin, hidden


@functools.partial(jax.jit, static_argnums=0, donate_argnames='cache')
def _next_hidden(
  model: _transformer.Transformer,
  params: Params,
  chunk: Int[Array, 'B C'],
  cache: _cache.KVCache,
) -> tuple[_cache.KVCache, Float[Array, 'B C D']]:
  # The compiler leaves out logits, as nobody reads them.
  out: Any = model.apply(
    {'params': params}, chunk, cache=cache, return_hidden_states=True
  )
  return out.cache, out.hidden_states


@functools.partial(jax.jit, static_argnums=0)
def _logprobs(
  model: _transformer.Transformer,
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
