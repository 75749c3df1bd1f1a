"""Losses of whole batches: `(params, batch, rng) -> Mean`.

What a training step of `gm.training`, or of your own, takes gradients of. Any
function of that form is one. A batch is a dict of arrays.

Axes: B batch, L length, P the two answers of a pair: 0 chosen, 1 rejected.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float32
from jaxtyping import Shaped

from gemma.gm.losses import _axes
from gemma.gm.losses import _ids
from gemma.gm.losses import _logprobs
from gemma.gm.losses import _mean
from gemma.gm.losses import _preference
from gemma.gm.math import _numbers
from gemma.gm.nn import _lora

Batch = Mapping[str, Any]
_PAIR = 'tokens', 'targets', 'mask'
_OPTIONS = {
  'dpo': {'tau', 'label_smoothing'},
  'ipo': {'tau'},
  'simpo': {'tau', 'label_smoothing', 'margin'},
}


@dataclasses.dataclass(frozen=True)
class NextToken:
  """Cross-entropy of the next token, whose logits are never in memory.

  A batch has `input` and `target`, `int32[B, L]`, and `loss_mask`,
  `bool[B, L]`; it may have `segment_ids`, `int32[B, L]`, for rows of several
  sequences, and `images`. Targets and masks may have a trailing axis of 1. A
  target of -100 does not count.

  ```python
  >>> import numpy as np
  >>> from gemma import gm
  >>> tiny = gm.from_pretrained(gm.ckpts.CheckpointPath.GEMMA3_TINY_IT)
  >>> loss = gm.losses.NextToken(tiny.model)
  >>> ids = np.array([tiny.tokenizer.encode('The fox sat.', add_bos=True)])
  >>> batch = {'input': ids[:, :-1], 'target': ids[:, 1:]}
  >>> batch['loss_mask'] = np.ones_like(batch['target'], bool)
  >>> mean = loss(tiny.params, batch)
  >>> int(mean.count) == batch['target'].size
  True

  ```

  Attributes:
    model: The model.
    z_loss: See `gm.math.cross_entropy`.
    label_smoothing: See `gm.math.cross_entropy`.
  """

  model: _lora.Model
  _: dataclasses.KW_ONLY
  z_loss: float = 0.0
  label_smoothing: float = 0.0

  def __post_init__(self):
    _numbers.at_least(0, z_loss=self.z_loss)
    _numbers.share(label_smoothing=self.label_smoothing)

  def __call__(self, params: Any, batch: Batch, rng: Any = None) -> _mean.Mean:
    """The loss of the tokens that count.

    Args:
      params: Parameters of the model, adapters included.
      batch: See above.
      rng: A key for dropout, or None for none.

    Raises:
      ValueError: If the batch lacks something, shapes disagree, or an id is
        outside of the table.
    """
    self.check(batch)
    tokens = _get(batch, 'input')
    mask = _get(batch, 'loss_mask')
    optional = {key: batch.get(key) for key in ('segment_ids', 'images')}
    losses = _logprobs.token_losses(
      self.model,
      params,
      tokens,
      _get(batch, 'target'),
      rng=rng,
      z_loss=self.z_loss,
      label_smoothing=self.label_smoothing,
      **{key: value for key, value in optional.items() if value is not None},
    )
    mask = _axes.drop_trailing('loss_mask', mask, losses.shape)
    targets = _axes.drop_trailing('target', batch['target'], losses.shape)
    return _mean.Mean.of(losses, _ids.counted(targets, mask))

  def check(self, batch: Batch) -> None:
    """Raises on ids outside of the table, as far as they are known."""
    names = 'input', 'target', 'loss_mask'
    _ids.check(self.model.config, batch, *names)


@dataclasses.dataclass(frozen=True)
class Preference:
  """A loss of pairs of answers, whose logits are never in memory.

  A batch has `tokens`, `targets` and `mask`, all `[B, 2, L]`, the chosen answer
  first; every method but `simpo` needs `anchor_logprobs`, `f32[B, 2]`, from
  `gm.losses.with_anchor_logprobs`: the anchor itself is no part of a step.

  A pair with an answer of which no token counts, because its prompt filled the
  length, does not count.

  ```python
  >>> from gemma import gm
  >>> loss = gm.losses.Preference(gm.nn.Gemma3_Tiny(), method='ipo', tau=0.2)

  ```

  Attributes:
    model: The policy.
    method: `dpo`, `ipo` or `simpo`, the functions of `gm.losses`.
    tau: Of the method; None is its default.
    label_smoothing: Of `dpo` and `simpo`.
    margin: Of `simpo`; None is its default.
  """

  model: _lora.Model
  _: dataclasses.KW_ONLY
  method: str = 'dpo'
  tau: float | None = None
  label_smoothing: float = 0.0
  margin: float | None = None

  def __post_init__(self):
    if self.method not in _OPTIONS:
      raise ValueError(
        f'method={self.method!r} is none of {", ".join(_OPTIONS)}.'
      )
    if unknown := self._options.keys() - _OPTIONS[self.method]:
      raise ValueError(
        f'method={self.method!r} has no {", ".join(sorted(unknown))}. Leave it '
        'out.'
      )
    _numbers.share(label_smoothing=self.label_smoothing)
    _numbers.above(0, **_numbers.given(tau=self.tau))
    _numbers.finite(**_numbers.given(margin=self.margin))

  def __call__(self, params: Any, batch: Batch, rng: Any = None) -> _mean.Mean:
    """The loss of the pairs that count.

    Args:
      params: Parameters of the policy, adapters included.
      batch: See above.
      rng: A key for dropout, or None for none.

    Raises:
      ValueError: If the batch lacks something, shapes disagree, or an id is
        outside of the table.
    """
    policy, mask = _pair_logprobs(self.model, params, batch, rng)
    if self.method == 'simpo':
      lengths = jnp.count_nonzero(mask, axis=-1)
      losses = _preference.simpo(policy, lengths, **self._options)
    else:
      anchor = jnp.asarray(_get(batch, 'anchor_logprobs'))
      method = _preference.dpo if self.method == 'dpo' else _preference.ipo
      losses = method(policy, anchor, **self._options)
    return _mean.Mean.of(losses, _complete(mask))

  def check(self, batch: Batch) -> None:
    """Raises on ids outside of the table, as far as they are known."""
    _ids.check(self.model.config, batch, *_PAIR)

  @property
  def _options(self) -> dict[str, float]:
    """What differs from the method's defaults."""
    given = {
      'tau': self.tau,
      'label_smoothing': self.label_smoothing or None,
      'margin': self.margin,
    }
    return {name: value for name, value in given.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class WinRate:
  """How often a model finds the chosen answer more likely than the rejected.

  A batch loss by its form, to look at and not to train: it has no gradient. A
  batch is one of `Preference`, without log-probabilities of the anchor.

  Attributes:
    model: The model.
  """

  model: _lora.Model

  def __call__(self, params: Any, batch: Batch, rng: Any = None) -> _mean.Mean:
    """Wins among the pairs that count, see `Preference`."""
    logprobs, mask = _pair_logprobs(self.model, params, batch, rng)
    wins = logprobs[..., 0] > logprobs[..., 1]
    return _mean.Mean.of(wins, _complete(mask))

  def check(self, batch: Batch) -> None:
    """Raises on ids outside of the table, as far as they are known."""
    _ids.check(self.model.config, batch, *_PAIR)


def _pair_logprobs(
  model: _lora.Model, params: Any, batch: Batch, rng: Any
) -> tuple[Float32[Array, 'B P'], Shaped[Array, 'B P L']]:
  """Log-probabilities of the answers, and their mask."""
  _ids.check(model.config, batch, *_PAIR)
  tokens = jnp.asarray(_get(batch, 'tokens'))
  if tokens.ndim != 3 or tokens.shape[1] != 2:
    raise ValueError(
      f'`tokens` has shape {tokens.shape}, not [B, 2, L], the chosen answer '
      'and the rejected one.'
    )
  targets = _get(batch, 'targets')
  losses = _logprobs.token_losses(model, params, tokens, targets, rng=rng)
  mask = _axes.drop_trailing('mask', _get(batch, 'mask'), losses.shape)
  targets = _axes.drop_trailing('targets', targets, losses.shape)
  mask = _ids.counted(targets, mask)
  return _logprobs.masked_sum(-losses, mask), mask


def _complete(mask: Shaped[Array, 'B P L']) -> Bool[Array, 'B']:
  """Pairs of which both answers are there."""
  return (mask != 0).any(axis=-1).all(axis=-1)


def _get(batch: Batch, name: str) -> Any:
  if name in batch:
    return batch[name]
  hint = ''
  if name == 'anchor_logprobs':
    hint = ' Add it once with `gm.losses.with_anchor_logprobs`.'
  raise ValueError(f'The batch has {sorted(batch)}, but no {name!r}.{hint}')
