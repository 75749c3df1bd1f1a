"""Losses of answers for a Kauldron trainer, which finds inputs by their paths.

Axes: *B any batch dims, P the two answers of a pair: 0 chosen, 1 rejected,
L length, V vocab; *A all dims of log-probabilities, *B or *B P.
"""

import abc
import dataclasses
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Float32
from jaxtyping import Int
from jaxtyping import Shaped

from gemma.gm.losses import _axes
from gemma.gm.losses import _logprobs
from gemma.gm.losses import _loss
from gemma.gm.losses import _preference
from gemma.gm.math import _numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Anchored(_loss.Loss):
  """A loss of answers that compares a policy to its anchor."""

  tau: float | _loss.Schedule
  tokens: str = _loss.key()
  sequence_mask: str = _loss.key()
  policy_logits: str = _loss.key()
  anchor_logits: str | None = _loss.key()
  anchor_logprobs: str | None = _loss.key(None)

  def __post_init__(self):
    super().__post_init__()
    _numbers.above(0, **_loss.fixed(tau=self.tau))

  @abc.abstractmethod
  def _losses(
    self, policy: Float[Array, '*A'], anchor: Float[Array, '*A'], step: Any
  ) -> Float[Array, '*B']:
    """The function of log-probabilities."""

  def get_values(
    self,
    *,
    tokens: Int[ArrayLike, '...'],
    sequence_mask: Shaped[ArrayLike, '...'],
    policy_logits: Float[Array, '*A L V'],
    anchor_logits: Float[Array, '*A L V'] | None = None,
    anchor_logprobs: Float[ArrayLike, '*A'] | None = None,
    step: Any = None,
  ) -> Float32[Array, '*B 1']:
    """The loss of each pair, or of each answer.

    Raises:
      ValueError: If shapes disagree, if not exactly one of `anchor_logits` and
        `anchor_logprobs` is given, or if a schedule gets no step.
    """
    if (anchor_logits is None) == (anchor_logprobs is None):
      raise ValueError(
        'Give one of `anchor_logits` and `anchor_logprobs`, and make the '
        'other None.'
      )
    targets = tokens, sequence_mask
    policy = _logprobs.sequence_logprobs(policy_logits, *targets)
    if anchor_logits is not None:
      anchor = _logprobs.sequence_logprobs(anchor_logits, *targets)
    else:
      anchor = jnp.asarray(anchor_logprobs, jnp.float32)
    return self._losses(policy, anchor, step)[..., None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DpoLoss(_Anchored):
  """Direct preference optimization of pairs, see `gm.losses.dpo`.

  ```python
  >>> from gemma import gm
  >>> loss = gm.losses.DpoLoss(
  ...   tokens='batch.targets',
  ...   sequence_mask='batch.mask',
  ...   policy_logits='preds.policy.logits',
  ...   anchor_logits='preds.anchor.logits',
  ... )

  ```

  Attributes:
    tau: How strongly the policy is held to the anchor, or a function of the
      step.
    label_smoothing: Share of pairs that are the wrong way round, or a function
      of the step.
    tokens: Path of the targets, `[*B, 2, L]`, the chosen answer first.
    sequence_mask: Path of which targets count, in their shape.
    policy_logits: Path of the policy's logits, `[*B, 2, L, V]`.
    anchor_logits: Path of the anchor's; None if the next is given.
    anchor_logprobs: Path of the anchor's log-probabilities, `[*B, 2]`, if they
      were computed before: see `gm.losses.with_anchor_logprobs`.
  """

  tau: float | _loss.Schedule = 0.1
  label_smoothing: float | _loss.Schedule = 0.0

  def __post_init__(self):
    super().__post_init__()
    _numbers.share(**_loss.fixed(label_smoothing=self.label_smoothing))

  def _losses(
    self, policy: Float[Array, '*B P'], anchor: Float[Array, '*B P'], step: Any
  ) -> Float[Array, '*B']:
    return _preference.dpo(
      policy,
      anchor,
      tau=_loss.at('tau', self.tau, step),
      label_smoothing=_loss.at('label_smoothing', self.label_smoothing, step),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class IpoLoss(_Anchored):
  """Identity preference optimization of pairs, see `gm.losses.ipo`.

  Attributes:
    tau: How strongly the policy is held to the anchor, or a function of the
      step.
    tokens: See `DpoLoss`.
    sequence_mask: See `DpoLoss`.
    policy_logits: See `DpoLoss`.
    anchor_logits: See `DpoLoss`.
    anchor_logprobs: See `DpoLoss`.
  """

  tau: float | _loss.Schedule = 0.1

  def _losses(
    self, policy: Float[Array, '*B P'], anchor: Float[Array, '*B P'], step: Any
  ) -> Float[Array, '*B']:
    tau = _loss.at('tau', self.tau, step)
    return _preference.ipo(policy, anchor, tau=tau)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NpoLoss(_Anchored):
  """Negative preference optimization, to unlearn, see `gm.losses.npo`.

  Attributes:
    tau: How soon the gradient fades, or a function of the step.
    tokens: Path of the targets, `[*B, L, 1]` or `[*B, L]`.
    sequence_mask: Path of which targets count, in either shape.
    policy_logits: Path of the policy's logits, `[*B, L, V]`.
    anchor_logits: Path of the anchor's; None if the next is given.
    anchor_logprobs: Path of the anchor's log-probabilities, `[*B]`, if they
      were computed before.
  """

  tau: float | _loss.Schedule = 1.0

  def _losses(
    self, policy: Float[Array, '*B'], anchor: Float[Array, '*B'], step: Any
  ) -> Float[Array, '*B']:
    tau = _loss.at('tau', self.tau, step)
    return _preference.npo(policy, anchor, tau=tau)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimpoLoss(_loss.Loss):
  """Simple preference optimization of pairs, see `gm.losses.simpo`.

  Attributes:
    tau: Factor of the gap, or a function of the step.
    margin: How far apart the answers should be, or a function of the step.
    label_smoothing: Share of pairs that are the wrong way round, or a function
      of the step.
    tokens: Path of the targets, `[*B, 2, L]`, the chosen answer first.
    sequence_mask: Path of which targets count, in their shape.
    policy_logits: Path of the logits, `[*B, 2, L, V]`.
  """

  tau: float | _loss.Schedule = 2.0
  margin: float | _loss.Schedule = 1.0
  label_smoothing: float | _loss.Schedule = 0.0
  tokens: str = _loss.key()
  sequence_mask: str = _loss.key()
  policy_logits: str = _loss.key()

  def __post_init__(self):
    super().__post_init__()
    _numbers.above(0, **_loss.fixed(tau=self.tau))
    _numbers.finite(**_loss.fixed(margin=self.margin))
    _numbers.share(**_loss.fixed(label_smoothing=self.label_smoothing))

  def get_values(
    self,
    *,
    tokens: Int[ArrayLike, '...'],
    sequence_mask: Shaped[ArrayLike, '...'],
    policy_logits: Float[Array, '*B P L V'],
    step: Any = None,
  ) -> Float32[Array, '*B 1']:
    """The loss of each pair."""
    policy = _logprobs.sequence_logprobs(policy_logits, tokens, sequence_mask)
    mask = _axes.drop_trailing(
      'sequence_mask', sequence_mask, policy_logits.shape[:-1]
    )
    losses = _preference.simpo(
      policy,
      jnp.count_nonzero(mask, axis=-1),
      tau=_loss.at('tau', self.tau, step),
      margin=_loss.at('margin', self.margin, step),
      label_smoothing=_loss.at('label_smoothing', self.label_smoothing, step),
    )
    return losses[..., None]
