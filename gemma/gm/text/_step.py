"""One token of every row: from logits to the state that holds it.

Axes: B batch, *B any batch dims, L length, N images of it, or states of
`StopStrings`, V vocab, D model, S capacity of the cache, or soft tokens of an
image.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Key

from gemma.gm.nn import _cache
from gemma.gm.nn import _like
from gemma.gm.text import _drafts
from gemma.gm.text import _sampling
from gemma.gm.text import _settings
from gemma.gm.text import _state

PAD = _state.PAD
Params = Mapping[str, Any]
LogitsMask = Callable[[Int[Array, 'S'], Int[Array, '']], Bool[Array, 'V']]


class Rules(struct.PyTreeNode):
  """Roles of tokens while sampling.

  Attributes:
    banned: Never sampled.
    stops: End their row.
    texts: The state of `StopStrings` after each state and token, if there are
      texts that end a row.
    end: What ends a row for which a user's mask leaves nothing.
    allowed: If given, all that each row may sample next.
  """

  banned: Bool[Array, 'V']
  stops: Bool[Array, 'V']
  end: Int[Array, '']
  allowed: Bool[Array, 'B V'] | None = None
  texts: Int[Array, 'N V'] | None = None


@dataclasses.dataclass(frozen=True)
class Program:
  """What a compiled decode loop depends on, besides shapes.

  Attributes:
    model: The model.
    method: A sampling method of the user's own, which picks the token.
    logits_mask: A user's function from a row's tokens and their number to the
      tokens that may come next.
    draft: How tokens are guessed ahead, if they are.
  """

  model: _like.TransformerLike
  method: _sampling.SamplingMethod | None = None
  logits_mask: LogitsMask | None = None
  draft: _drafts.Drafter | None = None


class Prediction(struct.PyTreeNode):
  """What a model says about the next token of each row, or of several places.

  Attributes:
    logits: Scores.
    hidden_states: The states that they come from.
  """

  logits: Float[Array, '*B V']
  hidden_states: Float[Array, '*B D']


def forward(
  model: _like.TransformerLike,
  params: Params,
  tokens: Int[Array, 'B L'],
  cache: _cache.KVCache,
  soft_tokens: Float[Array, 'B N S D'] | None = None,
) -> tuple[_cache.KVCache, Prediction]:
  """Feeds tokens; the prediction is that behind each row's last one."""
  # A model of one's own may know no images.
  images: dict[str, Any] = (
    {} if soft_tokens is None else {'soft_tokens': soft_tokens}
  )
  out: Any = model.apply(
    {'params': params},
    tokens,
    cache=cache,
    return_last_only=True,
    return_hidden_states=True,
    **images,
  )
  return out.cache, Prediction(out.logits, out.hidden_states)


def token_keys(state: _state.SamplingState) -> Key[Array, 'B']:
  """The random key of each row's next token."""
  return jax.vmap(jax.random.fold_in)(state.rng, state.count)


def shaped_logits(
  state: _state.SamplingState,
  logits: Float[Array, 'B V'],
  index: Int[Array, 'B'],
  *,
  rules: Rules,
  program: Program,
) -> Float[Array, 'B V']:
  """Logits after all that forbids tokens and all that the settings do.

  Args:
    state: What came before.
    logits: The model's own.
    index: Place of the next token in each row.
    rules: Roles of tokens.
    program: The user's mask.
  """
  logits = jnp.where(rules.banned[None], -jnp.inf, logits)
  if rules.allowed is not None:
    logits = jnp.where(rules.allowed, logits, -jnp.inf)
  if program.logits_mask is not None:
    allowed = jax.vmap(program.logits_mask)(state.context, index)
    logits = jnp.where(allowed, logits, -jnp.inf)
    none = jnp.all(logits == -jnp.inf, axis=-1, keepdims=True)
    end = jnp.arange(logits.shape[-1])[None] == rules.end
    logits = jnp.where(none & end, 0, logits)
  return _settings.shape_logits(logits, state.settings, state.seen)


