"""Gates cut to zero but for the largest.

Axes: *B any batch dims, F hidden.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float


def sparsify(
  gate: Float[Array, '*B F'], sparsity: float
) -> Float[Array, '*B F']:
  """`max(gate - cutoff, 0)`, with about `sparsity` of all below the cutoff.

  The cutoff is that of a normal distribution with the mean and the deviation of
  the gates of a token (https://arxiv.org/abs/2506.06644), which needs no sort.
  It is computed in float32: in bfloat16, other gates would remain.
  """
  wide = gate.astype(jnp.float32)
  deviations = jax.scipy.stats.norm.ppf(jnp.float32(sparsity))
  cutoff = jnp.mean(wide, axis=-1, keepdims=True)
  cutoff += jnp.std(wide, axis=-1, keepdims=True) * deviations
  return jax.nn.relu(wide - cutoff).astype(gate.dtype)
