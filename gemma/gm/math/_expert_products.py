"""What experts compute on one device: the definition, and two fast ways.

Axes: M tokens, D model, E experts, C experts of a token, F hidden, G = 2 the
gate and the other branch, P pairs of a block; a pair is a token and one of its
experts.
"""

from collections.abc import Callable
from typing import Any
from typing import NamedTuple
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Shaped

from gemma.gm.math import _integers
from gemma.gm.math import _shapes
from gemma.gm.math import _slices

# Pairs that are computed at once: more fill a device better, fewer leave less
# of an expert's last block empty.
_FEWEST, _MOST = 8, 256

_T = TypeVar('_T')


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

  def at(self, index: Int[Array, '']) -> 'Weights':
    """Those of one expert, for loops over them."""
    return jax.tree.map(lambda x: _slices.take(x, index, 1)[0], self)


def naive_experts(
  x: Float[Array, 'M D'],
  shares: Float[Array, 'M C'],
  index: Int[Array, 'M C'],
  gating: Weights,
  linear: Weights,
) -> Float[Array, 'M D']:
  """Sum of the chosen experts' outputs, in float32: all experts, all tokens.

  The definition.

  Args:
    x: Tokens.
    shares: How much each of a token's experts counts.
    index: Which experts they are. One that does not exist adds nothing.
    gating: Both branches of each expert, `[E G F D]`.
    linear: What brings each expert back to the width of the model, `[E F D]`.
  """
  out = jnp.zeros(x.shape, jnp.float32)
  for expert in range(gating.w.shape[0]):
    share = jnp.sum(jnp.where(index == expert, shares, 0), axis=1)
    out += _one_expert(x, share, gating.of(expert), linear.of(expert))
  return out


def gathered_experts(
  x: Float[Array, 'M D'],
  shares: Float[Array, 'M C'],
  index: Int[Array, 'M C'],
  gating: Weights,
  linear: Weights,
) -> Float[Array, 'M D']:
  """`naive_experts`, for few tokens: a copy of the weights for each pair."""
  count = gating.w.shape[0]
  shares = jnp.where(index < count, shares, 0)
  index = jnp.minimum(index, count - 1)
  gate, up = _product('MD,MCGFD->GMCF', x, gating.of(index))
  y = _product('MCF,MCFD->MCD', _active(gate, up), linear.of(index))
  return jnp.einsum('MC,MCD->MD', shares, y.astype(jnp.float32))


@jax.custom_vjp
def grouped_experts(
  x: Float[Array, 'M D'],
  shares: Float[Array, 'M C'],
  index: Int[Array, 'M C'],
  gating: Weights,
  linear: Weights,
) -> Float[Array, 'M D']:
  """`naive_experts`, one expert after the other with its own tokens: for many.

  Pairs are sorted by expert and computed block by block
  (https://arxiv.org/abs/2211.15841). At no time are there all pairs, or all
  that experts hide: gradients compute each block anew.
  """
  blocks = _Blocks.of(index, gating.w.shape[0])

  def add_expert(expert: jax.Array, out: jax.Array) -> jax.Array:
    own = gating.at(expert), linear.at(expert)

    def add(block: _Block, out: jax.Array) -> jax.Array:
      y = _one_expert(block.tokens(x), block.pairs(shares), *own)
      return block.add_to_tokens(out, y)

    return blocks.fold(expert, add, out)

  out = jnp.zeros(x.shape, jnp.float32)
  return jax.lax.fori_loop(0, blocks.experts, add_expert, out)


def _grouped_fwd(*arguments: Any) -> tuple[jax.Array, Any]:
  values = jax.tree.map(lambda a: a.value, arguments)
  weights = jax.tree.leaves(arguments[3:])
  # A tree and not a flag: what is known while tracing is in its structure.
  trained = () if any(a.perturbed for a in weights) else None
  return grouped_experts(*values), (values, trained)


def _grouped_bwd(residuals: Any, grad: Any) -> tuple[Any, ...]:
  (x, shares, index, *weights), trained = residuals
  if isinstance(grad, jax.custom_derivatives.SymbolicZero):
    return None, None, None, None, None
  blocks = _Blocks.of(index, weights[0].w.shape[0])
  leaves, structure = jax.tree.flatten([] if trained is None else weights)
  written = [_slices.Rows(w) for w in leaves]

  def add_expert(expert: jax.Array, grads: Any) -> Any:
    own = [w.at(expert) for w in weights]

    def add(block: _Block, grads: Any) -> Any:
      dx, dshares, dweights = grads
      inputs = block.tokens(x), block.pairs(shares)
      if trained is None:
        _, pull = jax.vjp(lambda *args: _one_expert(*args, *own), *inputs)
      else:
        _, pull = jax.vjp(_one_expert, *inputs, *own)
      drows, dpairs, *dw = pull(block.tokens(grad))
      dx = block.add_to_tokens(dx, drows)
      dshares = block.set_pairs(dshares, dpairs)
      parts = zip(dweights, jax.tree.leaves(dw), strict=True)
      return dx, dshares, [a + b.astype(a.dtype) for a, b in parts]

    dx, dshares, bits = grads
    sums = [jnp.zeros(w.shape[1:], jnp.float32) for w in leaves]
    dx, dshares, sums = blocks.fold(expert, add, (dx, dshares, sums))
    parts = zip(written, bits, sums, strict=True)
    bits = [rows.put(a, part[None], expert) for rows, a, part in parts]
    return dx, dshares, bits

  zeros = jnp.zeros(x.shape, jnp.float32), jnp.zeros_like(shares)
  grads = *zeros, [rows.bits for rows in written]
  grads = jax.lax.fori_loop(0, blocks.experts, add_expert, grads)
  dx, dshares, bits = grads
  parts = [rows.read(a) for rows, a in zip(written, bits, strict=True)]
  dweights = jax.tree.unflatten(structure, parts) or (None, None)
  return dx.astype(x.dtype), dshares, None, *dweights


