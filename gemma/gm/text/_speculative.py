"""Several tokens for one pass of the model: guess ahead, check, keep.

Axes: B batch, J guesses, V vocab, S capacity of the cache.

Guesses `d` come with the distribution `q` that they were drawn from. The model
gives `p` for each of them in one pass. A guess is kept with probability
`min(1, p(d) / q(d))`; the first that is not is replaced by a draw from
`max(p - q, 0)`, and those behind it are dropped. What is kept is distributed as
if `p` had been sampled from one token at a time (https://arxiv.org/abs/2211.17192).
"""

from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int

from gemma.gm.text import _drafts
from gemma.gm.text import _settings
from gemma.gm.text import _state
from gemma.gm.text import _step

PAD = _state.PAD


class Guesses(struct.PyTreeNode):
  """Tokens that may follow.

  Attributes:
    tokens: The guesses.
    count: How many of them count.
    probs: The distribution that each was drawn from; None if they are certain.
  """

  tokens: Int[Array, 'B J']
  count: Int[Array, 'B']
  probs: Float[Array, 'B J V'] | None


def step(
  params: _step.Params,
  draft_params: _step.Params | None,
  state: _state.SamplingState,
  active: Bool[Array, 'B'],
  *,
  rules: _step.Rules,
  program: _step.Program,
) -> _state.SamplingState:
  """One to `num_tokens + 1` tokens of each active row.

  Args:
    params: The model's parameters.
    draft_params: Those of a draft model.
    state: What came before.
    active: Rows that take part.
    rules: Roles of tokens.
    program: The model and the drafter.
  """
  length, before = state.cache.length, state.count
  # The last token of all needs no guess: it is never fed.
  room = jnp.minimum(state.cache.cache_length - length, state.limit - before)
  room = jnp.where(active, room - 1, 0)
  state, guesses = _guess(
    draft_params, state, active, room, rules=rules, program=program
  )
  last = jnp.where(active, state.last_token, PAD)
  counts = jnp.arange(guesses.tokens.shape[1])[None] < guesses.count[:, None]
  feed = jnp.where(counts, guesses.tokens, PAD)
  out: Any = program.model.apply(
    {'params': params},
    jnp.concatenate([last[:, None], feed], axis=1),
    cache=state.cache,
    return_hidden_states=True,
  )
  state = _keep(
    state.replace(cache=out.cache),
    guesses,
    _step.Prediction(out.logits, out.hidden_states),
    length + 1,
    active,
    rules=rules,
    program=program,
  )
  # Take back what was fed and not kept. The newest token is not fed yet, but
  # for rows that end without one.
  kept = length + state.count - before + (active & state.nan)
  draft = state.draft_cache
  return state.replace(
    cache=state.cache.replace(length=kept),
    draft_cache=None if draft is None else draft.replace(length=kept),
  )


def _keep(
  state: _state.SamplingState,
  guesses: Guesses,
  predictions: _step.Prediction,
  index: Int[Array, 'B'],
  active: Bool[Array, 'B'],
  *,
  rules: _step.Rules,
  program: _step.Program,
) -> _state.SamplingState:
  """Checks guesses one after the other, until one is not kept.

  Args:
    state: What came before.
    guesses: The guesses.
    predictions: The model's, `[B J+1 ...]`: one more than there are guesses.
    index: Place of the first guess in its row.
    active: Rows that take part.
    rules: Roles of tokens.
    program: The user's mask.
  """

  def check(carry: Any, xs: Any) -> tuple[Any, None]:
    state, alive = carry
    j, guess, q, prediction = xs

    def run() -> tuple[_state.SamplingState, jax.Array]:
      logits = _step.shaped_logits(
        state, prediction.logits, index + j, rules=rules, program=program
      )
      p = _settings.distribution(logits, state.settings.temperature)
      guessed = j < guesses.count
      tokens, kept = _accept(p, q, guess, guessed, _step.token_keys(state))
      finite = _step.chose_finite(logits, tokens)
      new = _step.append(
        state, tokens, prediction, index + j, alive, rules, finite
      )
      return new, alive & kept & new.live

    return jax.lax.cond(jnp.any(alive), run, lambda: (state, alive)), None

  tokens, probs = guesses.tokens, guesses.probs
  steps = tokens.shape[1] + 1
  xs = (
    jnp.arange(steps),
    _by_step(tokens, steps),
    None if probs is None else _by_step(probs, steps),
    jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), predictions),
  )
  (state, _), _ = jax.lax.scan(check, (state, active), xs)
  return state


