"""What sampling methods set, as one number for each row; and what it does.

Axes: B batch, V vocab, X blocks of the vocabulary, Y tokens of a block.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Key
import numpy as np

from gemma.gm.math import _select

# What changes nothing. Rows without a method draw from the distribution.
DEFAULTS: Mapping[str, Any] = {
  'temperature': 1.0,
  'top_k': 0,
  'top_p': 1.0,
  'min_p': 0.0,
  'repetition': 1.0,
  'frequency': 0.0,
  'presence': 0.0,
  'bias': None,
}
Numbers = Mapping[str, Any]
_BLOCK = 512  # Tokens of a block in `sample`.
# Lower temperatures count as this one: logits divided by it stay finite.
_COLDEST = 1e-6


class Settings(struct.PyTreeNode):
  """How each row picks its tokens; see the sampling methods.

  Attributes:
    temperature: 0 is greedy.
    top_k: 0 keeps all tokens.
    top_p: 1 keeps all tokens.
    min_p: 0 keeps all tokens.
    repetition: 1 changes nothing.
    frequency: 0 changes nothing.
    presence: 0 changes nothing.
    bias: Added to the logits; None if no row has one.
  """

  temperature: Float[Array, 'B']
  top_k: Int[Array, 'B']
  top_p: Float[Array, 'B']
  min_p: Float[Array, 'B']
  repetition: Float[Array, 'B']
  frequency: Float[Array, 'B']
  presence: Float[Array, 'B']
  bias: Float[Array, 'B V'] | None


class Seen(struct.PyTreeNode):
  """Which tokens a row has had, for penalties.

  Attributes:
    prompt: Those of the prompt.
    answer: How often each token was sampled.
  """

  prompt: Bool[Array, 'B V']
  answer: Int[Array, 'B V']

  @classmethod
  def of_prompts(cls, rows: Sequence[Sequence[int]], size: int) -> 'Seen':
    """What prompts hold, with nothing sampled yet."""
    prompt = np.zeros((len(rows), size), bool)
    for seen, row in zip(prompt, rows, strict=True):
      seen[[token for token in row if token >= 0]] = (
        True  # Images are no words.
      )
    answer = jnp.zeros(prompt.shape, jnp.int32)
    return cls(prompt=jnp.asarray(prompt), answer=answer)

  def add(self, tokens: Int[Array, 'B'], active: Bool[Array, 'B']) -> 'Seen':
    """Counts a sampled token of each active row."""
    row = jnp.arange(tokens.shape[0])
    return self.replace(
      answer=self.answer.at[row, tokens].add(active.astype(jnp.int32))
    )


def penalizes(rows: Sequence[Numbers]) -> bool:
  """Whether any row has a penalty, and tokens must be counted."""
  names = 'repetition', 'frequency', 'presence'
  return any(
    row.get(name, DEFAULTS[name]) != DEFAULTS[name]
    for row in rows
    for name in names
  )


def stack(rows: Sequence[Numbers], size: int, *, biased: bool) -> Settings:
  """Settings of a batch from the numbers of each row.

  Args:
    rows: Fields that differ from their default, for each row.
    size: Tokens of the table.
    biased: Whether there is room for biases.
  """
  full = [{**DEFAULTS, **row} for row in rows]
  columns = {name: [row[name] for row in full] for name in DEFAULTS}
  biases = columns.pop('bias')
  bias = _dense_bias(biases, size) if biased else None
  top_k = jnp.asarray(columns.pop('top_k'), jnp.int32)
  floats = {k: jnp.asarray(v, jnp.float32) for k, v in columns.items()}
  return Settings(**floats, top_k=top_k, bias=bias)


def shape_logits(
  logits: Float[Array, 'B V'], settings: Settings, seen: Seen | None
) -> Float[Array, 'B V']:
  """Logits after penalties, bias, temperature and filters, in float32.

  Their softmax is the distribution that is drawn from. Stages that no row asks
  for cost nothing.
  """
  logits = adjust(logits, settings, seen)
  heat = settings.temperature
  heat_or_1 = jnp.where(heat > 0, jnp.maximum(heat, _COLDEST), 1)
  logits = logits / heat_or_1[:, None]
  for wanted, among, number in (
    (settings.top_k > 0, _select.among_top_k, settings.top_k),
    (settings.top_p < 1, _select.among_top_p, settings.top_p),
    (settings.min_p > 0, _select.among_min_p, settings.min_p),
  ):
    logits = jax.lax.cond(
      jnp.any(wanted & (heat > 0)),
      lambda x, f=among, n=number: _kept(f(x, n), x),
      lambda x: x,
      logits,
    )
  return logits


def _kept(among: Bool[Array, 'B V'], x: Float[Array, 'B V']) -> jax.Array:
  """The logits that a filter keeps; NaN stays, so that it is found later."""
  return jnp.where(among | jnp.isnan(x), x, -jnp.inf)


def adjust(
  logits: Float[Array, 'B V'], settings: Settings, seen: Seen | None
) -> Float[Array, 'B V']:
  """The stages that come before temperature: penalties and bias."""
  logits = logits.astype(jnp.float32)
  if seen is not None:
    times = seen.answer
    scale = settings.repetition[:, None]
    penalized = jnp.where(logits > 0, logits / scale, logits * scale)
    logits = jnp.where(seen.prompt | (times > 0), penalized, logits)
    logits -= settings.frequency[:, None] * times
    logits -= settings.presence[:, None] * (times > 0)
  return logits if settings.bias is None else logits + settings.bias


def draw(
  logits: Float[Array, 'B V'],
  keys: Key[Array, 'B'],
  temperature: Float[Array, 'B'],
) -> Int[Array, 'B']:
  """A token of each row from shaped logits; the likeliest at temperature 0."""
  likeliest = jnp.argmax(logits, axis=-1)

  def random() -> jax.Array:
    probs = jax.nn.softmax(logits, axis=-1)
    return jnp.where(temperature > 0, sample(probs, keys), likeliest)

  return jax.lax.cond(jnp.any(temperature > 0), random, lambda: likeliest)


def distribution(
  logits: Float[Array, 'B V'], temperature: Float[Array, 'B']
) -> Float[Array, 'B V']:
  """The probabilities that `draw` draws from."""
  likeliest = jnp.argmax(logits, axis=-1, keepdims=True)
  place = jnp.arange(logits.shape[-1])[None]
  return jnp.where(
    temperature[:, None] > 0,
    jax.nn.softmax(logits, axis=-1),
    (place == likeliest).astype(jnp.float32),
  )


def sample(
  probs: Float[Array, 'B V'], keys: Key[Array, 'B']
) -> Int[Array, 'B']:
  """A token of each row with the given probabilities, or in proportion.

  First a block of tokens is drawn, then one of the block: two random numbers
  for a row, where Gumbel noise needs one for each token of the vocabulary.
  """
  short = -probs.shape[1] % _BLOCK
  blocks = jnp.pad(probs, [(0, 0), (0, short)])
  blocks = blocks.reshape(probs.shape[0], -1, _BLOCK)  # [B X Y]
  points = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys)
  block = jax.vmap(inverse_cdf)(jnp.sum(blocks, axis=-1), points[:, 0])
  chosen = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
  return block * _BLOCK + jax.vmap(inverse_cdf)(chosen, points[:, 1])


def inverse_cdf(
  weights: Float[Array, 'Y'], point: Float[Array, '']
) -> Int[Array, '']:
  """An index in proportion to the weights; never one of weight 0.

  Sums that are made in parallel are rounded differently, so that they may rise
  where a weight is 0: such places are left out.

  Args:
    weights: Of each index; not all 0.
    point: A random number in [0, 1).
  """
  covered = jnp.where(weights > 0, jnp.cumsum(weights), 0)
  total = jnp.max(covered)
  below = jnp.nextafter(total, jnp.zeros_like(total))
  return jnp.argmax(covered > jnp.minimum(point * total, below))


def _dense_bias(
  biases: Sequence[Mapping[int, float] | None], size: int
) -> Float[Array, 'B V']:
  dense = np.zeros((len(biases), size), np.float32)
  for row, bias in zip(dense, biases, strict=True):
    for token, value in (bias or {}).items():
      if not 0 <= token < size:
        raise ValueError(
          f'LogitBias has token {token}, outside of the table of {size} rows.'
        )
      row[token] = value
  return jnp.asarray(dense)
