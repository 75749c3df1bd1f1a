"""The weights that adapters and integers stand in for, by Gemma's names.

Axes: N query heads, K kv heads, D model, H head_dim, F hidden, C parts of a
fused weight, E experts, P width of a per-layer input.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
from typing import Any

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
_KERNEL = 'kernel'  # The weight of Flax's own layers.
_INTEGERS = '_IntEinsum_'
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
  """

  path: Path
  summed: tuple[int, ...]

  @property
  def of_experts(self) -> bool:
    """Whether it is one weight of all experts."""
    module = self.path[-2] if len(self.path) > 1 else ''
    return module in _EXPERTS and self.summed == _EXPERTS[module][1]

  def stand_in(self, kind: str) -> Path:
    """The module that stands in for it, as `IntEinsum` does."""
    name = '0' if self.path[-1] not in _LEAVES else self.path[-1]
    return (*self.path[:-1], f'_{kind}_{name}')

  @property
  def adapter(self) -> Path:
    """Where its adapter is, `{'a': ..., 'b': ...}`."""
    if self.path[-1] == _KERNEL:
      return (*self.path[:-1], _tree.LORA)
    return (*self.stand_in('LoRAEinsum'), _tree.LORA)


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
      yield Weight(here, _summed(here, value.shape, params))


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
    elif name == _KERNEL and len(value.shape) in (2, 3):
      heads = here[-2:-1] == ('out',) and len(value.shape) == 3  # NHD
      yield Weight(here, (0, 1) if heads else (0,))


def as_plain(params: Mapping[str, Any]) -> dict[str, Any]:
  """A tree with integers at the places of the weights they stand in for."""
  plain = {}
  for name, value in params.items():
    if name.startswith(_INTEGERS):
      weight = name.removeprefix(_INTEGERS)
      plain[weight if weight in _LEAVES else 'w'] = value[_KERNEL]
    else:
      plain[name] = as_plain(value) if isinstance(value, Mapping) else value
  return plain


def without_media(params: Mapping[str, Any]) -> dict[str, Any]:
  """A tree without what serves images and audio only."""
  return {
    name: without_media(value) if isinstance(value, Mapping) else value
    for name, value in params.items()
    if name not in _MEDIA
  }


def _summed(
  path: Path, shape: tuple[int, ...], siblings: Mapping[str, Any]
) -> tuple[int, ...]:
  name = path[-1]
  if name == 'gating_einsum':
    # CDF, but some sizes store CFD. The weight beside it is FD.
    beside = siblings.get('linear')
    same = beside is not None and shape[1:] == beside.shape
    return (2,) if same and shape[1] != shape[2] else (1,)
  if name not in _LEAVES:
    name = path[-2] if len(path) > 1 else name
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