def pick(
  state: _state.SamplingState,
  logits: Float[Array, 'B V'],
  index: Int[Array, 'B'],
  *,
  rules: Rules,
  program: Program,
) -> tuple[Int[Array, 'B'], Bool[Array, 'B']]:
  """The next token of each row, and whether its logits were finite.

  Arguments as `shaped_logits`.
  """
  shaped = shaped_logits(state, logits, index, rules=rules, program=program)
  keys = token_keys(state)
  if program.method is None:
    tokens = _settings.draw(shaped, keys, state.settings.temperature)
    return tokens, chose_finite(shaped, tokens)
  tokens = jax.vmap(program.method.get_next_tokens)(shaped, keys)
  # A method of the user's own may take what no other would.
  return tokens, chose_finite(logits, tokens)


def chose_finite(
  logits: Float[Array, 'B V'], tokens: Int[Array, 'B']
) -> Bool[Array, 'B']:
  """Whether the logit of each row's token is finite.

  If any logit is NaN or infinite, this one is not: the largest is then NaN or
  infinite, and a draw falls on padding, whose logit is minus infinity. So one
  logit of each row tells, and no other pass over the vocabulary is needed.
  """
  chosen = jnp.take_along_axis(logits, tokens[:, None], axis=1)
  return jnp.isfinite(chosen[:, 0])


def append(
  state: _state.SamplingState,
  tokens: Int[Array, 'B'],
  prediction: Prediction,
  index: Int[Array, 'B'],
  active: Bool[Array, 'B'],
  rules: Rules,
  finite: Bool[Array, 'B'],
) -> _state.SamplingState:
  """Records a sampled token of each active row.

  A row whose logits were not finite ends without the token.

  Args:
    state: What came before.
    tokens: The tokens.
    prediction: What they were sampled from.
    index: Their place in their row.
    active: Rows that take part.
    rules: Roles of tokens.
    finite: Rows whose logits were finite.
  """
  failed, active = active & ~finite, active & finite
  tokens = jnp.where(active, tokens, PAD).astype(jnp.int32)
  place = jnp.where(active, state.count, state.predicted_tokens.shape[1])
  index = jnp.where(active, index, state.context.shape[1])
  row = jnp.arange(tokens.shape[0])
  seen, ended, match = state.seen, rules.stops[tokens], state.match
  if rules.texts is not None:
    match = jnp.where(active, rules.texts[match, tokens], match)
    ended |= match == rules.texts.shape[0] - 1
  return state.replace(
    count=state.count + active,
    done=state.done | (active & ended),
    match=match.astype(jnp.int32),
    nan=state.nan | failed,
    # A row that ends without a token has all of its own in the cache.
    last_token=jnp.where(active | failed, tokens, state.last_token),
    predicted_tokens=state.predicted_tokens.at[row, place].set(
      tokens, mode='drop'
    ),
    context=state.context.at[row, index].set(tokens, mode='drop'),
    seen=None if seen is None else seen.add(tokens, active),
    trace=_traced(state.trace, tokens, prediction, place),
  )


def _traced(
  trace: _state.Trace,
  tokens: Int[Array, 'B'],
  prediction: Prediction,
  place: Int[Array, 'B'],
) -> _state.Trace:
  """The trace with one more token of each row; none beyond its end."""
  row = jnp.arange(tokens.shape[0])

  def put(buffer: Any, values: jax.Array) -> Any:
    return buffer.at[row, place].set(values.astype(buffer.dtype), mode='drop')

  if trace.logprobs is not None:
    logprobs = jax.nn.log_softmax(prediction.logits, axis=-1)
    chosen = jnp.take_along_axis(logprobs, tokens[:, None], axis=1)[:, 0]
    trace = trace.replace(logprobs=put(trace.logprobs, chosen))
    if trace.top_tokens is not None:
      best, ids = jax.lax.top_k(logprobs, trace.top_tokens.shape[-1])
      trace = trace.replace(
        top_logprobs=put(trace.top_logprobs, best),
        top_tokens=put(trace.top_tokens, ids),
      )
  if trace.hidden_states is not None:
    hidden = put(trace.hidden_states, prediction.hidden_states)
    trace = trace.replace(hidden_states=hidden)
  return trace
