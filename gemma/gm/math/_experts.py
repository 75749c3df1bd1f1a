"""Mixtures of experts: each token goes through a few of many feed-forwards.

Axes: *B any batch dims, M tokens, D model, E experts, C experts of a token, F
hidden, G = 2 the gate and the other branch, R = M * C pairs of a token and one
of its experts.
"""

from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Shaped

from gemma.gm.math import _integers
from gemma.gm.math import _partition


class Weights(NamedTuple):
  """One weight of all experts, which stands for `w / scale`.

  Attributes:
    w: The weights, or their integers.
    scale: Of integers, with 1 in place of the axis that is summed over.
  """

  w: Shaped[Array, 'E ...']
  scale: Float[Array, 'E ...'] | None = None

  def of(self, index: int | Int[Array, '*B']) -> 'Weights':
    """Those of some experts."""
    scale = None if self.scale is None else self.scale[index]
    return Weights(self.w[index], scale)


def route(
  logits: Float[Array, '*B E'], top_k: int
) -> tuple[Float[Array, '*B C'], Int[Array, '*B C']]:
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
  x: Float[Array, '*B D'],
  shares: Float[Array, '*B C'],
  index: Int[Array, '*B C'],
  gating: Weights,
  linear: Weights,
) -> Float[Array, '*B D']:
  """Sum of the chosen experts' outputs, in float32. No token is dropped.

  With fewer pairs than experts, the weights of each pair are gathered, so that
  the others are not read; with more, pairs are sorted by expert.

  Args:
    x: Tokens.
    shares: How much each of a token's experts counts.
    index: Which experts they are.
    gating: Both branches of each expert, `[E G F D]`.
    linear: What brings each expert back to the width of the model, `[E F D]`.
  """
  run = _in_parts if _partition.sizes() else _apply
  return run((x, shares, index), (gating, linear))


# Tokens, their shares and their experts; both weights of all experts.
_Tokens = tuple[jax.Array, jax.Array, jax.Array]
_Both = tuple[Weights, Weights]


def _apply(tokens: _Tokens, weights: _Both) -> jax.Array:
  """`apply_experts` on one device."""
  few = tokens[2].size < weights[0].w.shape[0]
  run = gathered_experts if few else grouped_experts
  x, shares, index = (y.reshape(-1, y.shape[-1]) for y in tokens)
  return run(x, shares, index, *weights).reshape(tokens[0].shape)


def _in_parts(tokens: _Tokens, weights: _Both) -> jax.Array:
  """`apply_experts` of which each device runs the experts that it has.

  Devices that share the experts between them give each other all their tokens,
  and add up what comes out: however tokens are spread, none is dropped.
  """
  batch = tokens[0].shape[:-1]
  rows = _partition.spec_of(batch, 'BL'[: len(batch)])
  gating = _specs(weights[0], ('expert', None, 'mlp', None))
  linear = _specs(weights[1], ('expert', 'mlp', None))
  experts, hidden, _ = linear.w
  shared = experts if experts in _partition.names_of(rows[0]) else None

  def local(tokens: _Tokens, weights: _Both) -> jax.Array:
    x, shares, index = tokens
    if shared:
      x, shares, index = (
        jax.lax.all_gather(y, shared, axis=0, tiled=True) for y in tokens
      )
    if experts:
      count = weights[0].w.shape[0]
      index -= jax.lax.axis_index(experts) * count
      here = (index >= 0) & (index < count)
      shares, index = jnp.where(here, shares, 0), jnp.where(here, index, count)
    out = _apply((x, shares, index), weights)
    sums = tuple(
      name for name in (hidden, experts) if name not in (None, shared)
    )
    if sums:
      out = jax.lax.psum(out, sums)
    if shared:
      out = jax.lax.psum_scatter(out, shared, scatter_dimension=0, tiled=True)
    return out

  run = _partition.run_local(local, (rows, (gating, linear)), rows)
  return run(tokens, weights)


def _specs(weights: Weights, axes: tuple[str | None, ...]) -> Any:
  """How the weights of experts are divided, the model's width left whole."""
  return jax.tree.map(lambda x: _partition.weight_spec(x.shape, axes), weights)


