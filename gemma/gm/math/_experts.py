"""Mixtures of experts: each token goes through a few of many feed-forwards.

Axes: M tokens, D model, E experts, C experts of a token, F hidden, G = 2 the
gate and the other branch, R = M * C pairs of a token and one of its experts.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int


def route(
  logits: Float[Array, 'M E'], top_k: int
) -> tuple[Float[Array, 'M C'], Int[Array, 'M C']]:
  """The experts that each token takes, and how much of each.

  Args:
    logits: Scores of the experts.
    top_k: Experts of a token.

  Returns:
    Weights that add up to 1, and the numbers of the experts. Exact: an
    approximate selection drops some on accelerators.
  """
  top, index = jax.lax.top_k(logits.astype(jnp.float32), top_k)
  return jax.nn.softmax(top, axis=-1), index


def apply_experts(
  x: Float[Array, 'M D'],
  weights: Float[Array, 'M C'],
  index: Int[Array, 'M C'],
  gating: Float[Array, 'E G F D'],
  linear: Float[Array, 'E F D'],
) -> Float[Array, 'M D']:
  """Sum of the chosen experts' outputs, in float32. No token is dropped.

  With fewer pairs than experts, the weights of each pair are gathered, so that
  the others are not read; with more, pairs are sorted by expert.

  Args:
    x: Tokens.
    weights: How much each of a token's experts counts.
    index: Which experts they are.
    gating: Both branches of each expert.
    linear: What brings each expert back to the width of the model.
  """
  few = index.size < gating.shape[0]
  run = gathered_experts if few else grouped_experts
  return run(x, weights, index, gating, linear)


def naive_experts(
  x: Float[Array, 'M D'],
  weights: Float[Array, 'M C'],
  index: Int[Array, 'M C'],
  gating: Float[Array, 'E G F D'],
  linear: Float[Array, 'E F D'],
) -> Float[Array, 'M D']:
  """`apply_experts`, all experts for all tokens. The definition, the oracle."""
  out = jnp.zeros(x.shape, jnp.float32)
  for expert in range(gating.shape[0]):
    share = jnp.sum(jnp.where(index == expert, weights, 0), axis=1)
    gate, up = jnp.einsum('MD,GFD->GMF', x, gating[expert])
    y = jnp.einsum('MF,FD->MD', _active(gate, up), linear[expert])
    out += share[:, None] * y.astype(jnp.float32)
  return out


def gathered_experts(
  x: Float[Array, 'M D'],
  weights: Float[Array, 'M C'],
  index: Int[Array, 'M C'],
  gating: Float[Array, 'E G F D'],
  linear: Float[Array, 'E F D'],
) -> Float[Array, 'M D']:
  """`apply_experts` with a copy of the weights for each pair."""
  gate, up = jnp.einsum('MD,MCGFD->GMCF', x, gating[index])
  y = jnp.einsum('MCF,MCFD->MCD', _active(gate, up), linear[index])
  return jnp.einsum('MC,MCD->MD', weights, y.astype(jnp.float32))


def grouped_experts(
  x: Float[Array, 'M D'],
  weights: Float[Array, 'M C'],
  index: Int[Array, 'M C'],
  gating: Float[Array, 'E G F D'],
  linear: Float[Array, 'E F D'],
) -> Float[Array, 'M D']:
  """`apply_experts` as one product for each expert: for many tokens."""
  experts, _, hidden, _ = gating.shape
  order = jnp.argsort(index.reshape(-1), stable=True)  # R
  sizes = jnp.bincount(index.reshape(-1), length=experts)
  token = order // index.shape[1]
  both = gating.reshape(experts, 2 * hidden, -1)
  gate, up = jnp.split(_grouped(x[token], both, sizes, axis=2), 2, axis=1)
  y = _grouped(_active(gate, up), linear, sizes, axis=1)
  y = y.astype(jnp.float32) * weights.reshape(-1)[order][:, None]
  return jnp.zeros(x.shape, jnp.float32).at[token].add(y)


def _active(gate: jax.Array, up: jax.Array) -> jax.Array:
  wide = jax.nn.gelu(gate.astype(jnp.float32), approximate=True)
  return wide.astype(up.dtype) * up


def _grouped(
  x: Float[Array, 'R I'],
  w: Float[Array, 'E ...'],
  sizes: Int[Array, 'E'],
  axis: int,
) -> Float[Array, 'R O']:
  """Rows of `x`, which are sorted by expert, times the weight of theirs.

  Args:
    x: Rows.
    w: Weights.
    sizes: Rows of each expert.
    axis: Axis of the weights that is summed over; read as it lies in memory.
  """
  numbers = jax.lax.RaggedDotDimensionNumbers(
    dot_dimension_numbers=(((1,), (axis,)), ((), ())),
    lhs_ragged_dimensions=[0],
    rhs_group_dimensions=[0],
  )
  return jax.lax.ragged_dot_general(x, w, sizes, numbers)
