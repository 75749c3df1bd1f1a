"""Adapters of one weight as tensors of PEFT, and back.

Axes: r rank, i input and o output of a linear map of Hugging Face, whose weight
is `[o, i]`, with `lora_A` `[r, i]`, `lora_B` `[o, r]` and, of DoRA,
`lora_magnitude_vector` `[o]`.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import functools
import re
from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
import numpy as np

from gemma.gm.ckpts import _hf_layout
from gemma.gm.ckpts import _hf_row
from gemma.gm.ckpts import _tree
from gemma.gm.nn import _config
from gemma.gm.nn import _shapes
from gemma.gm.nn import _transformer
from gemma.peft import _factors
from gemma.peft import _weights

_TEXT_ENDS = '/w', '/gating_einsum', '/linear'
_VISION_ENDS = ('/kernel',)
_CONVOLUTION = '/embedding/kernel'
_TENSORS = {'a': 'lora_A.weight', 'b': 'lora_B.weight'}
_MAGNITUDE = 'lora_magnitude_vector'


class Pair(NamedTuple):
  """The adapter of one module of PEFT.

  Attributes:
    a: `lora_A`, `[r, i]`.
    b: `lora_B`, `[o, r]`.
    m: Magnitudes `[o]`, if it is DoRA.
  """

  a: np.ndarray
  b: np.ndarray
  m: np.ndarray | None = None

  def tensors(self, module: str) -> dict[str, np.ndarray]:
    """What PEFT stores."""
    named = {_TENSORS['a']: self.a, _TENSORS['b']: self.b, _MAGNITUDE: self.m}
    return {
      f'{module}.{name}': np.ascontiguousarray(x)
      for name, x in named.items()
      if x is not None
    }


def take(tensors: dict[str, np.ndarray], module: str) -> Pair | None:
  """The adapter of a module, taken out of `tensors`; None if it has none."""
  names = [f'{module}.{name}' for name in _TENSORS.values()]
  if not all(name in tensors for name in names):
    return None
  a, b = (tensors.pop(name).astype(np.float32) for name in names)
  for name in (f'{module}.{_MAGNITUDE}', f'{module}.{_MAGNITUDE}.weight'):
    if name in tensors:
      return Pair(a, b, tensors.pop(name).astype(np.float32).ravel())
  return Pair(a, b)


@dataclasses.dataclass(frozen=True)
class Place:
  """Where an adapter of ours is, and of what it is.

  Attributes:
    row: The weight.
    path: The adapter.
    part: Which of the row's tensors it adapts; None for all.
  """

  row: _hf_row.Row
  path: _tree.Path
  part: int | None = None

  @property
  def modules(self) -> list[str]:
    """The modules of PEFT that it adapts."""
    names = self.row.names if self.part is None else [self.row.names[self.part]]
    return [name.removesuffix('.weight') for name in names]

  def write(self, lora: Mapping[str, np.ndarray]) -> dict[str, Pair]:
    """What PEFT has of an adapter of ours, for each module.

    Raises:
      EinopsError: If it does not fit.
    """
    return {
      module: self._pair(_part(lora, i, self))
      for i, module in enumerate(self.modules)
    }

  def read(self, pairs: list[Pair]) -> dict[str, np.ndarray]:
    """An adapter of ours from those of its modules, which share `lora_A`."""
    out, in_ = self._axes
    inside, outside = in_.strip('()'), out.strip('()')
    parts = {
      'b': [self._arrange(p.b, f'{out} r -> r {outside}') for p in pairs]
    }
    lengths = [p.m for p in pairs if p.m is not None]
    if lengths:
      parts['m'] = [self._arrange(m, f'{out} -> {outside}') for m in lengths]
    lora = {'a': self._arrange(pairs[0].a, f'r {in_} -> {inside} r')}
    for name, each in parts.items():
      axis = int(name == 'b')  # Behind the rank.
      lora[name] = np.stack(each, axis) if len(each) > 1 else each[0]
    return lora

  def _pair(self, lora: Mapping[str, np.ndarray]) -> Pair:
    out, in_ = self._axes
    inside, outside = in_.strip('()'), out.strip('()')
    a, b, m = lora['a'], lora['b'], lora.get('m')
    summed = tuple(range(len(inside.split())))
    if _factors.is_per_head(a.shape, b.shape, summed):
      a, b = (np.asarray(x) for x in _factors.joint(jnp.asarray(a), b))
    return Pair(
      self._arrange(a, f'{inside} r -> r {in_}'),
      self._arrange(b, f'r {outside} -> {out} r'),
      None if m is None else self._arrange(m, f'{outside} -> {out}'),
    )

  @property
  def _axes(self) -> tuple[str, str]:
    """How a weight splits its outputs and its inputs, as einops spells it."""
    weight = (self.row.pattern or 'o i ->').split(' ->', maxsplit=1)[0]
    out, in_ = re.findall(r'\([^)]*\)|\S+', weight)
    return out, in_

  def _arrange(self, x: np.ndarray, pattern: str) -> np.ndarray:
    heads = self.row.heads
    sizes = {'n': heads} if '(n ' in pattern and heads else {}
    return einops.rearrange(x, pattern, **sizes)


def _part(
  lora: Mapping[str, np.ndarray], i: int, place: Place
) -> Mapping[str, np.ndarray]:
  """The adapter of one part, from that of the whole weight."""
  if len(place.modules) == 1:
    return lora
  a, b = lora['a'], lora['b']
  part = {'a': a, 'b': b}
  if a.ndim > 2:  # Per head: each part has its own.
    part['a'] = a[i]
  else:
    part['b'] = b[:, i]
  return part | ({'m': lora['m'][i]} if 'm' in lora else {})


def groups(config: _config.TransformerConfig) -> Iterator[list[Place]]:
  """For each weight of a linear map: its adapter, and those of its parts."""
  for row in _hf_layout.table(config):
    vision = _hf_layout.is_media(row.names[0])
    ends = _VISION_ENDS if vision else _TEXT_ENDS
    if not row.path.endswith(ends) or row.path.endswith(_CONVOLUTION):
      continue
    weight = _weights.Weight(tuple(row.path.split('/')), ())
    group = [Place(row, weight.adapter)]
    if len(row.names) > 1:
      names = _weights.parts(weight.module)
      group += [
        Place(row, weight.part_adapter(name), i) for i, name in enumerate(names)
      ]
    yield group


@functools.lru_cache(maxsize=16)
def sizes(config: _config.TransformerConfig) -> Mapping[str, tuple[int, ...]]:
  """Outputs and inputs of the modules of a model that can have an adapter."""
  model = _transformer.Transformer(config=config)
  shapes = _tree.flatten(_shapes.param_shapes(model))
  found: dict[str, tuple[int, ...]] = {}
  for whole, *_ in groups(config):
    written = jax.eval_shape(whole.row.write, shapes[whole.row.path])
    pairs = zip(whole.modules, written, strict=True)
    found |= {name: weight.shape for name, weight in pairs}
  return found
