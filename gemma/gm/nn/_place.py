"""Where arrays lie."""

from typing import Any

import jax
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding


def place(tree: Any, sharding: Any) -> Any:
  """Puts arrays where they belong.

  Args:
    tree: Arrays whose first axis counts rows.
    sharding: None leaves them; a `jax.sharding.Sharding` is that of every
      array; a function makes shardings from the arrays.

  Raises:
    ValueError: If the rows do not divide among the devices.
  """
  if sharding is None:
    return tree
  if callable(sharding):
    sharding = sharding(tree)
  shardings = jax.tree.map(_automatic, sharding)
  try:
    return jax.device_put(tree, shardings)
  except ValueError as e:
    shapes = sorted({x.shape for x in jax.tree.leaves(tree)})
    raise ValueError(
      f'Arrays of shapes {shapes[:4]} do not divide as {sharding} asks. Give '
      'as many prompts as devices, or a multiple.'
    ) from e


def automatic(tree: Any) -> Any:
  """The same arrays, on meshes whose axes the compiler takes care of.

  `jax.make_mesh` makes axes that every operation must mention. Nothing moves.
  """

  def leaf(x: Any) -> Any:
    sharding = getattr(x, 'sharding', None)
    wanted = _automatic(sharding)
    return x if wanted is sharding else jax.device_put(x, wanted)

  return jax.tree.map(leaf, tree)


def _automatic(sharding: Any) -> Any:
  if not isinstance(sharding, NamedSharding):
    return sharding
  mesh = sharding.mesh
  if not isinstance(mesh, Mesh) or AxisType.Explicit not in mesh.axis_types:
    return sharding
  types = (AxisType.Auto,) * len(mesh.axis_names)
  mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=types)
  return NamedSharding(mesh, sharding.spec)
