"""What one call of a sampler asks for."""

from collections.abc import Sequence
import dataclasses
import random
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gemma.gm.math import _numbers
from gemma.gm.sharding import _processes
from gemma.gm.text import _album
from gemma.gm.text import _grammar
from gemma.gm.text import _sampling
from gemma.gm.text import _settings
from gemma.gm.text import _state
from gemma.gm.text import _step


class Guide:
  """Holds the answer of one row to a grammar."""

  def __init__(self, grammar: _grammar.Grammar):
    """Starts before the first token.

    Args:
      grammar: What the answer must be.
    """
    self._matcher = grammar.start()
    self._count = 0

  def follow(self, tokens: np.ndarray) -> None:
    """Takes note of the tokens of the answer so far."""
    for token in tokens[self._count :].tolist():
      self._matcher.accept(token)
    self._count = len(tokens)

  def allowed(self) -> np.ndarray:
    """Tokens that may come next, `bool[V]`."""
    return self._matcher.allowed()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """What one call asks for.

  Attributes:
    rows: Tokens of each prompt.
    keys: The random stream of each row.
    numbers: What sampling methods set for each row.
    limits: Tokens to sample for each row.
    method: A sampling method of the user's own.
    penalizes: Whether any row of the call has a penalty.
    biased: Whether any row of the call has a bias.
    logprobs: Alternatives to record of each token; None records nothing.
    hidden_states: Whether to record hidden states.
    logits_mask: A user's function, see `Program`.
    guides: What holds each row to a schema; empty without one.
    album: Images of the prompts, and of what they follow.
    sharding: Where the batch lies.
  """

  rows: list[list[int]]
  keys: jax.Array
  numbers: list[_settings.Numbers]
  limits: list[int]
  method: _sampling.SamplingMethod | None = None
  penalizes: bool = False
  biased: bool = False
  logprobs: int | None = None
  hidden_states: bool = False
  logits_mask: _step.LogitsMask | None = None
  guides: Sequence[Guide] = ()
  album: _album.Album = dataclasses.field(default_factory=_album.Album)
  sharding: Any = None

  @property
  def images(self) -> tuple[np.ndarray, ...]:
    """The images, for a state that goes on from here."""
    return tuple(self.album.images.values())

  def take(self, index: Sequence[int]) -> 'Request':
    """The same for some of the rows."""
    return dataclasses.replace(
      self,
      rows=[self.rows[i] for i in index],
      keys=self.keys[np.asarray(index)],
      numbers=[self.numbers[i] for i in index],
      limits=[self.limits[i] for i in index],
      guides=[self.guides[i] for i in index] if self.guides else (),
    )

  def follow(self, state: _state.SamplingState) -> None:
    """Tells the guides what was sampled since they were last told."""
    if self.guides:
      rows, counts = jax.device_get((state.predicted_tokens, state.count))
      for guide, row, count in zip(self.guides, rows, counts, strict=True):
        guide.follow(row[:count])

  def rules(self, rules: _step.Rules) -> _step.Rules:
    """Roles of tokens, with what the guides allow next."""
    if not self.guides:
      return rules
    banned = np.asarray(rules.banned)
    allowed = np.zeros((len(self.guides), banned.size), bool)
    for row, guide in zip(allowed, self.guides, strict=True):
      mask = guide.allowed()
      row[: len(mask)] = mask
      if not np.any(row & ~banned):
        raise ValueError(
          'All tokens that the schema allows next are forbidden. Take '
          f'{np.flatnonzero(row)[:8].tolist()} out of forbidden_tokens.'
        )
    return rules.replace(allowed=jnp.asarray(allowed))


def contexts(
  request: Request, last_state: _state.SamplingState | None
) -> list[list[int]]:
  """Every token of each row: what came before, and the prompt."""
  if last_state is None:
    return request.rows
  past = last_state.contexts()
  if len(past) != len(request.rows):
    raise ValueError(
      f'{len(request.rows)} prompts cannot follow a last_state of {len(past)} '
      'rows.'
    )
  both = zip(past, request.rows, strict=True)
  return [before + row for before, row in both]


def limits_of(
  max_new_tokens: int | Sequence[int] | None, rows: int, *, most: int
) -> list[int]:
  """Tokens to sample for each row.

  Args:
    max_new_tokens: One number, one for each row, or None for the most.
    rows: Rows.
    most: The most.

  Raises:
    TypeError: If one is not a number.
    ValueError: If numbers are too many, too few, too large or too small, or not
      whole.
  """
  if max_new_tokens is None:
    max_new_tokens = most
  if isinstance(max_new_tokens, Sequence | np.ndarray | jax.Array):
    given = [*max_new_tokens]
  else:
    given = [max_new_tokens] * rows
  if len(given) != rows:
    raise ValueError(
      f'max_new_tokens has {len(given)} numbers for {rows} prompts.'
    )
  for limit in given:
    _numbers.whole(1, max_new_tokens=limit)
  limits = [int(limit) for limit in given]
  if max(limits) > most:
    raise ValueError(
      'max_new_tokens should be smaller or equal to max_out_length: '
      f'{max(limits)} > {most}. Raise max_out_length.'
    )
  return limits


def as_key(rng: int | np.integer | jax.Array | None) -> jax.Array:
  """A typed random key from a seed, a key of either kind, or by chance."""
  if rng is None:
    rng = _processes.of_first(random.getrandbits(31))
  if isinstance(rng, int | np.integer):
    return _key_of_seed(int(rng))
  if not isinstance(rng, jax.Array | np.ndarray):
    raise TypeError(
      f'rng={rng!r} is a {type(rng).__name__}. Give a whole number or a random '
      'key.'
    )
  key = jnp.asarray(rng)
  if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    key = jax.random.wrap_key_data(key)
  if key.ndim:
    raise ValueError(f'rng has shape {key.shape}. Give one random key.')
  return key


def _key_of_seed(seed: int) -> jax.Array:
  """The key that JAX makes of a seed; of one beyond int64, by its words."""
  if -(1 << 63) <= seed < 1 << 63:
    return jax.random.key(seed)
  key = jax.random.key(seed < 0)
  seed = abs(seed)
  while seed:
    key = jax.random.fold_in(key, np.uint32(seed & 0xFFFFFFFF))
    seed >>= 32
  return key


def check_logprobs(logprobs: int | None, size: int) -> None:
  """Raises on a number of alternatives that there cannot be."""
  if logprobs is not None and not 0 <= logprobs <= size:
    raise ValueError(
      f'logprobs={logprobs} alternatives of each token: give a number between '
      f'0 and {size}, the rows of the table.'
    )
