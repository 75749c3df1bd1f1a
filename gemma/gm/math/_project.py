"""Products of activations with weights.

Axes: B batch, L length; the letters of an equation are its caller's.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float

# The matrix units of a CPU take bfloat16 eight rows at a time. For fewer, the
# compiler makes a float32 copy of the weight: slow, and twice its bytes.
_ROWS = 8
_LARGE = 1 << 19  # Elements; below, the copy is cheaper than the extra rows.


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 3))
def project(
  eqn: str, x: Float[Array, 'B L ...'], w: Float[Array, '...'], dtype: Any
) -> Float[Array, '...']:
  """`einsum(eqn, x, w)`, accumulated in float32.

  Gradients are plain einsums in the dtypes of `x` and `w`.

  Args:
    eqn: An einsum whose first letter is the batch.
    x: Activations.
    w: A weight.
    dtype: Dtype of the result.

  Returns:
    The product.
  """
  batch, missing = x.shape[0], _ROWS - x.shape[0] * x.shape[1]
  few = x.dtype == jnp.bfloat16 and missing > 0 and w.size >= _LARGE
  if few and jax.default_backend() == 'cpu':
    x = jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1))
  out = jnp.einsum(eqn, x, w, preferred_element_type=jnp.float32)
  axis = eqn.split('->')[1].index(eqn[0])
  return jax.lax.slice_in_dim(out, 0, batch, axis=axis).astype(dtype)


@functools.partial(project.defjvp, symbolic_zeros=True)
def _project_jvp(
  eqn: str, dtype: Any, primals: tuple[Any, Any], tangents: tuple[Any, Any]
) -> tuple[jax.Array, jax.Array]:
  """The product rule, without the terms of what is not trained."""
  (x, w), (dx, dw) = primals, tangents
  out = project(eqn, x, w, dtype)
  terms = [
    jnp.einsum(eqn, a, b, preferred_element_type=dtype)
    for a, b in ((dx, w), (x, dw))
    if not isinstance(a, _Zero) and not isinstance(b, _Zero)
  ]
  return out, functools.reduce(jnp.add, terms, jnp.zeros_like(out))


_Zero = jax.custom_derivatives.SymbolicZero
