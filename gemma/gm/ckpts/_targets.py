"""What a reader should make of each parameter: its dtype, and where it goes.

All checks are here, and all are on names and shapes: nothing is read before a
tree of targets is known to be right.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from gemma.gm.ckpts import _layouts
from gemma.gm.ckpts import _tree

Path = _tree.Path
Shapes = dict[Path, jax.ShapeDtypeStruct]
# None, one for all, a tree of them, or a function that makes one of these.
ShardingTree: TypeAlias = (
  jax.sharding.Sharding
  | Mapping[str, Any]
  | Callable[[Any], Any]
  | object  # UNCOMMITTED.
  | None
)
# Makes arrays of JAX from a parameter that was read, and where they go.
Finish: TypeAlias = Callable[[Path, Any], dict[Path, jax.Array]]

# In place of a sharding: the default device, from where JAX may move arrays.
UNCOMMITTED = object()

_ENCODERS = 'vision_encoder', 'audio_encoder'
_VISION_EMBEDDER = 'mm_input_projection', 'mm_soft_embedding_norm'
_AUDIO_EMBEDDER = 'audio_input_projection', 'audio_soft_embedding_norm'
_AUDIO_TABLE = 'audio_input_embedding'
_MULTIMODAL_EMBEDDER = (
  *_VISION_EMBEDDER,
  *_AUDIO_EMBEDDER,
  _AUDIO_TABLE,
  'mm_pre_projection_norm',
  'mm_hard_embedding_norm',
  'audio_embedding_norm',
  'mm_input_embedding_extra',
  'audio_input_embedding_extra',
)


_KEYS_AND_VALUES = 'kv_einsum', 'k_einsum', 'key_norm', 'value_norm'


def is_multimodal(path: Path) -> bool:
  """Whether a parameter serves images or audio only."""
  if path[0] == 'embedder':
    return len(path) > 1 and path[1] in _MULTIMODAL_EMBEDDER
  return path[0] in _ENCODERS


def is_unused(path: Path, params: Iterable[Path]) -> bool:
  """Whether it makes keys and values of a layer that reads those of another.

  Checkpoints have them or not; no model uses them.
  """
  if len(path) < 3 or path[1] != 'attn' or path[2] not in _KEYS_AND_VALUES:
    return False
  siblings = {other[2] for other in params if other[:2] == path[:2]}
  return bool(siblings) and siblings.isdisjoint(_KEYS_AND_VALUES)


def has_encoder(paths: Iterable[Path]) -> bool:
  return any(path[0] in _ENCODERS for path in paths)


def check_nested(params: Mapping[str, Any]) -> None:
  """Raises unless given parameters are NESTED."""
  layout = _layouts.detect(params)
  if layout is not _layouts.Layout.NESTED:
    raise ValueError(
      f'`params` has the {layout} layout, with keys such as '
      f'{next(iter(params))!r}. Give the tree that the model has: '
      "`model.init(...)['params']`."
    )


def shapes_of(params: Mapping[str, Any]) -> Shapes:
  """Shape, dtype and sharding of given parameters, which may be structs.

  Raises:
    ValueError: If a leaf is no array.
  """
  flat = _tree.leaves(params)
  odd = {
    '/'.join(path): type(leaf).__name__
    for path, leaf in flat.items()
    if not hasattr(leaf, 'shape') or not hasattr(leaf, 'dtype')
  }
  if odd:
    raise ValueError(
      f'`params` has leaves that are no arrays and no jax.ShapeDtypeStruct: '
      f'{odd}.'
    )
  return {
    path: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=getattr(leaf, 'sharding', None)
    )
    for path, leaf in flat.items()
  }


def from_stored(
  stored: Shapes, *, dtype: Any, text_only: bool, sharding: ShardingTree
) -> Shapes:
  """Targets when only a checkpoint is given: what is stored, in its dtype.

  Args:
    stored: The checkpoint, by NESTED path.
    dtype: If set, dtype of all but the projections of images and audio, which
      are float32 always: on GPUs without bfloat16 units they overflow.
    text_only: Whether to leave out what serves images and audio.
    sharding: Where parameters go.

  Raises:
    ValueError: If there is no sharding for a parameter, or it does not divide
      it.
  """
  wide = [('embedder', name) for name in _VISION_EMBEDDER]
  if any(path[:2] == ('embedder', _AUDIO_TABLE) for path in stored):
    wide += [('embedder', name) for name in _AUDIO_EMBEDDER]
  targets = {
    path: jax.ShapeDtypeStruct(
      x.shape, jnp.float32 if path[:2] in wide else dtype or x.dtype
    )
    for path, x in stored.items()
    if not (text_only and is_multimodal(path))
  }
  return placed(targets, sharding)


def match(folder: Any, stored: Shapes, params: Shapes) -> dict[Path, Path]:
  """Which stored parameter is which given one.

  Whether an array is a leaf of its module or called `w` in it differs between
  versions, so both are matched.

  Args:
    folder: The checkpoint, for the error.
    stored: The checkpoint, by NESTED path.
    params: What is given.

  Returns:
    The path in `stored` for each path in `params`.

  Raises:
    ValueError: If they do not fit, with all that is missing, extra or of
      another shape.
  """
  if has_encoder(params) and not has_encoder(stored):
    raise ValueError(
      f'`params` has MM params (a vision or audio encoder), but {folder} has '
      'none. Take a checkpoint with an encoder, or a text-only model.'
    )
  found = {path: _find(path, stored) for path in params}
  text = not any(is_multimodal(path) for path in params)
  used = set(found.values())
  extra = [
    path
    for path in stored
    if path not in used
    and not (text and is_multimodal(path))
    and not is_unused(path, params)
  ]
  problems = [
    f'missing: {"/".join(path)} {params[path].shape}'
    for path, there in found.items()
    if there is None
  ]
  problems += [
    f'extra: {"/".join(path)} {stored[path].shape}' for path in extra
  ]
  matched = {path: there for path, there in found.items() if there is not None}
  problems += [
    f'mis-shaped: {"/".join(path)} is {stored[there].shape} in the checkpoint, '
    f'{params[path].shape} in `params`'
    for path, there in matched.items()
    if stored[there].shape != params[path].shape
  ]
  if problems:
    raise ValueError(
      f'{len(problems)} parameters in {folder} do not fit `params`; is it the '
      'checkpoint of another model?\n  ' + '\n  '.join(problems)
    )
  return matched


def placed(shapes: Shapes, sharding: ShardingTree = None) -> Shapes:
  """The same shapes with a sharding each.

  Args:
    shapes: What to place. Those with a sharding keep it if `sharding` is None.
    sharding: A sharding for all, a tree of them, or a function that makes it
      from the tree of shapes. None: whole on each device. UNCOMMITTED: none.

  Raises:
    ValueError: With all parameters that have no sharding, or one that does not
      divide them.
  """
  default = None if sharding is UNCOMMITTED else replicated()
  problems: list[str] = []
  out = {}
  chosen = _resolve(sharding, _tree.nest(shapes), (), problems)
  for path, x in shapes.items():
    its = chosen.get(path) or x.sharding or default
    out[path] = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=its)
    try:
      if its is not None:
        its.shard_shape(x.shape)
    except ValueError as e:
      problems.append(f'{"/".join(path)} {x.shape}: {e}')
  if problems:
    raise ValueError(
      f'{len(problems)} parameters cannot be placed by `sharding`:\n  '
      + '\n  '.join(problems)
    )
  return out


def place(x: Any, target: jax.ShapeDtypeStruct) -> jax.Array:
  """An array in the dtype and the sharding of its target, if it has one."""
  return jax.device_put(x.astype(target.dtype), target.sharding)


def replicated() -> jax.sharding.Sharding | None:
  """Whole on each device; None if there is one, as nothing needs to be said."""
  devices = jax.devices()
  if len(devices) == 1:
    return None
  mesh = jax.sharding.Mesh(np.array(devices), ('devices',))
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def release_memory(tree: Any) -> Any:
  """Frees the JAX arrays of a tree at once, and returns the tree."""
  for leaf in jax.tree.leaves(tree):
    if isinstance(leaf, jax.Array) and not leaf.is_deleted():
      leaf.delete()
  return tree


def _find(path: Path, stored: Shapes) -> Path | None:
  names = [path, (*path, 'w')]
  if path[-1] == 'w':
    names.append(path[:-1])
  return next((name for name in names if name in stored), None)


def _resolve(
  sharding: Any, tree: Any, path: Path, problems: list[str]
) -> dict[Path, jax.sharding.Sharding]:
  """The sharding of each leaf of a tree; leaves that keep theirs are left."""
  if sharding is None or sharding is UNCOMMITTED:
    return {}
  if isinstance(sharding, jax.sharding.Sharding):
    inner = _tree.leaves(tree) if isinstance(tree, Mapping) else {(): tree}
    return {(*path, *rest): sharding for rest in inner}
  if callable(sharding):
    return _resolve(sharding(tree), tree, path, problems)
  if not isinstance(sharding, Mapping) or not isinstance(tree, Mapping):
    name = '/'.join(path) or '(all)'
    problems.append(f'{name}: {type(sharding).__name__} is no sharding for it')
    return {}
  out: dict[Path, jax.sharding.Sharding] = {}
  for key, subtree in tree.items():
    if key not in sharding:
      problems.append(f'{"/".join((*path, key))}: no sharding given')
      continue
    out |= _resolve(sharding[key], subtree, (*path, key), problems)
  return out
