"""Products with weights on a mesh: each device has a part of both.

Weights are gathered along `fsdp` (https://arxiv.org/abs/1910.02054). Along
`tensor` they stay in parts (https://arxiv.org/abs/1909.08053); what these give
is summed, or stays in parts too. The residual stream, of which each device of
`tensor` has some tokens, is gathered before such a product and divided after it
(https://arxiv.org/abs/2205.05198). Left to themselves, compilers send more, and
keep larger arrays, for the gradients of weights above all.

Letters of equations are logical axes, see `_partition.LETTERS`.
"""

from collections.abc import Callable
from collections.abc import Sequence
import functools
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from gemma.gm.math import _partition

# Divides the tokens of the residual stream, and heads or hidden layers.
_SPLIT = 'tensor'


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def project(eqn: str, x: jax.Array, w: jax.Array, dtype: Any) -> jax.Array:
  """An einsum of which each device computes a part; see `_project.project`.

  Args:
    eqn: The einsum.
    x: Activations.
    w: A weight.
    dtype: Dtype of the result, and of what devices send each other of it.
  """
  parts = _Product.of(eqn, x.shape, w.shape)
  return _run(functools.partial(_forward, parts, dtype), *parts)(x, w)


def _fwd(eqn: str, x: Any, w: Any, dtype: Any) -> tuple[jax.Array, Any]:
  # A tree and not a flag: what is known while tracing is in its structure.
  trained = tuple(() if a.perturbed else None for a in (x, w))
  return project(eqn, x.value, w.value, dtype), (x.value, w.value, trained)


def _bwd(
  eqn: str, dtype: Any, residuals: Any, grad: Any
) -> tuple[jax.Array | None, jax.Array | None]:
  del dtype
  x, w, (with_x, with_w) = residuals
  if isinstance(grad, jax.custom_derivatives.SymbolicZero):
    return None, None
  parts = _Product.of(eqn, x.shape, w.shape)
  dx = dw = None
  if with_x is not None:
    back = parts.transposed
    dx = _run(functools.partial(_forward, back, x.dtype), *back)(grad, w)
  if with_w is not None:
    local = functools.partial(_weight_gradient, parts, w.dtype)
    dw = _run(local, parts.x, parts.out, parts.w)(x, grad)
  return dx, dw


def _run(
  local: Callable[..., jax.Array], x: '_Part', y: '_Part', out: '_Part'
) -> Callable[..., jax.Array]:
  """What devices compute from their parts of two arrays."""
  return _partition.run_local(local, (x.spec, y.spec), out.spec)


project.defvjp(_fwd, _bwd, symbolic_zeros=True)


class _Part(NamedTuple):
  """What each device has of an array.

  Attributes:
    axes: A letter for each axis.
    spec: Mesh axes that divide it.
  """

  axes: str
  spec: PartitionSpec

  def names(self, letter: str) -> tuple[str, ...]:
    """Mesh axes that divide an axis."""
    if letter not in self.axes:
      return ()
    return _partition.names_of(self.spec[self.axes.index(letter)])

  @property
  def length(self) -> int:
    """The axis of tokens; -1 if there is none."""
    return max(self.axes.find(letter) for letter in 'LT')

  @property
  def is_stream(self) -> bool:
    """Whether each device of `tensor` has tokens of its own."""
    return any(_SPLIT in self.names(letter) for letter in 'LT')


