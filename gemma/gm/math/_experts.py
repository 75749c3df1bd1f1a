"""Mixtures of experts: each token goes through a few of many feed-forwards.

On a mesh, each device runs those experts, or those parts of all experts, that
it has.

Axes: B batch, L length, D model, E experts, C experts of a token, F hidden,
G = 2 the gate and the other branch.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int

from gemma.gm.math import _expert_products
from gemma.gm.math import _partition
from gemma.gm.math import _shapes

Weights = _expert_products.Weights


def route(
  logits: Float[Array, 'B L E'], top_k: int
) -> tuple[Float[Array, 'B L C'], Int[Array, 'B L C']]:
  """The experts that each token takes, and how much of each.

  Args:
    logits: Scores of the experts.
    top_k: Experts of a token.

  Returns:
    Weights that add up to 1, and the numbers of the experts. Exact: an
    approximate selection drops some on accelerators.
  """
  run = functools.partial(_route, top_k=top_k)
  if not _partition.sizes():
    return run(logits)
  # Compilers bring all tokens together for `top_k`.
  spec = _partition.spec_of(logits.shape, 'BLE')
  shares, index = _partition.run_local(run, (spec,), (spec, spec))(logits)
  return shares, index


def _route(logits: jax.Array, *, top_k: int) -> tuple[jax.Array, jax.Array]:
  """`route` of one device."""
  top, index = jax.lax.top_k(logits.astype(jnp.float32), top_k)
  return jax.nn.softmax(top, axis=-1), index


def apply_experts(
  x: Float[Array, 'B L D'],
  shares: Float[Array, 'B L C'],
  index: Int[Array, 'B L C'],
  gating: Weights,
  linear: Weights,
) -> Float[Array, 'B L D']:
  """Sum of the chosen experts' outputs. No token is dropped.

  With fewer pairs of a token and one of its experts than experts, the weights
  of each pair are gathered, so that the others are not read; with more, pairs
  are sorted by expert.

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
_Tokens = tuple[jax.Array, ...]
_Both = tuple[Weights, Weights]


def _apply(tokens: _Tokens, weights: _Both) -> jax.Array:
  """`apply_experts` on one device."""
  pairs = tokens[2].size
  few = _shapes.is_known(pairs) and pairs < weights[0].w.shape[0]
  run: Callable[..., jax.Array] = (
    _expert_products.gathered_experts
    if few
    else _expert_products.grouped_experts
  )
  x, shares, index = (y.reshape(-1, y.shape[-1]) for y in tokens)
  out = run(x, shares, index, *weights)
  return out.reshape(tokens[0].shape).astype(x.dtype)


def _in_parts(tokens: _Tokens, weights: _Both) -> jax.Array:
  """`apply_experts` of which each device computes a part.

  Devices that share experts, or parts of them, between them give each other all
  their tokens, and add up what comes out: however tokens are spread, none is
  dropped. Weights are gathered along their width.
  """
  stream = _partition.stream_spec(tokens[0].shape, 'BLD')
  gating = _specs(weights[0], ('expert', None, 'mlp', 'embed'))
  linear = _specs(weights[1], ('expert', 'mlp', 'embed'))
  experts, hidden, _ = linear.w
  shared = [name for name in (hidden, experts) if name is not None]

  def local(tokens: _Tokens, weights: _Both) -> jax.Array:
    weights = jax.tree.map(_with_whole_width, weights, (gating, linear))
    for name in shared:
      axis = _axis_of(name, stream)
      if axis is not None:
        tokens = tuple(_partition.gathered(y, name, axis) for y in tokens)
    x, shares, index = tokens
    if experts:
      count = weights[0].w.shape[0]
      index = index - jax.lax.axis_index(experts) * count
      index = jnp.where((index >= 0) & (index < count), index, count)
    out = _apply((x, shares, index), weights)
    for name in shared:
      axis = _axis_of(name, stream)
      if axis is None:
        out = jax.lax.psum(out, name)
      else:
        out = _partition.scattered(out, name, axis)
    return out

  specs = (stream, stream, stream), (gating, linear)
  return _partition.run_local(local, specs, stream)(tokens, weights)


def _specs(weights: Weights, axes: tuple[str | None, ...]) -> Any:
  """How the weights of experts are divided."""
  return jax.tree.map(lambda x: _partition.weight_spec(x.shape, axes), weights)


def _axis_of(name: str, spec: PartitionSpec) -> int | None:
  """The axis that a mesh axis divides."""
  entries = [_partition.names_of(entry) for entry in spec]
  return next((i for i, names in enumerate(entries) if name in names), None)


def _with_whole_width(w: jax.Array, spec: PartitionSpec) -> jax.Array:
  """A weight of experts whose last axis is in one piece."""
  for name in _partition.names_of(spec[-1]):
    w = _partition.gathered(w, name, w.ndim - 1)
  return w
