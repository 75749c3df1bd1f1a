"""How the next token is picked from the logits.

Axes: *B any batch dims, V vocab.

A method is data: what it sets is handed to the decode loop as one number per
row, so that another temperature compiles nothing, and rows may differ. Whatever
the order in which methods are combined, logits pass these stages: penalties,
bias, temperature, top-k, top-p, min-p, draw.
"""

import abc
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Key
from jaxtyping import UInt32
import numpy as np

from gemma.gm.math import _numbers
from gemma.gm.text import _settings

Rng = Key[Array, ''] | UInt32[Array, '2']
_MOST_REPETITION = 1e6


class SamplingMethod(abc.ABC):
  """Base of the sampling methods. Subclass it for one of your own.

  A subclass is part of the compiled program: it must be hashable, and each
  different one compiles anew.
  """

  @abc.abstractmethod
  def get_next_tokens(
    self, logits: Float[Array, '*B V'], rng: Rng
  ) -> Int[Array, '*B']:
    """Picks a token.

    Args:
      logits: Scores; minus infinity where a token is forbidden.
      rng: A random key, used once.
    """


class Stage(SamplingMethod):
  """Base of the methods of this library: those that set numbers."""

  @abc.abstractmethod
  def numbers(self) -> Mapping[str, Any]:
    """Fields of `Settings` that this method sets, and their values."""

  def get_next_tokens(
    self, logits: Float[Array, '*B V'], rng: Rng
  ) -> Int[Array, '*B']:
    *batch, size = logits.shape
    numbers = [self.numbers()] * math.prod(batch)
    if _settings.penalizes(numbers):
      raise ValueError(
        f'{self} depends on what was said before. Use it in a Sampler.'
      )
    settings = _settings.stack(numbers, size, biased='bias' in numbers[0])
    rows = _settings.shape_logits(logits.reshape(-1, size), settings, None)
    if not jnp.issubdtype(rng.dtype, jax.dtypes.prng_key):
      rng = jax.random.wrap_key_data(rng)
    keys = jax.random.split(rng, rows.shape[0])
    return _settings.draw(rows, keys, settings.temperature).reshape(batch)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Greedy(Stage):
  """The most likely token."""

  def numbers(self) -> Mapping[str, Any]:
    return {'temperature': 0.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomSampling(Stage):
  """A draw from the model's distribution.

  Attributes:
    temperature: Below 1 the likely become likelier; 0 is greedy.
  """

  temperature: float = 1.0

  def __post_init__(self):
    _numbers.at_least(0, temperature=self.temperature)

  def numbers(self) -> Mapping[str, Any]:
    return {'temperature': self.temperature}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopkSampling(Stage):
  """A draw from the `k` most likely tokens (https://arxiv.org/abs/1805.04833).

  Attributes:
    temperature: See `RandomSampling`.
    k: How many tokens are in the draw.
  """

  temperature: float = 1.0
  k: int = 1

  def __post_init__(self):
    _numbers.at_least(0, temperature=self.temperature)
    _numbers.whole(1, k=self.k)

  def numbers(self) -> Mapping[str, Any]:
    return {'temperature': self.temperature, 'top_k': self.k}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopPSampling(Stage):
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
    _numbers.at_least(0, temperature=self.temperature)
    _numbers.probability(self.p)

  def numbers(self) -> Mapping[str, Any]:
    return {'temperature': self.temperature, 'top_p': self.p}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinP(Stage):
  """A draw from all tokens near the likeliest (https://arxiv.org/abs/2407.01082).

  Attributes:
    p: Tokens below this part of the largest probability are out.
    temperature: See `RandomSampling`; applied before tokens are chosen.
  """

  p: float = 0.05
  temperature: float = 1.0

  def __post_init__(self):
    _numbers.at_least(0, temperature=self.temperature)
    _numbers.probability(self.p)

  def numbers(self) -> Mapping[str, Any]:
    return {'temperature': self.temperature, 'min_p': self.p}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Penalties(Stage):
  """Makes tokens less likely that came before. Combine it in a `Chain`.

  Without a temperature beside it, a sampler is greedy.

  Attributes:
    repetition: Scores of tokens in the prompt or the answer are divided by it
      if positive, and multiplied if negative (https://arxiv.org/abs/1909.05858).
      1 changes nothing.
    frequency: Subtracted once for each time that a token is in the answer.
    presence: Subtracted once if a token is in the answer.
  """

  repetition: float = 1.0
  frequency: float = 0.0
  presence: float = 0.0

  def __post_init__(self):
    _numbers.finite(**dataclasses.asdict(self))
    if self.repetition <= 0:
      raise ValueError(f'repetition={self.repetition} must be above 0.')
    if not 1 / _MOST_REPETITION <= self.repetition <= _MOST_REPETITION:
      raise ValueError(
        f'repetition={self.repetition} must be between '
        f'{1 / _MOST_REPETITION:g} and {_MOST_REPETITION:g}.'
      )

  def numbers(self) -> Mapping[str, Any]:
    return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogitBias(Stage):
  """Adds to the scores of some tokens. Combine it in a `Chain`.

  Without a temperature beside it, a sampler is greedy. To forbid tokens, use
  the sampler's `forbidden_tokens`.

  Attributes:
    bias: What to add, by token id; finite.
  """

  bias: Mapping[int, float]

  def __post_init__(self):
    for token, value in self.bias.items():
      if not isinstance(token, int | np.integer):
        raise TypeError(
          f'LogitBias has token {token!r}, a {type(token).__name__}. Give ids.'
        )
      try:
        _numbers.real(f'The bias of token {token}', value)
      except ValueError as e:
        raise ValueError(f'{e} forbidden_tokens forbids tokens.') from None

  def numbers(self) -> Mapping[str, Any]:
    return {'bias': self.bias}


class Chain(Stage):
  """Several methods as one, in whatever order.

  ```python
  >>> from gemma import gm
  >>> sampling = gm.text.Chain(
  ...   gm.text.Penalties(repetition=1.1),
  ...   gm.text.TopkSampling(k=64, temperature=0.8),
  ...   gm.text.TopPSampling(p=0.95),
  ... )

  ```
  """

  def __init__(self, *methods: SamplingMethod):
    """Combines methods.

    Args:
      *methods: At least one. One of them may be of your own: it picks the token
        from what the others leave.

    Raises:
      ValueError: If there is none, or two set the same thing differently.
    """
    self.methods = methods
    if not methods:
      raise ValueError('Chain() is empty. Give it at least one method.')
    if len(self.own) > 1:
      raise ValueError(f'{self.own} would each pick the token. Keep one.')
    self.numbers()  # Raises if two methods disagree.

  def __eq__(self, other: object) -> bool:
    return isinstance(other, Chain) and self.methods == other.methods

  def __hash__(self) -> int:
    return hash(self.methods)

  def __repr__(self) -> str:
    return f'Chain({", ".join(map(repr, self.methods))})'

  @property
  def own(self) -> tuple[SamplingMethod, ...]:
    """Methods that are not of this library."""
    nested = [m.own if isinstance(m, Chain) else (m,) for m in self.methods]
    return tuple(m for ms in nested for m in ms if not isinstance(m, Stage))

  def numbers(self) -> Mapping[str, Any]:
    out: dict[str, Any] = {}
    for method in self.methods:
      numbers = method.numbers() if isinstance(method, Stage) else {}
      for name, value in numbers.items():
        default = _settings.DEFAULTS[name]
        if out.get(name, default) not in (default, value) and value != default:
          raise ValueError(
            f'{name} is both {out[name]} and {value} in {self}. Set it once.'
          )
        out[name] = out.get(name, value) if value == default else value
    return out


def resolve(
  sampling: SamplingMethod | Sequence[SamplingMethod], rows: int
) -> tuple[list[_settings.Numbers], SamplingMethod | None]:
  """What methods set for each row, and a method of the user's own if any.

  Args:
    sampling: One method for all rows, or one for each.
    rows: Rows of the batch.

  Raises:
    ValueError: If there are not as many methods as rows, or rows have
      different methods of the user's own.
  """
  if isinstance(sampling, SamplingMethod):
    methods = [sampling] * rows
  else:
    methods = [*sampling]
  if len(methods) != rows:
    raise ValueError(f'{len(methods)} sampling methods for {rows} prompts.')
  own = [_own(method) for method in methods]
  if any(method != own[0] for method in own):
    raise ValueError(
      f'Rows cannot have different methods of your own: {own}. Those of this '
      'library may differ.'
    )
  numbers = [m.numbers() if isinstance(m, Stage) else {} for m in methods]
  if own[0] is None:  # Penalties and biases set no temperature: greedy.
    numbers = [{'temperature': 0.0, **row} for row in numbers]
  return numbers, own[0]


def _own(method: SamplingMethod) -> SamplingMethod | None:
  if isinstance(method, Chain):
    return next(iter(method.own), None)
  return None if isinstance(method, Stage) else method
