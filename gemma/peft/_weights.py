"""The weights that adapters and integers stand in for, by Gemma's names.

Axes: N query heads, K kv heads, D model, H head_dim, F hidden, C parts of a
fused weight, E experts, P width of a per-layer input.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import re
from typing import Any

import jax.numpy as jnp

from gemma.peft import _tree

Path = tuple[str, ...]

# Axes that are summed over when the weight is applied.
_SUMMED = {
  'q_einsum': (1,),  # NDH
  'kv_einsum': (2,),  # CKDH
  'qkv_einsum': (2,),  # CNDH
  'attn_vec_einsum': (0, 1),  # NHD
  'k_einsum': (1,),  # KDH
  'linear': (0,),  # FD
  'per_layer_model_projection': (0,),  # DNP
  'per_layer_input_projection': (0,),
}
# Number of axes, and those that are summed over: ECFD and EFD.
_EXPERTS = {'gating_einsum': (4, (3,)), 'linear': (3, (1,))}
# What picks experts or streams: a small error there is a large one later.
_ROUTERS = 'router_logits', 'modality_router'
_LEAVES = 'gating_einsum', 'linear'  # Arrays without a module of their own.
KERNEL = 'kernel'  # The weight of Flax's own layers.
_INTEGERS = '_IntEinsum_'
SCALE = 'scale'
# Layers that repeat, in one array each, and the layers of a period.
_STACK, _LAYER = re.compile(r'layers_(\d+)_(\d+)'), re.compile(r'layer_(\d+)')
# What Hugging Face calls a weight, or each part of one that is several there.
_PROJECTIONS = {
  'q_einsum': ('q_proj',),
  'k_einsum': ('k_proj',),
  'kv_einsum': ('k_proj', 'v_proj'),
  'qkv_einsum': ('q_proj', 'k_proj', 'v_proj'),
  'attn_vec_einsum': ('o_proj',),
  'gating_einsum': ('gate_proj', 'up_proj'),
  'linear': ('down_proj',),
}
_MEDIA = (
  'vision_encoder',
  'audio_encoder',
  'mm_input_projection',
  'audio_input_projection',
)


@dataclasses.dataclass(frozen=True)
class Weight:
  """A weight of a linear map.

  Attributes:
    path: Where it is.
    summed: Its axes that are summed over when it is applied.
    stacked: Whether its first axis counts layers that repeat.
  """

  path: Path
  summed: tuple[int, ...]
  stacked: bool = False

  @property
  def module(self) -> str:
    """What it is called: by its own name, or by that of its module."""
    return _module(self.path)

  @property
  def of_experts(self) -> bool:
    """Whether it is one weight of all experts."""
    if self.path[-1] in _LEAVES or self.module not in _EXPERTS:
      return False
    summed = tuple(i - self.stacked for i in self.summed)
    return summed == _EXPERTS[self.module][1]

  def stand_in(self, kind: str) -> Path:
    """The module that stands in for it, as `IntEinsum` does."""
    name = '0' if self.path[-1] not in _LEAVES else self.path[-1]
    return (*self.path[:-1], f'_{kind}_{name}')

  @property
  def adapter(self) -> Path:
    """Where its adapter is, `{'a': ..., 'b': ...}`."""
    if self.path[-1] == KERNEL:
      return (*self.path[:-1], _tree.LORA)
    return (*self.stand_in('LoRAEinsum'), _tree.LORA)

  def part_adapter(self, name: str) -> Path:
    """Where the adapter of one of its parts is."""
    return (*self.path[:-1], f'_LoRAEinsum_{name}', _tree.LORA)


def projections(module: str) -> tuple[str, ...]:
  """What Hugging Face calls the parts of a weight, by Gemma's name for it."""
  return _PROJECTIONS.get(module, ())


def parts(module: str) -> tuple[str, ...]:
  """The parts of a weight that is several elsewhere; else nothing.

  They are indices of its first axis, and may have an adapter each.

  Args:
    module: Its name, or that of its module.
  """
  names = projections(module)
  return names if len(names) > 1 else ()


def weights(
  params: Mapping[str, Any], key: str = 'w', path: Path = ()
) -> Iterator[Weight]:
  """All weights of linear maps in a tree; tables and scales are none.

  Args:
    params: Nested dicts of arrays or shapes.
    key: What a module calls its weight.
    path: Where the tree is in the whole.

  Raises:
    ValueError: If it cannot be told which axes of a weight are summed over.
  """
  for name, value in params.items():
    if isinstance(value, Mapping):
      yield from weights(value, key, (*path, name))
    elif name == key or name in _LEAVES:
      here = (*path, name)
      summed = _summed(here, value.shape, params)
      yield Weight(here, summed, is_stacked(here))


