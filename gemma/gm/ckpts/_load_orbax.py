"""Orbax checkpoints in, each array straight into its dtype and its shards."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np

from gemma.gm.ckpts import _layouts
from gemma.gm.ckpts import _targets
from gemma.gm.ckpts import _tree

Path = _tree.Path
_BATCH = 2**30  # Bytes that are read at once, and shown as progress.


@dataclasses.dataclass(frozen=True)
class Stored:
  """A checkpoint whose metadata is known.

  Attributes:
    folder: The folder with the arrays.
    arrays: Shape and dtype of each stored array.
    places: Where each NESTED parameter is.
  """

  folder: Any
  arrays: _targets.Shapes
  places: dict[Path, _layouts.Place]

  @functools.cached_property
  def shapes(self) -> _targets.Shapes:
    """Shape and dtype of each NESTED parameter."""
    return {
      path: place.take(self.arrays[place.path])
      for path, place in self.places.items()
    }

  def read(
    self,
    targets: Mapping[Path, jax.ShapeDtypeStruct],
    finish: _targets.Finish,
    on_progress: Callable[[int, int], None] | None = None,
    concurrent_gb: int | None = None,
  ) -> dict[Path, jax.Array]:
    """The parameters that are asked for; nothing else is read.

    Args:
      targets: For NESTED paths, the dtype and the sharding to read into.
      finish: What makes the arrays of the result from one that was read.
      on_progress: Called with bytes done and bytes in all.
      concurrent_gb: How much may be in host memory at a time.

    Raises:
      ValueError: If files are damaged or missing; lists the arrays.
    """
    needs: dict[Path, list[Path]] = {}  # Parameters by the array they are in.
    for path in targets:
      needs.setdefault(self.places[path].path, []).append(path)
    total = sum(_nbytes(self.arrays[path]) for path in needs)
    done = 0
    out: dict[_tree.Path, jax.Array] = {}
    for batch in _batches({path: self.arrays[path] for path in needs}):
      request = {
        path: _request(self, path, [targets[name] for name in needs[path]])
        for path in batch
      }
      arrays = _restore(self.folder, request, concurrent_gb)
      for path in batch:
        array = arrays.pop(path)
        for name in needs[path]:
          index = self.places[name].index
          part = array if index is None else _slice(array, index)
          out |= finish(name, part)
        done += _nbytes(self.arrays[path])
      if on_progress is not None:
        on_progress(done, total)
    return out


def open_orbax(folder: Any) -> Stored:
  """What is in a checkpoint; no array is read.

  Args:
    folder: Its folder; that of a trainer's step too.

  Raises:
    ValueError: If the metadata is damaged, or lists what is no array.
  """
  from etils import epath
  import orbax.checkpoint as ocp

  if not (folder / '_METADATA').exists() and (folder / 'default').is_dir():
    folder = folder / 'default'  # A step of a trainer holds several items.
  try:
    handler = ocp.PyTreeCheckpointHandler()
    tree = handler.metadata(epath.Path(folder)).tree
  except Exception as e:  # Orbax has no class for what is damaged.
    raise ValueError(
      f'The metadata of {folder} is damaged or incomplete '
      f'({_reason(e)}). Copy or download the checkpoint again.'
    ) from e
  entries = _tree.leaves(tree)
  places = _layouts.places(_layouts.detect(tree), entries)
  wanted = {place.path: entries[place.path] for place in places.values()}
  odd = {
    '/'.join(path): type(leaf).__name__
    for path, leaf in wanted.items()
    if getattr(leaf, 'shape', None) is None
    or getattr(leaf, 'dtype', None) is None
  }
  if odd or not wanted:
    raise ValueError(f'{folder} has no arrays, or more than arrays: {odd}.')
  arrays = {
    path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    for path, leaf in wanted.items()
  }
  return Stored(folder, arrays, places)


def _batches(arrays: _targets.Shapes) -> Iterator[list[Path]]:
  batch: list[Path] = []
  size = 0
  for path, x in arrays.items():
    if batch and size + _nbytes(x) > _BATCH:
      yield batch
      batch, size = [], 0
    batch.append(path)
    size += _nbytes(x)
  if batch:
    yield batch


def _request(
  stored: Stored, path: Path, targets: list[jax.ShapeDtypeStruct]
) -> jax.ShapeDtypeStruct:
  """How to read an array that has one parameter, or slices for several."""
  x, first = stored.arrays[path], targets[0]
  # Orbax has to be told.
  sharding = first.sharding or jax.sharding.SingleDeviceSharding(
    jax.local_devices()[0]
  )
  if x.shape == first.shape:
    return jax.ShapeDtypeStruct(x.shape, first.dtype, sharding=sharding)
  same = len({target.dtype for target in targets}) == 1
  if isinstance(sharding, jax.sharding.NamedSharding):
    spec = jax.sharding.PartitionSpec(None, *sharding.spec)
    sharding = jax.sharding.NamedSharding(sharding.mesh, spec)
  elif not isinstance(sharding, jax.sharding.SingleDeviceSharding):
    sharding = _targets.replicated() or sharding
  dtype = first.dtype if same else x.dtype
  return jax.ShapeDtypeStruct(x.shape, dtype, sharding=sharding)


def _restore(
  folder: Any, request: _targets.Shapes, concurrent_gb: int | None
) -> dict[Path, jax.Array]:
  try:
    return _restore_some(folder, request, concurrent_gb)
  except Exception as e:  # Orbax has no class for what is damaged.
    error = e
  # Which arrays are damaged? Only reading each on its own tells.
  problems = []
  for path, x in request.items():
    try:
      _targets.release_memory(_restore_some(folder, {path: x}, concurrent_gb))
    except Exception as e:
      problems.append(f'{"/".join(path)}: {_reason(e)}')
  if not problems:  # Together they fail, alone they do not: no damage.
    raise error
  raise ValueError(
    f'{len(problems)} arrays in {folder} are damaged, or their files are '
    'missing. Copy or download the checkpoint again. Not readable:\n  '
    + '\n  '.join(problems)
  ) from error


def _reason(error: BaseException) -> str:
  """What TensorStore says, without the pages of its settings."""
  while error.__cause__ is not None:
    error = error.__cause__
  text = ' '.join(str(error).split(' [tensorstore_spec=')[0].split())
  return f'{type(error).__name__}: {text[:300]}'


def _restore_some(
  folder: Any, request: _targets.Shapes, concurrent_gb: int | None
) -> dict[Path, jax.Array]:
  import orbax.checkpoint as ocp

  handler = ocp.PyTreeCheckpointHandler(restore_concurrent_gb=concurrent_gb)
  tree = _tree.nest(request)
  args = ocp.args.PyTreeRestore(
    item=tree,
    restore_args=ocp.checkpoint_utils.construct_restore_args(tree),
    partial_restore=True,
  )
  with ocp.Checkpointer(handler) as checkpointer:
    return _tree.leaves(checkpointer.restore(folder, args=args))


@jax.jit
def _slice(stack: jax.Array, index: int | jax.Array) -> jax.Array:
  return jax.lax.dynamic_index_in_dim(stack, index, keepdims=False)


def _nbytes(x: jax.ShapeDtypeStruct) -> int:
  return math.prod(x.shape) * np.dtype(x.dtype).itemsize
