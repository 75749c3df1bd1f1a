"""Where arrays lie."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
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


def zeros(like: Callable[[], Any], sharding: Any) -> Any:
  """Zeros that are made where they belong, without a copy elsewhere.

  Args:
    like: Makes the same in one place; it is asked for its shapes alone.
    sharding: As of `place`.
  """
  if not callable(sharding):
    return place(like(), sharding)
  paths: list[str] = []
  structures: list[Any] = []

  def leaves() -> list[Any]:
    flat, structure = jax.tree_util.tree_flatten_with_path(like())
    structures.append(structure)
    keystr = jax.tree_util.keystr
    paths.extend(keystr(p, simple=True, separator='/') for p, _ in flat)
    return [x for _, x in flat]

  # A dict: trees with fields of their own take arrays and nothing else.
  found = jax.eval_shape(leaves)
  shapes = dict(zip(paths, found, strict=True))
  shardings = sharding(shapes)
  if not isinstance(shardings, dict):
    shardings = dict.fromkeys(shapes, shardings)
  made = [
    jnp.zeros(x.shape, x.dtype, device=_automatic(shardings[path]))
    for path, x in shapes.items()
  ]
  return jax.tree.unflatten(structures[0], made)


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