def naive_experts(
  x: Float[Array, 'M D'],
  shares: Float[Array, 'M C'],
  index: Int[Array, 'M C'],
  gating: Weights,
  linear: Weights,
) -> Float[Array, 'M D']:
  """`apply_experts`, all experts for all tokens. The definition, the oracle."""
  out = jnp.zeros(x.shape, jnp.float32)
  for expert in range(gating.w.shape[0]):
    share = jnp.sum(jnp.where(index == expert, shares, 0), axis=1)
    gate, up = _product('MD,GFD->GMF', x, gating.of(expert))
    y = _product('MF,FD->MD', _active(gate, up), linear.of(expert))
    out += share[:, None] * y.astype(jnp.float32)
  return out


def gathered_experts(
  x: Float[Array, 'M D'],
  shares: Float[Array, 'M C'],
  index: Int[Array, 'M C'],
  gating: Weights,
  linear: Weights,
) -> Float[Array, 'M D']:
  """`apply_experts` with a copy of the weights for each pair."""
  index = jnp.minimum(index, gating.w.shape[0] - 1)  # The others' share is 0.
  gate, up = _product('MD,MCGFD->GMCF', x, gating.of(index))
  y = _product('MCF,MCFD->MCD', _active(gate, up), linear.of(index))
  return jnp.einsum('MC,MCD->MD', shares, y.astype(jnp.float32))


def grouped_experts(
  x: Float[Array, 'M D'],
  shares: Float[Array, 'M C'],
  index: Int[Array, 'M C'],
  gating: Weights,
  linear: Weights,
) -> Float[Array, 'M D']:
  """`apply_experts` as one product for each expert: for many tokens."""
  order = jnp.argsort(index.reshape(-1), stable=True)  # R
  expert, token = index.reshape(-1)[order], order // index.shape[1]
  gate, up = jnp.split(_grouped(x[token], _flat(gating), expert, 2), 2, axis=1)
  y = _grouped(_active(gate, up), linear, expert, 1)
  # Pairs whose expert is elsewhere come last, and of them nothing is computed.
  y = jnp.where(expert[:, None] < linear.w.shape[0], y.astype(jnp.float32), 0)
  y *= shares.reshape(-1)[order][:, None]
  return jnp.zeros(x.shape, jnp.float32).at[token].add(y)


def _active(gate: jax.Array, up: jax.Array) -> jax.Array:
  wide = jax.nn.gelu(gate.astype(jnp.float32), approximate=True)
  return wide.astype(up.dtype) * up


def _product(eqn: str, x: jax.Array, weights: Weights) -> jax.Array:
  """An einsum with weights, in the dtype of `x`."""
  w = weights.w.astype(x.dtype)
  y = jnp.einsum(eqn, x, w, preferred_element_type=jnp.float32)
  if weights.scale is not None:
    y = _integers.unscale(eqn, y, weights.scale)
  return y.astype(x.dtype)


def _flat(gating: Weights) -> Weights:
  """Both branches of each expert side by side, `[E 2F D]`."""
  return jax.tree.map(lambda x: jax.lax.collapse(x, 1, 3), gating)


def _grouped(
  x: Float[Array, 'R I'], weights: Weights, expert: Int[Array, 'R'], axis: int
) -> Float[Array, 'R O']:
  """Rows of `x` times the weight of their expert, by which they are sorted.

  Args:
    x: Rows.
    weights: The weights.
    expert: The expert of each row.
    axis: Axis of the weights that is summed over; read as it lies in memory.
  """
  numbers = jax.lax.RaggedDotDimensionNumbers(
    dot_dimension_numbers=(((1,), (axis,)), ((), ())),
    lhs_ragged_dimensions=[0],
    rhs_group_dimensions=[0],
  )
  sizes = jnp.bincount(expert, length=weights.w.shape[0])
  y = jax.lax.ragged_dot_general(
    x,
    weights.w.astype(x.dtype),
    sizes,
    numbers,
    preferred_element_type=jnp.float32,
  )
  if weights.scale is not None:
    y = y / jnp.squeeze(weights.scale, axis)[expert].astype(jnp.float32)
  return y.astype(x.dtype)
