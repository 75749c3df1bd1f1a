"""Losses of answers, from the log-probabilities that models give them.

A log-probability is that of a whole answer, the sum over its tokens, as
`gm.losses.token_logprobs` gives it. The *policy* is the model that is trained;
the *anchor* is the model that it started from, and stays as it is.

Axes: *B any batch dims, P the two answers of a pair: 0 chosen, 1 rejected.
"""

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Num

Scalar: TypeAlias = float | jax.Array


def dpo(
  policy: Float[Array, '*B P'],
  anchor: Float[Array, '*B P'],
  *,
  tau: Scalar = 0.1,
  label_smoothing: Scalar = 0.0,
) -> Float[Array, '*B']:
  """Direct preference optimization, https://arxiv.org/abs/2305.18290.

  `-log sigmoid(tau * delta)`, with `delta` how much more the policy prefers
  the chosen answer than the anchor does. With label smoothing `e`, a share `e`
  of the pairs is taken to be the wrong way round, and `delta` stays finite:
  `-(1 - e) log sigmoid(tau * delta) - e log sigmoid(-tau * delta)`.

  ```python
  >>> import jax.numpy as jnp
  >>> from gemma import gm
  >>> anchor = jnp.array([-8.0, -9.0])
  >>> gm.losses.dpo(anchor, anchor).round(4)  # Nothing learned yet: log 2.
  Array(0.6931, dtype=float32)
  >>> gm.losses.dpo(jnp.array([-4.0, -9.0]), anchor).round(4)
  Array(0.513, dtype=float32)

  ```

  Args:
    policy: Log-probabilities of the two answers.
    anchor: The same of the anchor.
    tau: How strongly the policy is held to the anchor (beta in the paper).
    label_smoothing: Share of pairs that are the wrong way round.

  Returns:
    The loss of each pair.
  """
  ratio = policy - anchor
  return _binary(tau * _gap(ratio), label_smoothing)


def ipo(
  policy: Float[Array, '*B P'],
  anchor: Float[Array, '*B P'],
  *,
  tau: Scalar = 0.1,
) -> Float[Array, '*B']:
  """Identity preference optimization, https://arxiv.org/abs/2310.12036.

  `(delta - 1 / (2 tau))**2` with the `delta` of `dpo`: preferences that are
  never contradicted pull it to a finite gap and no further.

  Args:
    policy: Log-probabilities of the two answers.
    anchor: The same of the anchor.
    tau: How strongly the policy is held to the anchor.

  Returns:
    The loss of each pair.
  """
  ratio = policy - anchor
  return jnp.square(_gap(ratio) - 1 / (2 * tau))


def simpo(
  policy: Float[Array, '*B P'],
  lengths: Num[Array, '*B P'],
  *,
  tau: Scalar = 2.0,
  margin: Scalar = 1.0,
  label_smoothing: Scalar = 0.0,
) -> Float[Array, '*B']:
  """Simple preference optimization, https://arxiv.org/abs/2405.14734.

  `-log sigmoid(tau * (chosen - rejected) - margin)` of log-probabilities per
  token, so that a long answer is no better than a short one. No anchor.

  Args:
    policy: Log-probabilities of the two answers.
    lengths: Tokens of each. An answer without tokens counts as one.
    tau: Factor of the gap (beta in the paper, there 2 to 2.5).
    margin: How far apart the answers should be (gamma in the paper).
    label_smoothing: Share of pairs that are the wrong way round, see `dpo`.

  Returns:
    The loss of each pair.
  """
  mean = policy / jnp.maximum(lengths, 1).astype(policy.dtype)
  return _binary(tau * _gap(mean) - margin, label_smoothing)


def npo(
  policy: Float[Array, '*B'],
  anchor: Float[Array, '*B'],
  *,
  tau: Scalar = 1.0,
) -> Float[Array, '*B']:
  """Negative preference optimization, https://arxiv.org/abs/2404.05868.

  `-log sigmoid(-tau * (policy - anchor))`: answers to unlearn. The gradient
  fades as they become unlikely, so that the rest of the model is left alone.
  The paper has a factor of `2 / tau` more, which a learning rate takes in.

  Args:
    policy: Log-probabilities of answers.
    anchor: The same of the anchor.
    tau: How soon the gradient fades (beta in the paper).

  Returns:
    The loss of each answer.
  """
  return -jax.nn.log_sigmoid(-tau * (policy - anchor))


def kto(
  policy: Float[Array, '*B'],
  anchor: Float[Array, '*B'],
  desirable: Bool[Array, '*B'],
  reference: Float[Array, '...'],
  *,
  tau: Scalar = 0.1,
  desirable_weight: Scalar = 1.0,
  undesirable_weight: Scalar = 1.0,
) -> Float[Array, '*B']:
  """Kahneman-Tversky optimization, https://arxiv.org/abs/2402.01306.

  For answers that are good or bad on their own, without pairs. With
  `z = max(0, mean(reference))`, `w (1 - sigmoid(tau * (ratio - z)))` of a good
  answer and `w (1 - sigmoid(tau * (z - ratio)))` of a bad one.

  Args:
    policy: Log-probabilities of answers.
    anchor: The same of the anchor.
    desirable: Which answers are good.
    reference: `policy - anchor` of prompts with answers to other prompts of
      the batch, an estimate of how far the two models are apart. It has no
      gradient.
    tau: How strongly the policy is held to the anchor (beta in the paper).
    desirable_weight: Factor `w` of good answers.
    undesirable_weight: Factor `w` of bad ones.

  Returns:
    The loss of each answer.
  """
  z = jnp.maximum(0, jax.lax.stop_gradient(reference).mean())
  gap = policy - anchor - z
  sign = jnp.where(desirable, 1.0, -1.0)
  weight = jnp.where(desirable, desirable_weight, undesirable_weight)
  return weight * jax.nn.sigmoid(-tau * sign * gap)


def _gap(values: Float[Array, '*B P']) -> Float[Array, '*B']:
  """How much larger the chosen is."""
  if values.shape[-1] != 2:
    raise ValueError(
      f'The last axis of {values.shape} is not 2: the chosen answer and the '
      'rejected one.'
    )
  return values[..., 0] - values[..., 1]


def _binary(
  z: Float[Array, '*B'], label_smoothing: Scalar
) -> Float[Array, '*B']:
  """Cross-entropy of a choice between two, of which the first is right."""
  right, wrong = jax.nn.log_sigmoid(z), jax.nn.log_sigmoid(-z)
  return -((1 - label_smoothing) * right + label_smoothing * wrong)