def _accept(
  p: Float[Array, 'B V'],
  q: Float[Array, 'B V'] | None,
  guess: Int[Array, 'B'],
  guessed: Bool[Array, 'B'],
  keys: jax.Array,
) -> tuple[Int[Array, 'B'], Bool[Array, 'B']]:
  """A token of each row, and whether it is the guess."""
  if q is None:
    q = jax.nn.one_hot(guess, p.shape[-1], dtype=p.dtype)
  q = jnp.where(guessed[:, None], q, 0)
  chance, other = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
  at = guess[:, None]
  p_guess = jnp.take_along_axis(p, at, axis=1)[:, 0]
  q_guess = jnp.take_along_axis(q, at, axis=1)[:, 0]
  kept = guessed & (jax.vmap(jax.random.uniform)(chance) * q_guess < p_guess)
  rest = jnp.maximum(p - q, 0)
  # Rounding may leave nothing where p and q are equal.
  rest = jnp.where(rest.sum(axis=-1, keepdims=True) > 0, rest, p)
  return jnp.where(kept, guess, _settings.sample(rest, other)), kept


def _guess(
  draft_params: _step.Params | None,
  state: _state.SamplingState,
  active: Bool[Array, 'B'],
  room: Int[Array, 'B'],
  *,
  rules: _step.Rules,
  program: _step.Program,
) -> tuple[_state.SamplingState, Guesses]:
  """Guesses of the program's drafter; at most `room` of a row count."""
  drafter = program.draft
  if isinstance(drafter, _drafts.ModelDrafter):
    return _write_ahead(
      draft_params, state, active, room, drafter, rules=rules, program=program
    )
  assert drafter is not None
  length = state.cache.length + 1
  tokens, count = jax.vmap(_look_up, in_axes=(0, 0, None))(
    state.context, length, drafter
  )
  count = jnp.minimum(count, room)
  return state, Guesses(tokens=tokens, count=count, probs=None)


def _write_ahead(
  params: Any,
  state: _state.SamplingState,
  active: Bool[Array, 'B'],
  room: Int[Array, 'B'],
  drafter: _drafts.ModelDrafter,
  *,
  rules: _step.Rules,
  program: _step.Program,
) -> tuple[_state.SamplingState, Guesses]:
  """Samples guesses from a draft model, one after the other."""

  def write(carry: Any, j: jax.Array) -> tuple[Any, Any]:
    cache, token = carry
    feed = jnp.where(active & (j <= room), token, PAD)
    cache, prediction = _step.forward(
      drafter.model, params, feed[:, None], cache
    )
    logits = _step.shaped_logits(
      state, prediction.logits, state.cache.length + 1, rules=rules,
      program=program,
    )  # fmt: skip
    heat = state.settings.temperature
    keys = jax.vmap(jax.random.fold_in)(state.rng, -1 - state.count - j)
    guess = _settings.draw(logits, keys, heat).astype(jnp.int32)
    return (cache, guess), (guess, _settings.distribution(logits, heat))

  # Once more than there are guesses, so that the last one is in the cache too.
  steps = jnp.arange(drafter.num_tokens + 1)
  carry = state.draft_cache, state.last_token
  (cache, _), (tokens, probs) = jax.lax.scan(write, carry, steps)
  guesses = Guesses(
    tokens=jnp.moveaxis(tokens[:-1], 0, 1),
    count=jnp.minimum(drafter.num_tokens, room),
    probs=jnp.moveaxis(probs[:-1], 0, 1),
  )
  return state.replace(draft_cache=cache), guesses


def _look_up(
  context: Int[Array, 'S'], length: Int[Array, ''], draft: _drafts.PromptLookup
) -> tuple[Int[Array, 'J'], Int[Array, '']]:
  """What followed the newest earlier occurrence of a row's last tokens."""
  size = context.shape[0]
  place = jnp.arange(size)
  begin = jnp.full((), size)  # Where the guesses begin; behind all: none.
  for n in range(1, min(draft.ngram, size - 1) + 1):  # The longest match wins.
    same = jnp.ones(size, bool)
    for j in range(n):
      same &= jnp.roll(context, -j) == context[length - n + j]
    same &= (place + n < length) & (length > n)
    last = jnp.max(jnp.where(same, place, -1))
    begin = jnp.where(last >= 0, last + n, begin)
  tokens = context[jnp.minimum(begin + jnp.arange(draft.num_tokens), size - 1)]
  count = jnp.clip(length - begin, 0, draft.num_tokens)
  # An image is not something to say.
  text = jnp.cumprod(tokens >= 0)
  return jnp.where(text > 0, tokens, PAD), jnp.minimum(count, jnp.sum(text))


def _by_step(x: jax.Array, steps: int) -> jax.Array:
  """`[B J ...]` as `[J+1 B ...]`, with nothing in the last step."""
  x = jnp.moveaxis(x, 1, 0)
  return jnp.pad(x, [(0, steps - x.shape[0])] + [(0, 0)] * (x.ndim - 1))
