"""Attention block by block, with a running softmax.

Axes: B batch, T query, S key, N query heads, K kv heads, G = N // K query heads
of one kv head, H head_dim; X blocks of t queries, Y blocks of s keys.
"""

from collections.abc import Callable
import functools
from typing import Any
from typing import NamedTuple
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float

from gemma.gm.math import _mask
from gemma.gm.math import _scores
from gemma.gm.math import _slices

_BLOCK = 512  # Queries, and keys, of a block.

_T = TypeVar('_T')
_Leaves = list[jax.Array]  # Of a mask.


def chunked_attention(
  q: Float[Array, 'B T N H'],
  k: Float[Array, 'B S K H'],
  v: Float[Array, 'B S K H'],
  *,
  mask: _mask.Mask,
  scale: float,
  softcap: float | None = None,
  block: int = _BLOCK,
) -> Float[Array, 'B T N H']:
  """`attend` block by block with a running softmax.

  Blocks that the mask hides from all queries are skipped. The backward pass
  computes scores anew, so it is linear in memory too; there is no forward-mode
  derivative. Follows https://arxiv.org/abs/2112.05682, and for gradients
  https://arxiv.org/abs/2205.14135.
  """
  leaves, structure = jax.tree.flatten(mask)
  return _attend(_Form(scale, softcap, block, structure), q, k, v, leaves)


class _Form(NamedTuple):
  """What is known before there are arrays.

  Attributes:
    scale: As of `chunked_attention`.
    softcap: As of `chunked_attention`.
    block: As of `chunked_attention`.
    mask: The structure of the mask, of which only arrays are passed on.
  """

  scale: float
  softcap: float | None
  block: int
  mask: Any


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
  form: _Form, q: jax.Array, k: jax.Array, v: jax.Array, mask: _Leaves
) -> jax.Array:
  return _forward(form, q, k, v, mask)[0]


