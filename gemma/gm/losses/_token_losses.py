"""Losses of tokens for a Kauldron trainer, which finds inputs by their paths.

Axes: *B any batch dims, V vocab, D model.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Float32
from jaxtyping import Int

from gemma.gm.losses import _axes
from gemma.gm.losses import _loss
from gemma.gm.math import _cross_entropy
from gemma.gm.math import _numbers
from gemma.gm.nn import _head


@dataclasses.dataclass(frozen=True, kw_only=True)
class _CrossEntropy(_loss.Loss):
  """What losses of single tokens have in common."""

  z_loss: float = 0.0
  label_smoothing: float = 0.0

  def __post_init__(self):
    super().__post_init__()
    _numbers.at_least(0, z_loss=self.z_loss)
    _numbers.share(label_smoothing=self.label_smoothing)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossEntropy(_CrossEntropy):
  """Cross-entropy of logits, in float32 whatever their dtype.

  ```python
  >>> from gemma import gm
  >>> loss = gm.losses.CrossEntropy(
  ...   logits='preds.logits', labels='batch.target', mask='batch.loss_mask'
  ... )

  ```

  Attributes:
    logits: Path of the logits, `[*B, V]`.
    labels: Path of the right tokens, `[*B]` or `[*B, 1]`.
    z_loss: See `gm.math.cross_entropy`.
    label_smoothing: See `gm.math.cross_entropy`.
  """

  logits: str = _loss.key()
  labels: str = _loss.key()

  def get_values(
    self,
    *,
    logits: Float[Array, '*B V'],
    labels: Int[ArrayLike, '...'],
    step: Any = None,
  ) -> Float32[Array, '...']:
    """The loss of each token, in the shape of the labels."""
    del step
    losses = _cross_entropy.cross_entropy(
      logits,
      _axes.drop_trailing('labels', labels, logits.shape[:-1]),
      z_loss=self.z_loss,
      label_smoothing=self.label_smoothing,
    )
    return losses.reshape(jnp.shape(labels))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearCrossEntropy(_CrossEntropy):
  """Cross-entropy whose logits are never in memory.

  For a model with `return_hidden_states=True`. A trainer compiles its step,
  and the compiler leaves out the model's own logits, as nobody reads them.

  ```python
  >>> from gemma import gm
  >>> model = gm.nn.Gemma3_4B(tokens='batch.input', return_hidden_states=True)
  >>> loss = gm.losses.LinearCrossEntropy(
  ...   labels='batch.target',
  ...   mask='batch.loss_mask',
  ...   softcap=model.config.final_logit_softcap,
  ... )

  ```

  Attributes:
    hidden: Path of the states after the final norm, `[*B, D]`.
    embedder: Path of the embedder's parameters.
    labels: Path of the right tokens, `[*B]` or `[*B, 1]`.
    softcap: The model's `config.final_logit_softcap`; it has no default, as
      the loss would be another with a wrong one.
    z_loss: See `gm.math.cross_entropy`.
    label_smoothing: See `gm.math.cross_entropy`.
  """

  hidden: str = _loss.key('preds.hidden_states')
  embedder: str = _loss.key('params.embedder')
  labels: str = _loss.key()
  softcap: float | None

  def get_values(
    self,
    *,
    hidden: Float[Array, '*B D'],
    embedder: Mapping[str, Any],
    labels: Int[ArrayLike, '...'],
    step: Any = None,
  ) -> Float32[Array, '...']:
    """The loss of each token, in the shape of the labels."""
    del step
    head = _head.head_of_embedder(embedder, softcap=self.softcap)
    losses = head.losses(
      hidden,
      _axes.drop_trailing('labels', labels, hidden.shape[:-1]),
      z_loss=self.z_loss,
      label_smoothing=self.label_smoothing,
    )
    return losses.reshape(jnp.shape(labels))