class _Product(NamedTuple):
  """A product of activations with a weight, on one device.

  Attributes:
    x: What each device has of the activations.
    w: Of the weight.
    out: Of the product.
  """

  x: _Part
  w: _Part
  out: _Part

  @classmethod
  def of(
    cls, eqn: str, x_shape: Sequence[int], w_shape: Sequence[int]
  ) -> '_Product':
    """As the mesh in context divides them."""
    inputs, out_axes = eqn.split('->')
    x_axes, w_axes = inputs.split(',')
    sizes = dict(zip(x_axes + w_axes, (*x_shape, *w_shape), strict=True))
    out_shape = [sizes[letter] for letter in out_axes]
    return cls(
      _Part(x_axes, _partition.stream_spec(x_shape, x_axes)),
      _Part(w_axes, _partition.weight_spec_of(w_shape, w_axes)),
      _Part(out_axes, _partition.stream_spec(out_shape, out_axes)),
    )

  @property
  def transposed(self) -> '_Product':
    """That of the gradient with the weight."""
    return _Product(self.out, self.w, self.x)

  @property
  def needs_all_tokens(self) -> bool:
    """Whether devices of `tensor` have parts of the weight."""
    return any(_SPLIT in self.w.names(letter) for letter in self.w.axes)

  @property
  def token_names(self) -> set[str]:
    """Mesh axes whose devices compute with other tokens."""
    both = [x for x in self.x.axes if x in self.out.axes]
    names = {name for letter in both for name in self.x.names(letter)}
    names.discard(_SPLIT)
    if not self.needs_all_tokens and (self.x.is_stream or self.out.is_stream):
      names.add(_SPLIT)
    return names

  def meet(self, part: _Part, other: _Part, x: jax.Array) -> jax.Array:
    """Activations of those tokens that the device computes with."""
    if self.needs_all_tokens and part.is_stream:
      return _partition.gathered(x, _SPLIT, part.length)
    if not self.needs_all_tokens and other.is_stream and not part.is_stream:
      return _partition.own_part(x, _SPLIT, part.length)
    return x


def _forward(
  parts: _Product, dtype: Any, x: jax.Array, w: jax.Array
) -> jax.Array:
  """The part of a product that a device keeps, of this dtype."""
  x_part, w_part, out = parts
  x = parts.meet(x_part, out, x)
  sums, gathers = [], []
  for axis, letter in enumerate(w_part.axes):
    for name in w_part.names(letter):
      if name in parts.token_names:
        w = _partition.gathered(w, name, axis)
      elif letter not in out.axes:
        if name not in x_part.names(letter):
          x = _partition.own_part(x, name, x_part.axes.index(letter))
        sums.append(name)
      elif name not in out.names(letter):
        gathers.append((name, out.axes.index(letter)))
  eqn = f'{x_part.axes},{w_part.axes}->{out.axes}'
  y = jnp.einsum(eqn, x, w, preferred_element_type=jnp.float32).astype(dtype)
  for name, axis in gathers:
    y = _partition.gathered(y, name, axis)
  if parts.needs_all_tokens and out.is_stream:
    if _SPLIT in sums:
      sums.remove(_SPLIT)
      y = _partition.scattered(y, _SPLIT, out.length)
    else:
      y = _partition.own_part(y, _SPLIT, out.length)
  elif not parts.needs_all_tokens and x_part.is_stream and not out.is_stream:
    y = _partition.gathered(y, _SPLIT, out.length)
  return jax.lax.psum(y, tuple(sums)) if sums else y


def _weight_gradient(
  parts: _Product, dtype: Any, x: jax.Array, grad: jax.Array
) -> jax.Array:
  """The part of a weight's gradient that a device keeps."""
  x_part, w_part, out = parts
  x, grad = parts.meet(x_part, out, x), parts.meet(out, x_part, grad)
  sums, scatters = set(parts.token_names), []
  for axis, letter in enumerate(w_part.axes):
    for name in w_part.names(letter):
      if name in sums:
        sums.remove(name)
        scatters.append((name, axis))
      elif letter in out.axes:
        if name not in out.names(letter):
          grad = _partition.own_part(grad, name, out.axes.index(letter))
      elif name not in x_part.names(letter):
        x = _partition.own_part(x, name, x_part.axes.index(letter))
  eqn = f'{x_part.axes},{out.axes}->{w_part.axes}'
  dw = jnp.einsum(eqn, x, grad, preferred_element_type=jnp.float32)
  dw = dw.astype(dtype)
  for name, axis in scatters:
    dw = _partition.scattered(dw, name, axis)
  return jax.lax.psum(dw, tuple(sorted(sums))) if sums else dw
