"""What a sampler returns besides text.

Axes: B batch, M max_out_length, n tokens of an answer, D model.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any
from typing import Literal

import jax
import numpy as np

from gemma.gm.text import _past
from gemma.gm.text import _state
from gemma.gm.text import _stop_strings
from gemma.gm.text import _tokenizer

FinishReason = Literal['stop', 'eos', 'length', 'cache_full', 'nan']


@dataclasses.dataclass(frozen=True, kw_only=True)
class Usage:
  """Tokens of one row.

  Attributes:
    prompt_tokens: Tokens of this call's prompt.
    completion_tokens: Tokens that were sampled.
    cached_tokens: Tokens before the answer that did not have to be computed,
      because a state or a `PrefixCache` held them.
    dropped_tokens: The oldest tokens, which `on_full='roll'` has dropped.
    context_tokens: Tokens in the context now.
    cache_length: Tokens that it may have.
  """

  prompt_tokens: int
  completion_tokens: int
  cached_tokens: int
  dropped_tokens: int
  context_tokens: int
  cache_length: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
  """What one row has come to.

  Attributes:
    text: The sampled text, with the end tag if it is visible.
    token_ids: The sampled ids, the stop token included.
    finish_reason: Why it ended: `stop` (end of turn, or a stop token), `eos`
      (the end of everything), `length` (max_new_tokens), `cache_full`, or `nan`
      (the logits were NaN or infinite; no token was sampled from these).
    usage: Tokens.
    logprobs: Log-probability of each token.
    top_logprobs: For each token the likeliest ones, as ids and
      log-probabilities.
    hidden_states: The state that each token came from, `f32[n, D]`.
  """

  text: str
  token_ids: list[int]
  finish_reason: FinishReason
  usage: Usage
  logprobs: list[float] | None = None
  top_logprobs: list[dict[int, float]] | None = None
  hidden_states: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerOutput:
  """What `Sampler.sample(..., return_state=True)` returns.

  For a batch, the fields are lists with a value for each row.

  Attributes:
    text: The sampled text, with the end tag if it is visible. In a stream, the
      newest piece of it.
    tokens: The sampled ids, padded with 0, `int32[M]` or `int32[B, M]`.
    token_ids: The sampled ids, the stop token included. In a stream, the newest
      ones.
    finish_reason: See `Answer`; None while streaming, as all fields below.
    usage: Tokens.
    logprobs: Log-probability of each token in the model's own distribution.
    top_logprobs: For each token the likeliest ones.
    hidden_states: The state that each token came from.
  """

  text: Any
  tokens: np.ndarray
  token_ids: Any
  finish_reason: Any = None
  usage: Any = None
  logprobs: Any = None
  top_logprobs: Any = None
  hidden_states: Any = None
  kept_state: _state.SamplingState | None = dataclasses.field(
    default=None, repr=False
  )

  @property
  def state(self) -> _state.SamplingState:
    """Where to go on, as `last_state`.

    Raises:
      ValueError: If the prompts were more than a batch may have, or a stream
        has gone on since.
    """
    if self.kept_state is None:
      raise ValueError(
        f'The states of {len(self.text)} prompts are not kept: they took turns '
        f'in a smaller batch. Raise max_batch_size to {len(self.text)}.'
      )
    _past.check_alive(self.kept_state)
    return self.kept_state


def read_answers(
  state: _state.SamplingState,
  tokenizer: _tokenizer.Tokenizer,
  *,
  rows: Sequence[int],
  prompt_lengths: Sequence[int],
  cached: Sequence[int],
  cache_length: int,
  keep_end: bool = True,
  stop_strings: _stop_strings.StopStrings | None = None,
) -> list[Answer]:
  """Answers of some rows of a state.

  Args:
    state: The state.
    tokenizer: The vocabulary.
    rows: Which rows.
    prompt_lengths: Tokens of their prompts.
    cached: Tokens of each that did not have to be computed.
    cache_length: Most tokens that a row may have.
    keep_end: Whether texts keep their end tag.
    stop_strings: Texts that end an answer, and are left out of it.
  """
  names = 'predicted_tokens', 'count', 'done', 'nan', 'limit', 'dropped'
  values = {name: getattr(state, name) for name in names}
  values |= {'used': state.used_cache_length, 'trace': vars(state.trace)}
  host = jax.device_get(values)
  answers = []
  for row, prompt_length, known in zip(
    rows, prompt_lengths, cached, strict=True
  ):
    count = int(host['count'][row])
    ids = host['predicted_tokens'][row, :count].tolist()
    usage = Usage(
      prompt_tokens=prompt_length,
      completion_tokens=count,
      cached_tokens=known,
      dropped_tokens=int(host['dropped'][row]),
      context_tokens=int(host['used'][row]),
      cache_length=cache_length,
    )
    ended = bool(host['done'][row])
    reason: FinishReason = 'stop'
    if host['nan'][row]:
      reason = 'nan'
    elif not ended:
      at_limit = count >= int(host['limit'][row])
      reason = 'length' if at_limit else 'cache_full'
    elif ids[-1] == tokenizer.special_tokens.EOS:
      reason = 'eos'
    shown = ids if keep_end or not ended else ids[:-1]
    if stop_strings is not None:
      shown = stop_strings.cut(shown)
    answers.append(
      Answer(
        text=tokenizer.decode(shown),
        token_ids=ids,
        finish_reason=reason,
        usage=usage,
        **_read_trace(host['trace'], row, count),
      )
    )
  return answers


def _read_trace(
  trace: Mapping[str, np.ndarray | None], row: int, count: int
) -> dict[str, Any]:
  """What was recorded of one row."""
  found = {
    name: values[row, :count]
    for name, values in trace.items()
    if values is not None
  }
  out: dict[str, Any] = {}
  if 'logprobs' in found:
    out['logprobs'] = found['logprobs'].tolist()
  if 'top_tokens' in found:
    both = found['top_tokens'].tolist(), found['top_logprobs'].tolist()
    out['top_logprobs'] = [
      dict(zip(*pair, strict=True)) for pair in zip(*both, strict=True)
    ]
  if 'hidden_states' in found:
    out['hidden_states'] = found['hidden_states']
  return out


def pack(
  answers: Sequence[Answer],
  state: _state.SamplingState | None,
  max_out_length: int,
  *,
  batched: bool,
) -> SamplerOutput:
  """Answers in the form that was asked for."""
  tokens = np.zeros((len(answers), max_out_length), np.int32)
  for row, answer in zip(tokens, answers, strict=True):
    row[: len(answer.token_ids)] = answer.token_ids
  fields: dict[str, Any] = {
    field.name: [getattr(answer, field.name) for answer in answers]
    for field in dataclasses.fields(Answer)
  }
  for name in ('logprobs', 'top_logprobs', 'hidden_states'):
    if fields[name][0] is None:
      fields[name] = None
  if not batched:
    fields = {k: None if v is None else v[0] for k, v in fields.items()}
    tokens = tokens[0]
  return SamplerOutput(tokens=tokens, kept_state=state, **fields)