def _forward(
  form: _Form, q: jax.Array, k: jax.Array, v: jax.Array, mask: _Leaves
) -> tuple[jax.Array, jax.Array]:
  """Attended values, and logarithms of sums of weights, `f32[X B K G t]`."""
  blocks = _Blocks.of(form, q, k, v, mask)

  def queries(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    q_block = _slices.take(blocks.q, x, 1)[0]

    def add(y: jax.Array, state: Any) -> Any:
      peak, total, out = state
      k_block, v_block = blocks.keys(y)
      scores, visible = blocks.scores(q_block, k_block, x, y)
      new_peak = jnp.maximum(peak, scores.max(axis=-1))
      weights = jnp.where(visible, jnp.exp(scores - new_peak[..., None]), 0)
      decay = jnp.exp(peak - new_peak)
      total = total * decay + weights.sum(axis=-1)
      out = out * decay[..., None] + _scores.weighted(weights, v_block)
      return new_peak, total, out

    shape = q_block.shape[:-1]
    lowest = jnp.full(shape, jnp.finfo(jnp.float32).min)
    start = lowest, jnp.zeros(shape), jnp.zeros(q_block.shape, jnp.float32)
    peak, total, out = _fold(blocks.visible[x], add, start)
    total = _scores.nonzero(total)
    return (out / total[..., None]).astype(q.dtype), peak + jnp.log(total)

  out, log_total = jax.lax.map(queries, jnp.arange(blocks.q.shape[0]))
  return _joined_queries(out, q.shape), log_total


def _fwd(
  form: _Form, q: jax.Array, k: jax.Array, v: jax.Array, mask: _Leaves
) -> tuple[jax.Array, Any]:
  out, log_total = _forward(form, q, k, v, mask)
  return out, (q, k, v, mask, out, log_total)


def _bwd(form: _Form, residuals: Any, grad: jax.Array) -> tuple[Any, ...]:
  q, k, v, mask, out, log_total = residuals
  blocks = _Blocks.of(form, q, k, v, mask)
  grad, out = (_query_blocks(form, x, k.shape[2]) for x in (grad, out))
  wide = out.astype(jnp.float32)
  delta = jnp.sum(grad.astype(jnp.float32) * wide, axis=-1)

  def keys(dq: jax.Array, y: jax.Array) -> Any:
    k_block, v_block = blocks.keys(y)

    def add(x: jax.Array, grads: Any) -> Any:
      dq, dk, dv = grads
      q_block, out_grad = (_slices.take(a, x, 1)[0] for a in (blocks.q, grad))
      scores, visible = blocks.scores(q_block, k_block, x, y)
      weights = jnp.exp(scores - log_total[x][..., None])
      weights = jnp.where(visible, weights, 0)
      dweights = _dot('BKGTH,BSKH->BKGTS', out_grad, v_block)
      dscores = weights * (dweights - delta[x][..., None]) * form.scale
      if form.softcap is not None:
        dscores *= 1 - (jnp.where(visible, scores, 0) / form.softcap) ** 2
      dscores = dscores.astype(q.dtype)
      dq = dq.at[x].add(_dot('BKGTS,BSKH->BKGTH', dscores, k_block))
      dk += _dot('BKGTS,BKGTH->BSKH', dscores, q_block)
      weights = weights.astype(grad.dtype)
      dv += _dot('BKGTS,BKGTH->BSKH', weights, out_grad)
      return dq, dk, dv

    zeros = jnp.zeros(k_block.shape, jnp.float32)
    dq, dk, dv = _fold(blocks.visible[:, y], add, (dq, zeros, zeros))
    return dq, (dk.astype(k.dtype), dv.astype(v.dtype))

  # Keys in the outer loop: of a row that devices share, there are more of them.
  dq = jnp.zeros(blocks.q.shape, jnp.float32)
  dq, dkv = jax.lax.scan(keys, dq, jnp.arange(blocks.k.shape[0]))
  dk, dv = (_joined(x, k.shape) for x in dkv)
  return _joined_queries(dq, q.shape).astype(q.dtype), dk, dv, None


_attend.defvjp(_fwd, _bwd)


class _Blocks(NamedTuple):
  """Blocks of queries and keys, and which see which.

  Attributes:
    form: The form of the attention.
    q: Queries, `[X B K G t H]`.
    k: Keys, `[Y B s K H]`.
    v: Values, likewise.
    mask: The whole mask.
    rows: What it says of queries, each `[X B t ...]`.
    k_index: What it says of keys, `[Y B s]`.
    visible: Which blocks of queries may see which of keys, `[X Y]`.
  """

  form: _Form
  q: jax.Array
  k: jax.Array
  v: jax.Array
  mask: _mask.Mask
  rows: dict[str, jax.Array | None]
  k_index: jax.Array
  visible: jax.Array

  @classmethod
  def of(
    cls, form: _Form, q: jax.Array, k: jax.Array, v: jax.Array, leaves: _Leaves
  ) -> '_Blocks':
    """Cuts arrays; the last blocks are filled up."""
    mask = jax.tree.unflatten(form.mask, leaves)
    t, s = min(form.block, q.shape[1]), min(form.block, k.shape[1])
    rows = {
      name: None if x is None else _cut(x, t)
      for name, x in (
        ('q_index', mask.q_index),
        ('dense', mask.dense),
        ('q_last', mask.q_last),
        ('q_first', mask.q_first),
      )
    }
    k_index = _cut(mask.k_index, s, fill=-1)

    def sees(rows: Any, k_index: jax.Array) -> jax.Array:
      return mask.replace(**rows, k_index=k_index).any_visible()

    each_key = jax.vmap(sees, in_axes=(None, 0))
    return cls(
      form=form,
      q=_query_blocks(form, q, k.shape[2]),
      k=_cut(k, s),
      v=_cut(v, s),
      mask=mask,
      rows=rows,
      k_index=k_index,
      visible=jax.vmap(each_key, in_axes=(0, None))(rows, k_index),
    )

  def keys(self, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A block of keys and values."""
    return _slices.take(self.k, y, 1)[0], _slices.take(self.v, y, 1)[0]

  def scores(
    self, q_block: jax.Array, k_block: jax.Array, x: jax.Array, y: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Scores of the blocks of these numbers, and which of them count."""
    rows = jax.tree.map(lambda row: row[x], self.rows)
    mask = self.mask.replace(**rows, k_index=self.k_index[y])
    form = self.form
    return _scores.scores(q_block, k_block, mask, form.scale, form.softcap)


def _fold(
  visible: jax.Array, step: Callable[[jax.Array, _T], _T], start: _T
) -> _T:
  """Calls `step(number, carry)` for the blocks that are visible."""
  order = jnp.argsort(~visible, stable=True)
  return jax.lax.fori_loop(
    0, visible.sum(), lambda i, carry: step(order[i], carry), start
  )


def _query_blocks(form: _Form, q: jax.Array, kv_heads: int) -> jax.Array:
  """`[B T N H]` as `[X B K G t H]`."""
  t = min(form.block, q.shape[1])
  return jax.vmap(lambda x: _scores.grouped(x, kv_heads))(_cut(q, t))


def _joined_queries(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """`[X B K G t H]` as `[B T N H]`."""
  x = jnp.einsum('XBKGtH->XBtKGH', x)
  return _joined(x.reshape(*x.shape[:3], *shape[2:]), shape)


def _cut(x: jax.Array, size: int, fill: int = 0) -> jax.Array:
  """`[B L ...]` as `[L//size B size ...]`, the last block filled up."""
  short = -x.shape[1] % size
  padding = [(0, 0), (0, short)] + [(0, 0)] * (x.ndim - 2)
  x = jnp.pad(x, padding, constant_values=fill)
  x = x.reshape(x.shape[0], -1, size, *x.shape[2:])
  return jnp.moveaxis(x, 1, 0)


def _joined(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """`[X B t ...]` as `[B T ...]`, without what filled the last block up."""
  x = jnp.moveaxis(x, 0, 1)
  return x.reshape(shape[0], -1, *shape[2:])[:, : shape[1]]


def _dot(eqn: str, x: jax.Array, y: jax.Array) -> jax.Array:
  return jnp.einsum(eqn, x, y, preferred_element_type=jnp.float32)
