"""Adapters beside a weight that an einsum applies.

Axes are the letters of the einsum; r is the rank.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import functools
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from gemma.gm.math import _integers
from gemma.gm.math import _project
from gemma.peft import _factors
from gemma.peft import _weights


class Stored(NamedTuple):
  """A weight as it is in the parameters.

  Attributes:
    w: The weight; None if it is stored as integers.
    ints: Its integers and scales, if it is.
  """

  w: Any
  ints: Mapping[str, jax.Array] | None = None

  def project(self, eqn: str, x: jax.Array) -> jax.Array:
    """The product with activations, in their dtype."""
    if self.ints is not None:
      return _integers.project_integers(eqn, x, **self.ints, dtype=x.dtype)
    return _project.project(eqn, x, self.w, x.dtype)

  def floats(self) -> jax.Array:
    """The weight itself, in float32 if it is stored as integers."""
    if self.ints is None:
      return self.w
    kernel, scale = self.ints['kernel'], self.ints['scale']
    return kernel.astype(jnp.float32) / scale.astype(jnp.float32)

  def part(self, index: int) -> 'Stored':
    """One index of the first axis."""
    if self.ints is None:
      return Stored(self.w[index])
    return Stored(None, {name: x[index] for name, x in self.ints.items()})


def places(module: str, suffix: str) -> Iterator[tuple[str, int | None]]:
  """Where the adapters of a weight may be, and of which part they are.

  Args:
    module: What the weight is called, see `peft`.
    suffix: What its stand-ins end in.
  """
  yield f'_LoRAEinsum_{suffix}', None
  for i, name in enumerate(_weights.parts(module)):
    yield f'_LoRAEinsum_{name}', i


def adapt(
  eqn: str,
  y: jax.Array,
  x: jax.Array,
  stored: Stored,
  lora: Mapping[str, Any],
  *,
  part: int | None,
  rng: jax.Array | None,
) -> jax.Array:
  """The product with an adapter added.

  Args:
    eqn: The einsum.
    y: The product.
    x: Activations.
    stored: The weight.
    lora: Its adapter, or that of a part of it.
    part: Which part that is; None for all.
    rng: Random key for dropout, if there is to be some.
  """
  if part is None:
    return _factors.adapt(y, x, lora, _layer(eqn, stored, x.dtype), rng)
  axis = eqn.split(',')[1][0]
  index = *(slice(None),) * eqn.split('->')[1].index(axis), part
  layer = _layer(eqn.replace(axis, ''), stored.part(part), x.dtype)
  return y.at[index].set(_factors.adapt(y[index], x, lora, layer, rng))


def _layer(eqn: str, stored: Stored, dtype: DTypeLike) -> _factors.Layer:
  x_axes, w_axes = eqn.split('->', maxsplit=1)[0].split(',')
  return _factors.Layer(
    summed=tuple(i for i, axis in enumerate(w_axes) if axis in x_axes),
    weight=stored.floats,
    product=functools.partial(stored.project, eqn),
    adapter=functools.partial(_apply, eqn, dtype=dtype),
    spread=functools.partial(_spread, eqn),
  )


def _apply(
  eqn: str, x: jax.Array, lora: Mapping[str, Any], *, dtype: DTypeLike
) -> jax.Array:
  """`x A B` (https://arxiv.org/abs/2106.09685)."""
  a, b = lora[_factors.A], lora[_factors.B]
  inputs, out = eqn.split('->')
  x_axes, w_axes = inputs.split(',')
  summed = ''.join(axis for axis in w_axes if axis in x_axes)
  kept = ''.join(axis for axis in w_axes if axis not in x_axes)
  low = f'{x_axes[:2]}r'
  if b.ndim == 1 + len(kept):
    down = _project.project(f'{x_axes},{summed}r->{low}', x, a, x.dtype)
    return _project.project(f'{low},r{kept}->{out}', down, b, dtype)
  # Per head: one A for each, all share B.
  heads, last = kept[:-1], kept[-1]
  low = f'{x_axes[:2]}{heads}r'
  down = _project.project(f'{x_axes},{w_axes[:-1]}r->{low}', x, a, x.dtype)
  rows = down.reshape(len(x), -1, b.shape[0])
  wide = _project.project(
    f'{x_axes[:2]}r,r{last}->{x_axes[:2]}{last}', rows, b, dtype
  )
  wide = wide.reshape(*down.shape[:-1], -1)
  axes = x_axes[:2] + kept
  return wide.transpose([axes.index(axis) for axis in out])


def _spread(eqn: str, gain: jax.Array) -> jax.Array:
  """Numbers for each output of a weight, with the axes of the product."""
  inputs, out = eqn.split('->')
  w_axes = inputs.split(',')[1]
  kept = [axis for axis in w_axes if axis in out]
  narrow = gain.reshape(
    [n for n, axis in zip(gain.shape, w_axes, strict=True) if axis in out]
  )
  narrow = narrow.transpose([kept.index(axis) for axis in out if axis in kept])
  others = [i for i, axis in enumerate(out) if axis not in kept]
  return jnp.expand_dims(narrow, others)
