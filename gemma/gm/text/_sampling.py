"""How the next token is picked from the logits.

Axes: *B any batch dims, V vocab.
"""

import abc
import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Key
from jaxtyping import UInt32

Rng = Key[Array, ''] | UInt32[Array, '2']


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingMethod(abc.ABC):
  """Base of the sampling methods. Subclass it for one of your own."""

  @abc.abstractmethod
  def get_next_tokens(
    self, logits: Float[Array, '*B V'], rng: Rng
  ) -> Int[Array, '*B']:
    """Picks a token.

    Args:
      logits: Scores; minus infinity where a token is forbidden.
      rng: A random key, used once.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Greedy(SamplingMethod):
  """The most likely token."""

  def get_next_tokens(
    self, logits: Float[Array, '*B V'], rng: Rng
  ) -> Int[Array, '*B']:
    del rng
    return jnp.argmax(logits, axis=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomSampling(SamplingMethod):
  """A draw from the model's distribution.

  Attributes:
    temperature: Below 1 the likely become likelier; 0 is greedy.
  """

  temperature: float = 1.0

  def __post_init__(self):
    _check_temperature(self.temperature)

  def get_next_tokens(
    self, logits: Float[Array, '*B V'], rng: Rng
  ) -> Int[Array, '*B']:
    return _draw(logits, rng, self.temperature)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopkSampling(SamplingMethod):
  """A draw from the `k` most likely tokens (https://arxiv.org/abs/1805.04833).

  Attributes:
    temperature: See `RandomSampling`.
    k: How many tokens are in the draw.
  """

  temperature: float = 1.0
  k: int = 1

  def __post_init__(self):
    _check_temperature(self.temperature)
    if self.k < 1:
      raise ValueError(f'k={self.k} leaves no token. Use 1 or more.')

  def get_next_tokens(
    self, logits: Float[Array, '*B V'], rng: Rng
  ) -> Int[Array, '*B']:
    top, tokens = jax.lax.top_k(logits, min(self.k, logits.shape[-1]))
    place = _draw(top, rng, self.temperature)
    return jnp.take_along_axis(tokens, place[..., None], axis=-1)[..., 0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopPSampling(SamplingMethod):
  """Nucleus sampling (https://arxiv.org/abs/1904.09751).

  A draw from the fewest tokens that have probability `p` together. Tokens as
  likely as the last of them are in.

  Attributes:
    p: Probability to cover.
    temperature: See `RandomSampling`; applied before tokens are chosen.
  """

  p: float = 0.9
  temperature: float = 1.0

  def __post_init__(self):
    _check_temperature(self.temperature)
    if not 0 < self.p <= 1:
      raise ValueError(f'p={self.p} is not a probability above 0.')

  def get_next_tokens(
    self, logits: Float[Array, '*B V'], rng: Rng
  ) -> Int[Array, '*B']:
    if self.temperature == 0 or self.p == 1:
      return _draw(logits, rng, self.temperature)
    logits = logits.astype(jnp.float32) / self.temperature
    ordered = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
    covered = jnp.cumsum(jax.nn.softmax(ordered, axis=-1), axis=-1)
    rank = jnp.sum(covered < self.p, axis=-1, keepdims=True)
    # Rounding may leave the whole sum below p.
    rank = jnp.minimum(rank, logits.shape[-1] - 1)
    least = jnp.take_along_axis(ordered, rank, axis=-1)
    return _draw(jnp.where(logits >= least, logits, -jnp.inf), rng, 1.0)


def _draw(logits: jax.Array, rng: jax.Array, temperature: float) -> jax.Array:
  """A draw in float32; at temperature 0 the maximum."""
  if temperature == 0:
    return jnp.argmax(logits, axis=-1)
  scaled = logits.astype(jnp.float32) / temperature
  return jax.random.categorical(rng, scaled, axis=-1)


def _check_temperature(temperature: float) -> None:
  if temperature < 0:
    raise ValueError(f'temperature={temperature} is below 0. 0 is greedy.')
