"""Leaves of a run's state: what they are, their pieces, and back in place."""

from collections.abc import Callable
from collections.abc import Iterator
import math
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gemma.gm.ckpts import _run_values

# The part of an array that is asked for, as JAX says it; None for all of it.
Index = tuple[slice, ...] | None
Read = Callable[[Index], np.ndarray]


class Piece(NamedTuple):
  """A box of an array.

  Attributes:
    start: The index of its first element.
    values: Its elements.
  """

  start: tuple[int, ...]
  values: np.ndarray


def flatten(state: Any) -> dict[str, Any]:
  """The leaves by the expression that reaches them, such as `state['w']`."""
  pairs = jax.tree_util.tree_flatten_with_path(state)[0]
  return {f'state{jax.tree_util.keystr(path)}': x for path, x in pairs}


def describe(leaf: Any, name: str) -> dict[str, Any]:
  """What a checkpoint writes about a leaf, without the numbers of an array.

  Args:
    leaf: An array, random key, Python value or `jax.ShapeDtypeStruct`.
    name: What to call it in an error.

  Returns:
    A dict for JSON. `type` is all that must agree for a leaf to be restored.

  Raises:
    TypeError: If such a leaf cannot be saved.
  """
  if not _is_array(leaf):
    value = _run_values.encode(leaf, name)
    return {'type': type(leaf).__name__, 'value': value}
  about = {'type': f'{leaf.dtype}[{",".join(map(str, leaf.shape))}]'}
  if _is_key(leaf):
    return about
  dtype = _run_values.dtype_name(np.dtype(leaf.dtype), name)
  return about | {'dtype': dtype, 'shape': list(leaf.shape)}


def describe_values(leaf: Any, name: str) -> dict[str, Any]:
  """The same, and for random keys how their words are stored."""
  about = describe(leaf, name)
  if not _is_key(leaf):
    return about
  words = describe(jax.random.key_data(leaf), name)
  return words | about | {'impl': str(jax.random.key_impl(leaf))}


def pieces(leaf: Any, *, copy: bool, first_process: bool) -> Iterator[Piece]:
  """The parts of an array that this process has to write.

  Over all processes each element comes once. An array that one process holds
  in full is the same on all of them, so the first writes it.

  Args:
    leaf: A leaf. If it is no array, it has no pieces.
    copy: Whether to copy what is in host memory already.
    first_process: Whether this is process 0.
  """
  if not _is_array(leaf):
    return
  if not isinstance(leaf, jax.Array):
    if first_process:
      values = np.array(leaf, copy=copy or None)
      yield Piece((0,) * values.ndim, values)
    return
  if _is_key(leaf):
    leaf = jax.random.key_data(leaf)
  if leaf.is_fully_addressable and not first_process:
    return
  for shard in leaf.addressable_shards:
    if shard.replica_id == 0:
      start = bounds(shard.index, leaf.shape)[0]
      yield Piece(start, np.array(shard.data, copy=copy or None))


def bounds(
  index: Index, shape: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """The first index of a part, and the one behind its last."""
  if index is None:
    return (0,) * len(shape), shape
  ranges = [s.indices(n) for s, n in zip(index, shape, strict=True)]
  return tuple(r[0] for r in ranges), tuple(r[1] for r in ranges)


def problems(stored: dict[str, Any], like: dict[str, Any]) -> list[str]:
  """Why a checkpoint cannot be restored as `like`; a line for each leaf.

  Args:
    stored: What the checkpoint says about its leaves, by name.
    like: The leaves that are wanted, by name.
  """
  wanted = {name: describe(x, name)['type'] for name, x in like.items()}
  out = [
    f'not in the checkpoint: {name}, {wanted[name]}'
    for name in wanted
    if name not in stored
  ]
  out += [
    f'only in the checkpoint: {name}, {about["type"]}'
    for name, about in stored.items()
    if name not in wanted
  ]
  for name, kind in wanted.items():
    if name in stored and stored[name]['type'] != kind:
      out.append(f'{stored[name]["type"]} in the checkpoint: {name}, {kind}')
    elif _needs_x64(like[name]):
      out.append(
        f'needs jax_enable_x64, or a NumPy array in `like`: {name}, {kind}'
      )
  return out


def restore(about: dict[str, Any], read: Read, like: Any) -> Any:
  """A leaf from a checkpoint, placed as `like` is.

  Args:
    about: What `describe_values` said.
    read: Gives a part of the stored array, in memory of its own.
    like: An array, random key, Python value or `jax.ShapeDtypeStruct`.
  """
  if 'value' in about:
    return _run_values.decode(about['value'])
  shape = tuple(about['shape'])
  if isinstance(like, np.ndarray):
    return read(None)
  if isinstance(like, np.generic):
    return read(None)[()]
  sharding = like.sharding
  if isinstance(like, jax.Array) and not like.committed:
    sharding = None  # Free to go wherever the arrays beside it are.
  if 'impl' in about:
    words = jnp.asarray(read(None))
    if isinstance(sharding, jax.sharding.NamedSharding):
      # The same for words, which have an axis more: between processes, JAX
      # moves these, but no keys.
      words = jax.device_put(words, sharding)
      return jax.random.wrap_key_data(words, impl=about['impl'])
    keys = jax.random.wrap_key_data(words, impl=about['impl'])
    return keys if sharding is None else jax.device_put(keys, sharding)
  if sharding is None:
    out = jnp.asarray(read(None))
  else:
    out = jax.make_array_from_callback(shape, sharding, read)
  return _weak(out) if like.weak_type else out


def size(shape: list[int]) -> int:
  return math.prod(shape)


def _is_array(leaf: Any) -> bool:
  return isinstance(
    leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct
  )


def _is_key(leaf: Any) -> bool:
  return _is_array(leaf) and jax.dtypes.issubdtype(
    leaf.dtype, jax.dtypes.prng_key
  )


def _needs_x64(leaf: Any) -> bool:
  return (
    isinstance(leaf, jax.ShapeDtypeStruct)
    and not _is_key(leaf)
    and jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype
  )


@jax.jit
def _weak(x: jax.Array) -> jax.Array:
  """The same numbers, which promote as a Python number does."""
  python = {'i': 0, 'f': 0.0, 'c': 0j}.get(np.dtype(x.dtype).kind)
  # Python has no number that becomes any other kind, so none is weak.
  return x if python is None else jnp.full(x.shape, python).at[...].set(x)