grouped_experts.defvjp(_grouped_fwd, _grouped_bwd, symbolic_zeros=True)


class _Block(NamedTuple):
  """Pairs of one expert; the last block of an expert has places left empty.

  Attributes:
    token: The token of each pair; past the last one in an empty place.
    pair: The number of each pair; likewise.
  """

  token: Int[Array, 'P']
  pair: Int[Array, 'P']

  def tokens(self, x: Float[Array, 'M D']) -> Float[Array, 'P D']:
    """Those of all that are the pairs'; zeros in empty places."""
    return x.at[self.token].get(mode='fill', fill_value=0)

  def pairs(self, x: Float[Array, 'M C']) -> Float[Array, 'P']:
    """What the pairs have; 0 in empty places."""
    return x.reshape(-1).at[self.pair].get(mode='fill', fill_value=0)

  def add_to_tokens(
    self, x: Float[Array, 'M D'], y: Float[Array, 'P D']
  ) -> Float[Array, 'M D']:
    """Adds what pairs have to their tokens, of which none is there twice."""
    rows = x.at[self.token]
    return rows.add(y.astype(x.dtype), mode='drop', unique_indices=True)

  def set_pairs(
    self, x: Float[Array, 'M C'], y: Float[Array, 'P']
  ) -> Float[Array, 'M C']:
    """Sets what pairs have."""
    flat = x.reshape(-1).at[self.pair]
    return flat.set(y, mode='drop', unique_indices=True).reshape(x.shape)


class _Blocks(NamedTuple):
  """All pairs, sorted by expert.

  Attributes:
    order: Numbers of pairs, and as many more as fill a block.
    starts: Where the pairs of each expert start, and where the last ones end.
    top_k: Experts of a token.
    size: Pairs of a block.
  """

  order: Int[Array, '_']
  starts: Int[Array, '_']
  top_k: int
  size: int

  @classmethod
  def of(cls, index: Int[Array, 'M C'], experts: int) -> '_Blocks':
    """Sorts pairs; those of experts that do not exist come last."""
    flat = index.reshape(-1)
    order = jnp.argsort(flat, stable=True)
    # A binary search would need to know how many there are.
    before = flat[None] < jnp.arange(experts + 1)[:, None]
    starts = jnp.sum(before, axis=1, dtype=jnp.int32)
    size = _MOST
    if _shapes.is_known(flat.size):
      half = max(flat.size // experts, 1) // 2  # Of an expert's pairs, mostly.
      size = min(max(1 << half.bit_length(), _FEWEST), _MOST)
    order = jnp.concatenate([order, jnp.zeros(size, order.dtype)])
    return cls(order, starts, index.shape[1], size)

  @property
  def experts(self) -> int:
    """How many experts there are."""
    return self.starts.shape[0] - 1

  def fold(
    self, expert: jax.Array, step: Callable[[_Block, _T], _T], start: _T
  ) -> _T:
    """Goes through the blocks of an expert."""
    first, end = self.starts[expert], self.starts[expert + 1]

    def run(i: jax.Array, carry: _T) -> _T:
      return step(self._block(first + i * self.size, end), carry)

    count = (end - first + self.size - 1) // self.size
    return jax.lax.fori_loop(0, count, run, start)

  def _block(self, first: jax.Array, end: jax.Array) -> _Block:
    """The pairs at some places of the order."""
    places = jnp.arange(self.size)
    pair = jax.lax.dynamic_slice_in_dim(self.order, first, self.size)
    # Each number is there once, those past the last one too.
    pair = jnp.where(first + places < end, pair, self.order.size + places)
    token = pair // self.top_k
    past = self.order.size + places
    return _Block(jnp.where(pair < past[0], token, past), pair)


def _one_expert(
  x: Float[Array, 'M D'],
  share: Float[Array, 'M'],
  gating: Weights,
  linear: Weights,
) -> Float[Array, 'M D']:
  """What one expert gives for some tokens, in float32."""
  gate, up = _product('MD,GFD->GMF', x, gating)
  y = _product('MF,FD->MD', _active(gate, up), linear)
  return share[:, None] * y.astype(jnp.float32)


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
