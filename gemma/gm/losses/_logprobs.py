"""How likely a model finds the targets of a batch.

Axes: *B any batch dims, L length, V vocab.
"""

from collections.abc import Mapping
import functools
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Float32
from jaxtyping import Int
from jaxtyping import Shaped

from gemma.gm.losses import _axes
from gemma.gm.losses import _ids
from gemma.gm.math import _cross_entropy
from gemma.gm.nn import _compiled
from gemma.gm.nn import _head
from gemma.gm.nn import _lora

Params = Mapping[str, Any]


def sequence_logprobs(
  logits: Float[Array, '*B L V'],
  targets: Int[ArrayLike, '...'],
  mask: Shaped[ArrayLike, '...'],
) -> Float32[Array, '*B']:
  """Log-probability of each sequence, in float32.

  ```python
  >>> import jax.numpy as jnp
  >>> from gemma import gm
  >>> logits, targets = jnp.zeros((2, 3, 10)), jnp.ones((2, 3), jnp.int32)
  >>> mask = jnp.array([[True, True, False], [False, False, False]])
  >>> gm.losses.sequence_logprobs(logits, targets, mask).round(3)
  Array([-4.605,  0.   ], dtype=float32)

  ```

  Args:
    logits: Scores of the next token, of any dtype.
    targets: The token that follows each, `[*B, L]` or `[*B, L, 1]`.
    mask: Which of them count, in either shape. Numbers are weights.

  Returns:
    Sums over the tokens that count.
  """
  shape = logits.shape[:-1]
  targets = _axes.drop_trailing('targets', targets, shape)
  mask = _axes.drop_trailing('mask', mask, shape)
  return masked_sum(-_cross_entropy.cross_entropy(logits, targets), mask)


def token_logprobs(
  model: _lora.Model,
  params: Params,
  tokens: Int[ArrayLike, '*B L'],
  targets: Int[ArrayLike, '...'],
  mask: Shaped[ArrayLike, '...'],
) -> Float32[Array, '*B']:
  """Log-probability of each sequence, without its logits in memory.

  ```python
  >>> import numpy as np
  >>> from gemma import gm
  >>> tiny = gm.from_pretrained(gm.ckpts.CheckpointPath.GEMMA3_TINY_IT)
  >>> ids = np.array([tiny.tokenizer.encode('The fox sat.', add_bos=True)])
  >>> mask = np.ones_like(ids[:, 1:], bool)
  >>> logprobs = gm.losses.token_logprobs(
  ...   tiny.model, tiny.params, ids[:, :-1], ids[:, 1:], mask
  ... )
  >>> logprobs.shape, bool(logprobs[0] < 0)
  ((1,), True)

  ```

  Args:
    model: The model.
    params: Its parameters.
    tokens: What the model reads; any number of batch dims.
    targets: The token that follows each, `[*B, L]` or `[*B, L, 1]`.
    mask: Which targets count, in either shape. Numbers are weights.

  Returns:
    Sums over the targets that count.
  """
  mask = _axes.drop_trailing('mask', mask, jnp.shape(tokens))
  return masked_sum(-token_losses(model, params, tokens, targets), mask)


def token_losses(
  model: _lora.Model,
  params: Params,
  tokens: Int[ArrayLike, '*B L'],
  targets: Int[ArrayLike, '...'],
  *,
  rng: Any = None,
  z_loss: float = 0.0,
  label_smoothing: float = 0.0,
  **inputs: Any,
) -> Float32[Array, '*B L']:
  """The cross-entropy of each target; inputs are further ones of the model.

  It is 0 where the target is `_ids.IGNORED`, and NaN where the target, or an
  input of the row, is outside of the table.
  """
  tokens = jnp.asarray(tokens)
  targets = _axes.drop_trailing('targets', targets, tokens.shape)
  form = model, z_loss, label_smoothing
  return _token_losses(form, params, tokens, targets, inputs, rng)


@functools.partial(_compiled.jit, static_argnums=0)
def _token_losses(
  form: tuple[_lora.Model, float, float],
  params: Params,
  tokens: Int[Array, '*B L'],
  targets: Int[Array, '*B L'],
  inputs: dict[str, Any],
  rng: Any,
) -> Float32[Array, '*B L']:
  model, z_loss, label_smoothing = form
  # The compiler leaves out logits, as nobody reads them.
  out: Any = model.apply(
    {'params': params},
    tokens,
    return_hidden_states=True,
    rngs=None if rng is None else {'dropout': rng},
    **inputs,
  )
  head = _head.head_of(params, model.config)
  ignored = targets == _ids.IGNORED
  targets = jnp.where(ignored, 0, targets)
  losses = head.losses(
    out.hidden_states, targets, z_loss=z_loss, label_smoothing=label_smoothing
  )
  rows = _ids.are_inputs(model.config, tokens).all(axis=-1, keepdims=True)
  known = _ids.are_targets(model.config, targets) & rows
  return jnp.where(ignored, 0, jnp.where(known, losses, jnp.nan))


def masked_sum(
  values: Float[Array, '*B L'], mask: Shaped[Array, '*B L']
) -> Float[Array, '*B']:
  """Sums over L; what is masked may be anything, not a number too."""
  weights = mask.astype(values.dtype)
  return (jnp.where(weights == 0, 0, values) * weights).sum(axis=-1)
