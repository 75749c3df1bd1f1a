"""Which part of an array each device holds and computes.

Arrays have logical axes, meshes have axes of devices, and `AXES` says which go
together. A mesh in JAX's own context (`jax.set_mesh`), whose axes have these
names, is all that computations need to know; without one, nothing here does
anything. Compilers are told where activations lie; what they are known to
divide badly (products with weights, attention, tables, experts) is computed
part by part.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec
from jaxtyping import Array
from jaxtyping import Shaped

# A mesh has some of these. Each batch is divided among the first three: devices
# that hold parts of the weights (`fsdp`, `expert`) have rows of their own too.
MESH_AXES = 'data', 'fsdp', 'expert', 'sequence', 'tensor'


class Placement(NamedTuple):
  """Mesh axes that divide a logical axis; the first that fit are used.

  Attributes:
    weights: Of parameters, and of what optimizers keep of them.
    activations: Of all else.
  """

  weights: tuple[str, ...] = ()
  activations: tuple[str, ...] = ()


_TENSOR = Placement(('tensor',), ('tensor',))
AXES: Mapping[str, Placement] = {
  'batch': Placement((), ('data', 'fsdp', 'expert')),
  'length': Placement((), ('sequence',)),
  'vocab': _TENSOR,
  'embed': Placement(('fsdp',), ()),
  'heads': _TENSOR,
  'kv_heads': _TENSOR,
  'head_dim': Placement(),
  'mlp': _TENSOR,
  'expert': Placement(('expert',), ()),  # See `_experts`.
  'layers': Placement(),
  # The length of the residual stream, which heads need whole: those that share
  # it keep a part each between them (https://arxiv.org/abs/2205.05198).
  'stream': Placement((), ('sequence', 'tensor')),
}

# Logical axes by the letters that einsums of this library have for them.
LETTERS: Mapping[str, str] = {
  'B': 'batch',
  'L': 'length',
  'T': 'length',
  'V': 'vocab',
  'D': 'embed',
  'N': 'heads',
  'K': 'kv_heads',
  'H': 'head_dim',
  'F': 'mlp',
  'E': 'expert',
}


def sizes() -> dict[str, int]:
  """Devices along each axis of the mesh in context, where there are several.

  Nothing inside of `run_local`, where every device is on its own.
  """
  mesh = jax.sharding.get_abstract_mesh()
  kinds = zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
  return {
    name: size
    for name, size, kind in kinds
    if name in MESH_AXES and size > 1 and kind == AxisType.Auto
  }


def on_cpu() -> bool:
  """Whether devices, those of the mesh in context if there is one, are CPUs."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  kind = jax.default_backend() if device is None else device.device_kind
  return kind == 'cpu'


def spec(shape: Sequence[int], axes: Iterable[str | None]) -> PartitionSpec:
  """How activations of some logical axes are divided.

  Mesh axes that do not divide an axis evenly do not divide it at all.

  Args:
    shape: The shape.
    axes: A logical axis for each, or None.
  """
  names = [() if axis is None else AXES[axis].activations for axis in axes]
  return divide(shape, names, sizes())


def weight_spec(
  shape: Sequence[int], axes: Iterable[str | None]
) -> PartitionSpec:
  """How weights of some logical axes are divided; arguments as `spec`."""
  names = [() if axis is None else AXES[axis].weights for axis in axes]
  return divide(shape, names, sizes())


def divide(
  shape: Sequence[int],
  names: Sequence[Sequence[str]],
  mesh: Mapping[str, int],
) -> PartitionSpec:
  """Divides axes as evenly as mesh axes allow, each of which is used once.

  Args:
    shape: The shape.
    names: Mesh axes that each axis is to be divided by.
    mesh: Devices along each of the mesh's axes.
  """
  used: list[str] = []
  parts: list[str | tuple[str, ...] | None] = []
  for size, wanted in zip(shape, names, strict=True):
    chosen: tuple[str, ...] = ()
    left = size
    for name in wanted:
      if name in mesh and name not in used and left % mesh[name] == 0:
        chosen += (name,)
        left //= mesh[name]
    used += chosen
    parts.append(chosen[0] if len(chosen) == 1 else chosen or None)
  return PartitionSpec(*parts)


def constrain(x: Shaped[Array, '...'], letters: str) -> Shaped[Array, '...']:
  """Tells the compiler where an activation lies, if there is a mesh.

  Args:
    x: The activation.
    letters: A letter for each axis; one that stands for no logical axis is not
      divided. What ends in `D` is the residual stream.
  """
  if not sizes():
    return x
  return jax.lax.with_sharding_constraint(x, stream_spec(x.shape, letters))


def spec_of(shape: Sequence[int], letters: str) -> PartitionSpec:
  """`spec` of axes that are given as letters."""
  return spec(shape, [LETTERS.get(letter) for letter in letters])


def stream_spec(shape: Sequence[int], letters: str) -> PartitionSpec:
  """`spec_of`, for the residual stream too: that is what ends in `D`."""
  axes = [LETTERS.get(letter) for letter in letters]
  if letters[-1:] == 'D':
    axes = ['stream' if axis == 'length' else axis for axis in axes]
  return spec(shape, axes)


def weight_spec_of(shape: Sequence[int], letters: str) -> PartitionSpec:
  """`weight_spec` of axes that are given as letters; not for experts."""
  known = (LETTERS.get(letter) for letter in letters)
  return weight_spec(shape, [x if x != 'expert' else None for x in known])


def run_local(
  fun: Callable[..., Any], in_specs: Any, out_specs: Any
) -> Callable[..., Any]:
  """A function that each device of the mesh runs with its parts alone.

  Args:
    fun: The function. It may talk to others through collectives.
    in_specs: How its arguments are divided, see `jax.shard_map`.
    out_specs: How its results are.
  """
  return jax.shard_map(
    fun, in_specs=in_specs, out_specs=out_specs, check_vma=False
  )


def own_part(x: Shaped[Array, '...'], name: str, axis: int) -> jax.Array:
  """Of what all devices of a mesh axis have, the part of this one.

  For use inside of `run_local`.
  """
  size = x.shape[axis] // jax.lax.axis_size(name)
  first = jax.lax.axis_index(name) * size
  return jax.lax.dynamic_slice_in_dim(x, first, size, axis)


def gathered(x: Shaped[Array, '...'], name: str, axis: int) -> jax.Array:
  """What all devices of a mesh axis have, side by side; see `own_part`."""
  return jax.lax.all_gather(x, name, axis=axis, tiled=True)


def scattered(x: Shaped[Array, '...'], name: str, axis: int) -> jax.Array:
  """The sum over a mesh axis, of which each device keeps a part."""
  return jax.lax.psum_scatter(x, name, scatter_dimension=axis, tiled=True)


def names_of(entry: str | Sequence[str] | None) -> tuple[str, ...]:
  """Mesh axes of one entry of a spec."""
  if entry is None:
    return ()
  return (entry,) if isinstance(entry, str) else tuple(entry)
