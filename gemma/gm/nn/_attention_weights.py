"""Attention probabilities, to be recorded or changed.

Axes: B batch, T query, S key, N query heads, K kv heads, H head_dim.
"""

from typing import Any

from flax import linen as nn
import jax
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Float32

from gemma.gm.math import _attention
from gemma.gm.nn import _observed


class AttentionWeights(nn.Module):
  """Returns the attention probabilities that it is given.

  An attention layer calls it only if somebody can see it: in an interceptor,
  or where intermediates are recorded. It computes with the result.
  """

  def __call__(
    self, weights: Float32[Array, 'B T N S']
  ) -> Float32[Array, 'B T N S']:
    """The same.

    Args:
      weights: Share of each key in what a query reads.
    """
    if not _observed.captures():  # A capture records all results by itself.
      self.sow(_observed.INTERMEDIATES, '__call__', weights)
    return weights


def attend(
  module: AttentionWeights,
  q: Float[Array, 'B T N H'],
  k: Float[Array, 'B S K H'],
  v: Float[Array, 'B S K H'],
  **how: Any,
) -> Float[Array, 'B T N H']:
  """`gm.math.attend` whose probabilities can be seen.

  Args:
    module: Sees them.
    q: Queries.
    k: Keys.
    v: Values.
    **how: Further arguments of `gm.math.attend`.
  """
  if _observed.interceptors() or _observed.records(module):
    weights = _attention.attention_weights(q, k, **how)
    seen: jax.Array = module(weights)
    if seen is not weights:
      return _attention.weighted_values(seen, v).astype(q.dtype)
  return _attention.attend(q, k, v, **how)
