"""One door for every format that weights are read from."""

from collections.abc import Mapping
import os
import pathlib
from typing import Any

import jax

from gemma.gm.ckpts import _load_hf
from gemma.gm.ckpts import _load_orbax
from gemma.gm.ckpts import _orbax
from gemma.gm.ckpts import _paths
from gemma.gm.ckpts import _quantize
from gemma.gm.ckpts import _targets
from gemma.gm.ckpts import _tree


def load_params(
  path: str | os.PathLike[str],
  *,
  params: Mapping[str, Any] | None = None,
  donate: bool = True,
  text_only: bool = False,
  sharding: _targets.ShardingTree = None,
  quantize: bool | str = False,
  restore_concurrent_gb: int | None = None,
  dtype: Any = None,
  on_progress: _load_hf.OnProgress | None = None,
) -> dict[str, Any]:
  """Reads the weights of a checkpoint, whatever its format and layout.

  Everything is checked before any array is read or freed. What is not asked
  for, such as a vision encoder or the state of an optimizer, is not read.

  ```python
  >>> from gemma import gm
  >>> path = gm.ckpts.CheckpointPath.GEMMA3_TINY_IT
  >>> params = gm.ckpts.load_params(path, dtype='float32')
  >>> params['final_norm']['scale'].dtype
  dtype('float32')

  ```

  Into the tree of a model, with its dtypes and shardings:

  ```python
  >>> params = gm.ckpts.load_params(path, params=params)

  ```

  Args:
    path: A Hugging Face folder, here or as `hf://org/name[@revision]`; or an
      Orbax checkpoint: of parameters in any layout, or a step of a trainer.
    params: Arrays or `jax.ShapeDtypeStruct`s, NESTED. The result has their
      structure, dtypes and shardings.
    donate: Whether to free the arrays of `params` when all is checked, before
      reading.
    text_only: Whether to leave out what serves images and audio only. It is
      left out too if `params` has none of it.
    sharding: Where the parameters go: a `jax.sharding.Sharding`, a tree of
      them, or a function from the tree of shapes to one of these (as
      `kd.sharding.FSDPSharding()`). By default whole on each device.
    quantize: `'int8'` or `'int4'` rounds the weights of the text model while
      they are read (True: `'int8'`), see `peft.quantize`; the embedding table
      too. `params` with integers in it does the same for those.
    restore_concurrent_gb: How much of an Orbax checkpoint may be in host
      memory at a time.
    dtype: Dtype of the parameters; as stored by default. The projections of
      images and audio are float32 always.
    on_progress: Called with bytes read and bytes in all.

  Returns:
    The parameters in the NESTED layout: what `model.init(...)['params']` gives.

  Raises:
    FileNotFoundError: If there is no such folder, or a file is missing.
    ValueError: If arguments exclude each other; if the folder is no checkpoint;
      if tensors are damaged, missing, unknown or mis-shaped: all are listed.
  """
  given = _given(params, sharding, dtype, text_only, quantize)
  text_only = text_only or _is_text(given)
  stored = _open(_paths.existing_folder(path), text_only)
  if given is None:
    targets = _targets.from_stored(
      stored.shapes, dtype=dtype, text_only=text_only, sharding=sharding
    )
    names = {there: there for there in targets}
    integers = _quantize.plan(targets, quantize)
  else:
    given, integers = _quantize.plan_of(stored.shapes, given)
    found = _targets.match(stored.folder, stored.shapes, given)
    names = {there: path for path, there in found.items()}
    targets = {found[path]: x for path, x in _targets.placed(given).items()}
  if donate:
    _targets.release_memory(params)

  def finish(there: _tree.Path, x: Any) -> dict[_tree.Path, jax.Array]:
    if there in integers:
      return integers[there].make(x, targets[there])
    return {names[there]: _targets.place(x, targets[there])}

  limit = restore_concurrent_gb
  return _tree.nest(stored.read(targets, finish, on_progress, limit))


def _open(folder: Any, text_only: bool) -> _load_hf.Stored | _load_orbax.Stored:
  if isinstance(folder, pathlib.Path) and _load_hf.is_hf_folder(folder):
    return _load_hf.open_hf(folder, text_only=text_only)
  if not _orbax.is_orbax_folder(folder):
    raise ValueError(_no_checkpoint(folder))
  return _load_orbax.open_orbax(folder)


def _given(
  params: Mapping[str, Any] | None,
  sharding: _targets.ShardingTree,
  dtype: Any,
  text_only: bool,
  quantize: bool | str,
) -> _targets.Shapes | None:
  """Shapes of `params`, after a check of what goes with them."""
  if params is None:
    return None
  _targets.check_nested(params)
  others = {'sharding': sharding, 'dtype': dtype, 'quantize': quantize or None}
  for name, value in others.items():
    if value is not None:
      raise ValueError(
        f'`params` and `{name}` are mutually exclusive: the result has the '
        f'{name} of `params`. Leave one of them out.'
      )
  shapes = _targets.shapes_of(params)
  if text_only and not _is_text(shapes):
    names = ['/'.join(path) for path in shapes if _targets.is_multimodal(path)]
    raise ValueError(
      f'text_only=True, but `params` has multimodal parameters: {names}. Leave '
      'one of them out.'
    )
  return shapes


def _is_text(shapes: _targets.Shapes | None) -> bool:
  return shapes is not None and not any(map(_targets.is_multimodal, shapes))


def _no_checkpoint(folder: Any) -> str:
  if (folder / 'config.json').exists():
    return (
      f'{folder} is a Hugging Face folder in a bucket. Its files are mapped '
      'into memory, so download it, and give its local path.'
    )
  found = sorted(file.name for file in folder.iterdir())
  steps = [name for name in found if _orbax.is_orbax_folder(folder / name)]
  if steps:
    return (
      f'{folder} holds several checkpoints: {steps}. Give one of them, such as '
      f'{folder / steps[-1]}.'
    )
  return (
    f'{folder} is no checkpoint: neither a config.json (Hugging Face) nor a '
    f'_METADATA or _CHECKPOINT_METADATA (Orbax) is in it, only {found[:10]}. '
    'No item metadata found.'
  )
