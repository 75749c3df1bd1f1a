"""Which weights are made into integers while a checkpoint is read."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax

from gemma.gm.ckpts import _targets
from gemma.gm.ckpts import _tree
from gemma.gm.nn import _per_layer
from gemma.peft import _quantization
from gemma.peft import _weights

# Tables, and what stands in for each; the rows of a layer have their own scale.
_TABLES = (
  (_weights.Weight(('embedder', 'input_embedding'), (1,)), '0'),
  *(
    (_weights.Weight(('embedder', name), (2,)), name)
    for name in _per_layer.TABLES
  ),
)
_KERNEL, _SCALE = 'kernel', 'scale'


@dataclasses.dataclass(frozen=True)
class Integers:
  """What one weight becomes.

  Attributes:
    weight: The weight.
    method: How it is rounded.
    place: Where the integers and the scales go.
    sharding: How the scales are sharded; by default as the weight.
  """

  weight: _weights.Weight
  method: str
  place: _tree.Path
  sharding: jax.sharding.Sharding | None = None

  def make(
    self, x: Any, target: jax.ShapeDtypeStruct
  ) -> dict[_tree.Path, jax.Array]:
    """The integers and the scales, placed as the weight would have been.

    Args:
      x: The weight: an array, or a `Source`.
      target: Dtype of the scales, and sharding of the integers.
    """
    summed = self.weight.summed
    if isinstance(x, jax.Array):
      x = x.astype(target.dtype)
      kernel, scale = _quantization.quantize_array(x, summed, self.method)
    else:
      kernel, scale = x.quantize(summed, self.method, target.dtype)
    sharding = self.sharding or _without(target.sharding, summed)
    return {
      (*self.place, _KERNEL): jax.device_put(kernel, target.sharding),
      (*self.place, _SCALE): jax.device_put(scale, sharding),
    }


def plan(
  shapes: _targets.Shapes, method: str | bool
) -> dict[_tree.Path, Integers]:
  """All weights of the text model, the embedding tables too.

  Args:
    shapes: The parameters, by NESTED path.
    method: `'int8'` or `'int4'`; True is `'int8'`.

  Raises:
    ValueError: If there is no such method.
  """
  name = 'int8' if method is True else str(method or 'none').lower()
  if name == _quantization.QuantizationMethod.NONE:
    return {}
  _quantization.integers_of(name)
  return {
    weight.path: Integers(weight, name, place)
    for weight, place in _places(shapes)
  }


def plan_of(
  stored: _targets.Shapes, given: _targets.Shapes
) -> tuple[_targets.Shapes, dict[_tree.Path, Integers]]:
  """What a tree with integers in it asks for.

  Args:
    stored: The parameters of the checkpoint.
    given: The tree. Where it has integers, the checkpoint may have the weight.

  Returns:
    The tree with weights in place of integers, and what they become.
  """
  plain, found = dict(given), {}
  for weight, place in _places(stored):
    kernel, scale = (*place, _KERNEL), (*place, _SCALE)
    if kernel not in given or scale not in given:
      continue
    ints, scales = plain.pop(kernel), plain.pop(scale)
    found[weight.path] = Integers(
      weight, str(ints.dtype), place, scales.sharding
    )
    plain[weight.path] = jax.ShapeDtypeStruct(
      ints.shape, scales.dtype, sharding=ints.sharding
    )
  return plain, found


def integers_like(
  params: Mapping[str, Any], method: str | bool
) -> dict[str, Any]:
  """The tree of structs that asks for integers in place of given weights.

  Args:
    params: Weights or their shapes, NESTED.
    method: As of `plan`.
  """
  shapes = _targets.shapes_of(params)
  for path, integers in plan(shapes, method).items():
    x = shapes.pop(path)
    dtype, _ = _quantization.integers_of(integers.method)
    summed = integers.weight.summed
    ones = [1 if i in summed else size for i, size in enumerate(x.shape)]
    shapes[(*integers.place, _KERNEL)] = jax.ShapeDtypeStruct(
      x.shape, dtype, sharding=x.sharding
    )
    shapes[(*integers.place, _SCALE)] = jax.ShapeDtypeStruct(
      ones, x.dtype, sharding=_without(x.sharding, summed)
    )
  return _tree.nest(shapes)


def _places(
  shapes: _targets.Shapes,
) -> list[tuple[_weights.Weight, _tree.Path]]:
  text = {
    path: x for path, x in shapes.items() if not _targets.is_multimodal(path)
  }
  tree: Mapping[str, Any] = _tree.nest(text)
  places = [
    (weight, weight.stand_in('IntEinsum'))
    for weight in _weights.roundable(tree)
  ]
  return places + [
    (table, (*table.path[:-1], f'_IntEmbedder_{name}'))
    for table, name in _TABLES
    if table.path in shapes
  ]


def _without(sharding: Any, summed: tuple[int, ...]) -> Any:
  """The sharding of scales, whose summed axes have one element."""
  if not isinstance(sharding, jax.sharding.NamedSharding):
    return sharding
  spec = [None if i in summed else x for i, x in enumerate(sharding.spec)]
  return jax.sharding.NamedSharding(
    sharding.mesh, jax.sharding.PartitionSpec(*spec)
  )