def roundable(params: Mapping[str, Any], key: str = 'w') -> Iterator[Weight]:
  """The `weights` that may be stored as integers: all but routers."""
  for weight in weights(params, key):
    if not any(name in _ROUTERS for name in weight.path):
      yield weight


def kernels(params: Mapping[str, Any], path: Path = ()) -> Iterator[Weight]:
  """The weights of `Dense` layers, and of attention as Flax has it.

  Those of convolutions, which have more axes, are left out.

  Args:
    params: Nested dicts of arrays or shapes.
    path: Where the tree is in the whole.
  """
  for name, value in params.items():
    here = (*path, name)
    if isinstance(value, Mapping):
      yield from kernels(value, here)
    elif name == KERNEL and len(value.shape) in (2, 3):
      heads = here[-2:-1] == ('out',) and len(value.shape) == 3  # NHD
      yield Weight(here, (0, 1) if heads else (0,))


def as_plain(params: Mapping[str, Any]) -> dict[str, Any]:
  """A tree with integers at the places of the weights they stand in for."""
  plain = {}
  for name, value in params.items():
    if name.startswith(_INTEGERS):
      weight = name.removeprefix(_INTEGERS)
      plain[weight if weight in _LEAVES else 'w'] = value[KERNEL]
    else:
      plain[name] = as_plain(value) if isinstance(value, Mapping) else value
  return plain


def floats(flat: Mapping[Path, Any], path: Path) -> Any:
  """A weight, or what its integers stand for.

  Args:
    flat: A tree by its paths.
    path: Where the weight is, or would be.
  """
  where = path[:-1] if path in flat else Weight(path, ()).stand_in('IntEinsum')
  kernel = flat.get(path, flat.get((*where, KERNEL)))
  if kernel is None or not jnp.issubdtype(kernel.dtype, jnp.integer):
    return kernel
  scale = flat[(*where, SCALE)]
  wide = kernel.astype(jnp.float32) / scale.astype(jnp.float32)
  return wide.astype(scale.dtype)


def is_stacked(path: Path) -> bool:
  """Whether what is there has a first axis that counts layers."""
  return bool(_STACK.fullmatch(path[0]))


def unstacked(path: Path, repeats: int) -> list[Path]:
  """The paths of layers that repeat, from that of their stack.

  `layers_0_5/layer_1/attn` with 3 repeats: layers 1, 3 and 5.
  """
  stack, place = _STACK.fullmatch(path[0]), _LAYER.fullmatch(path[1])
  if stack is None or place is None:
    raise ValueError(f'{"/".join(path)} is not in a stack of layers.')
  start, last, first = int(stack[1]), int(stack[2]), int(place[1])
  layers = range(start + first, last + 1, (last + 1 - start) // repeats)
  return [(f'layer_{i}', *path[2:]) for i in layers]


def without_media(params: Mapping[str, Any]) -> dict[str, Any]:
  """A tree without what serves images and audio only."""
  return {
    name: without_media(value) if isinstance(value, Mapping) else value
    for name, value in params.items()
    if name not in _MEDIA
  }


def _module(path: Path) -> str:
  leaf = path[-1] in _LEAVES or len(path) == 1
  return path[-1] if leaf else path[-2]


def _summed(
  path: Path, shape: tuple[int, ...], siblings: Mapping[str, Any]
) -> tuple[int, ...]:
  linear = siblings['linear'].shape if 'linear' in siblings else ()
  if not is_stacked(path):
    return _summed_of_layer(path, shape, linear)
  return tuple(i + 1 for i in _summed_of_layer(path, shape[1:], linear[1:]))


def _summed_of_layer(
  path: Path, shape: tuple[int, ...], linear: tuple[int, ...]
) -> tuple[int, ...]:
  """The axes of one layer's weight that are summed over.

  Args:
    path: Where it is.
    shape: Its shape.
    linear: Shape of the weight `linear` beside it; nothing if there is none.
  """
  name = path[-1]
  if name == 'gating_einsum':
    # CDF, but some sizes store CFD. The weight beside it is FD.
    same = shape[1:] == linear
    return (2,) if same and shape[1] != shape[2] else (1,)
  if name not in _LEAVES:
    name = _module(path)
    axes, summed = _EXPERTS.get(name, (0, ()))
    if len(shape) == axes:
      return summed
  if name in _SUMMED:
    return _SUMMED[name]
  if len(shape) == 2:  # In, out.
    return (0,)
  raise ValueError(
    f'{"/".join(path)} {shape}: it is not known which of its axes are summed '
    f'over. Known are {[*_SUMMED, "gating_einsum"]}, and matrices.'
  )
