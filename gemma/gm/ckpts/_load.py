"""One door for every format that weights are read from."""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import os
import pathlib
from typing import Any

import jax

from gemma.gm.ckpts import _load_hf
from gemma.gm.ckpts import _load_orbax
from gemma.gm.ckpts import _orbax
from gemma.gm.ckpts import _paths
from gemma.gm.ckpts import _targets
from gemma.gm.ckpts import _tree
from gemma.gm.nn import _transformer

existing_folder = _paths.existing_folder


def load_params(
  path: str | os.PathLike[str],
  *,
  params: Mapping[str, Any] | None = None,
  donate: bool = True,
  text_only: bool = False,
  sharding: _targets.ShardingTree = None,
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
  given = _given(params, sharding, dtype, text_only)
  text_only = text_only or _is_text(given)
  folder = existing_folder(path)
  if isinstance(folder, pathlib.Path) and _load_hf.is_hf_folder(folder):
    return _read_hf(
      folder,
      params,
      given,
      donate=donate,
      text_only=text_only,
      sharding=sharding,
      dtype=dtype,
      on_progress=on_progress,
    )
  if not _orbax.is_orbax_folder(folder):
    raise ValueError(_no_checkpoint(folder))
  stored = _load_orbax.open_orbax(folder)
  targets, names = _fit(
    folder, stored.shapes, given, dtype, text_only, sharding
  )
  if donate:
    _targets.release_memory(params)
  flat = _load_orbax.read(
    stored,
    {there: targets[path] for path, there in names.items()},
    restore_concurrent_gb=restore_concurrent_gb,
    on_progress=on_progress,
  )
  return _tree.nest({path: flat[there] for path, there in names.items()})


def _given(
  params: Mapping[str, Any] | None,
  sharding: _targets.ShardingTree,
  dtype: Any,
  text_only: bool,
) -> _targets.Shapes | None:
  """Shapes of `params`, after a check of what goes with them."""
  if params is None:
    return None
  _targets.check_nested(params)
  for name, value in {'sharding': sharding, 'dtype': dtype}.items():
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


def _fit(
  folder: Any,
  stored: _targets.Shapes,
  given: _targets.Shapes | None,
  dtype: Any,
  text_only: bool,
  sharding: _targets.ShardingTree,
) -> tuple[_targets.Shapes, dict[_tree.Path, _tree.Path]]:
  """What to make, and under which name each is stored."""
  if given is None:
    targets = _targets.from_stored(
      stored, dtype=dtype, text_only=text_only, sharding=sharding
    )
    return targets, {path: path for path in targets}
  return _targets.placed(given), _targets.match(folder, stored, given)


def _read_hf(
  folder: Any,
  params: Mapping[str, Any] | None,
  given: _targets.Shapes | None,
  *,
  donate: bool,
  text_only: bool,
  sharding: _targets.ShardingTree,
  dtype: Any,
  on_progress: _load_hf.OnProgress | None,
) -> dict[str, Any]:
  """The same for a Hugging Face folder, placed tensor by tensor."""
  if given is not None:
    model = _transformer.Transformer(config=_load_hf.read_config(folder))
    shapes = _targets.shapes_of(_transformer.param_shapes(model))
    _targets.match(folder, shapes, given)
  alone = given is None and sharding is None and len(jax.devices()) == 1
  with contextlib.nullcontext() if alone else _on_host():
    read = _load_hf.load_hf(
      folder, dtype=dtype, text_only=text_only, on_progress=on_progress
    )
  if alone:
    return read
  flat = _tree.leaves(read)
  shapes = {
    path: jax.ShapeDtypeStruct(x.shape, x.dtype) for path, x in flat.items()
  }
  targets, names = _fit(folder, shapes, given, None, text_only, sharding)
  old = _tree.leaves(params or {}) if donate else {}
  out = {}
  for path, there in names.items():
    _targets.release_memory(old.get(path))
    out[path] = _load_orbax.place(flat.pop(there), targets[path])
  return _tree.nest(out)


@contextlib.contextmanager
def _on_host() -> Iterator[None]:
  """Keeps arrays off the accelerators, where there is a CPU backend."""
  try:
    host = jax.local_devices(backend='cpu')[0]
  except RuntimeError:
    yield
    return
  with jax.default_device(host):
    yield


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
