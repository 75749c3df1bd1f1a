"""What the factors of one adapter stand for.

An adapter is `a`, the axes of its weight that are summed over and then the
rank, and `b`, the rank and then the others. Or, in one that is per head, all
axes but the last have an `a` of their own and share `b`, which has the rank and
the last axis: as Keras has it. With a magnitude `m` of each output it is DoRA
(https://arxiv.org/abs/2402.09353): the changed weight is scaled to it.

Axes: r rank; the others are those of the weight.
"""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

A, B, M = 'a', 'b', 'm'
DROPOUT = 'dropout'  # A rate, beside the factors while a loss is computed.


def is_per_head(
  a: tuple[int, ...], b: tuple[int, ...], summed: tuple[int, ...]
) -> bool:
  """Whether factors of these shapes are per head.

  Args:
    a: Shape of `a`.
    b: Shape of `b`.
    summed: Axes of the weight that are summed over.
  """
  return len(b) == 2 and len(a) > len(summed) + 1


def change(a: Any, b: Any, summed: tuple[int, ...]) -> jax.Array:
  """What an adapter adds to its weight, in float32.

  Args:
    a: See the module.
    b: See the module.
    summed: Axes of the weight that are summed over.

  Raises:
    ValueError: If the ranks differ.
  """
  if a.shape[-1] != b.shape[0]:
    raise ValueError(f'The ranks of a {a.shape} and b {b.shape} differ.')
  product = jnp.tensordot(
    a.astype(jnp.float32),
    b.astype(jnp.float32),
    axes=((-1,), (0,)),
    precision='highest',
  )
  if is_per_head(a.shape, b.shape, summed):
    return product
  return jnp.moveaxis(product, range(len(summed)), summed)


def norms(
  w: Any, lora: Mapping[str, Any], summed: tuple[int, ...]
) -> jax.Array:
  """The length of what makes each output, in float32, with the axes kept.

  The change itself, as large as the weight, is not made, unless it is per head:
  `|w + ab|^2 = |w|^2 + 2 (aw) b + b (aa) b`.

  Args:
    w: The weight.
    lora: Its adapter.
    summed: Axes of the weight that are summed over; the result has 1 there.
  """
  w, a, b = (x.astype(jnp.float32) for x in (w, lora[A], lora[B]))
  if is_per_head(a.shape, b.shape, summed):
    square = jnp.sum(jnp.square(w + change(a, b, summed)), summed)
  else:
    front = tuple(range(len(summed)))
    both = jnp.tensordot(a, w, (front, summed), precision='highest')
    own = jnp.tensordot(a, a, (front, front), precision='highest')
    both = 2 * both + jnp.tensordot(own, b, 1, precision='highest')
    square = jnp.sum(jnp.square(w), summed) + jnp.sum(both * b, 0)
  return jnp.expand_dims(jnp.sqrt(jnp.maximum(square, 0)), summed)


def changed(
  w: Any, lora: Mapping[str, Any], summed: tuple[int, ...]
) -> jax.Array:
  """The weight with its adapter in it, float32.

  Args:
    w: The weight.
    lora: Its adapter.
    summed: Axes of the weight that are summed over.
  """
  total = w.astype(jnp.float32) + change(lora[A], lora[B], summed)
  if M not in lora:
    return total
  return total * gains(norms(w, lora, summed), lora[M], summed)


def gains(norms: Any, m: Any, summed: tuple[int, ...]) -> jax.Array:
  """What DoRA multiplies each output by, in float32.

  The same for outputs that are nothing: there is nothing to scale.

  Args:
    norms: From the function of that name.
    m: The magnitudes.
    summed: Axes of the weight that are summed over; the result has 1 there.
  """
  wide = jnp.expand_dims(m.astype(jnp.float32), summed)
  return wide / jnp.where(norms == 0, 1, norms)


def joint(a: Any, b: Any) -> tuple[Any, Any]:
  """The factors of an adapter that is not per head, from one that is.

  The same change; the rank is that of all heads together, and most of `b` is
  zero.

  Args:
    a: `[heads.., summed, r]`.
    b: `[r, last]`.
  """
  *heads, summed, rank = a.shape
  count = a.size // (summed * rank)
  joined = a.reshape(count, summed, rank).transpose(1, 0, 2)
  blocks = jnp.eye(count)[:, None, :, None] * b[None, :, None, :]
  return (
    joined.reshape(summed, count * rank),
    blocks.reshape(count * rank, *heads, b.shape[-1]).astype(b.dtype),
  )


def adapt(
  y: jax.Array,
  x: jax.Array,
  lora: Mapping[str, Any],
  layer: 'Layer',
  rng: jax.Array | None,
) -> jax.Array:
  """A layer's product with its adapter.

  Gradients of DoRA take the lengths as they are: section 4.3 of its paper.

  Args:
    y: The product, without a bias.
    x: The input.
    lora: The adapter.
    layer: The layer.
    rng: Random key for dropout, if there is to be some.
  """
  dropped = x
  if rng is not None and DROPOUT in lora:
    dropped = drop(x, lora[DROPOUT], rng)
  added = layer.adapter(dropped, lora)
  if M not in lora:
    return y + added
  lengths = jax.lax.stop_gradient(norms(layer.weight(), lora, layer.summed))
  gain = layer.spread(gains(lengths, lora[M], layer.summed))
  if dropped is x:
    return (gain * (y + added)).astype(y.dtype)
  # As PEFT does: the layer itself has the whole input, what is scaled has not.
  again = layer.product(dropped)
  return (y + (gain - 1) * again + gain * added).astype(y.dtype)


class Layer(NamedTuple):
  """What a layer does with its weight.

  Attributes:
    summed: Axes of the weight that are summed over.
    weight: Its floats.
    product: Inputs times the weight.
    adapter: Inputs times both factors.
    spread: Numbers for the outputs, with the axes of the weight, those of the
      product.
  """

  summed: tuple[int, ...]
  weight: Callable[[], jax.Array]
  product: Callable[[jax.Array], jax.Array]
  adapter: Callable[[jax.Array, Mapping[str, Any]], jax.Array]
  spread: Callable[[jax.Array], jax.Array]


def drop(x: jax.Array, rate: ArrayLike, rng: jax.Array) -> jax.Array:
  """Dropout: elements are zero at this rate, the others scaled up."""
  keep = 1 - jnp.asarray(rate, jnp.float32)
  kept = jax.random.bernoulli(rng, keep, x.shape)
  return jnp.where(kept, x / keep.astype(x.dtype), jnp.zeros((), x.dtype))
