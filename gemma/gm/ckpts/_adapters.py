"""LoRA adapters in the layout of PEFT, out and in."""

from collections.abc import Mapping
import json
import os
import pathlib
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from gemma.gm.ckpts import _adapter_config as _config
from gemma.gm.ckpts import _adapter_rows as _rows
from gemma.gm.ckpts import _folders
from gemma.gm.ckpts import _hf_layout
from gemma.gm.ckpts import _paths
from gemma.gm.ckpts import _tree
from gemma.gm.nn import _lora
from gemma.gm.nn import _shapes
from gemma.gm.nn import _transformer
from gemma.peft import _targets

_WEIGHTS = 'adapter_model.safetensors'
_PREFIX = 'base_model.model.'
_PROJECTION = 'mm_input_projection'  # A parameter of theirs, not a module.


def save_adapter(
  path: str | os.PathLike[str],
  *,
  model: _lora.Model,
  params: Mapping[str, Any],
  base: str | None = None,
) -> None:
  """Writes the adapters of a model as a folder that PEFT opens.

  The folder appears when it is complete, or not at all. Magnitudes (DoRA) are
  written as PEFT has them; adapters that are per head, which it has not, with
  as many times the rank as there are heads.

  ```python
  peft.PeftModel.from_pretrained(transformers_model, path)
  ```

  Args:
    path: The folder to make.
    model: The model that the adapters are of. The factor of a `gm.nn.LoRA` is
      written down, with that of others it is 1.
    params: Parameters with adapters, or the adapters alone; NESTED.
    base: The name of the model that they adapt, such as
      `google/gemma-3-1b-it`, for those that look it up.

  Raises:
    FileExistsError: If there is something at `path`.
    ValueError: If there are no adapters, some do not fit the model, or some
      have magnitudes and others have none.
  """
  pairs = _pairs(params, _inner(model))
  dora = {pair.m is not None for pair in pairs.values()}
  if len(dora) > 1:
    raise ValueError(
      'Some adapters have a magnitude, others have none, and PEFT has them for '
      'all or none. Give the others theirs (peft.set_magnitudes).'
    )
  tensors: dict[str, np.ndarray] = {}
  for module, pair in pairs.items():
    tensors |= pair.tensors(f'{_PREFIX}model.{module}')
  ranks = {module: len(pair.a) for module, pair in pairs.items()}
  config = _config.config_of(ranks, model, base=base, use_dora=dora == {True})
  with _folders.new_folder(path) as folder:
    (folder / _config.FILE).write_text(json.dumps(config, indent=2) + '\n')
    safetensors.numpy.save_file(
      tensors, folder / _WEIGHTS, metadata={'format': 'pt'}
    )


def load_adapter(
  path: str | os.PathLike[str], *, model: _lora.Model
) -> dict[str, Any]:
  """Reads a folder of PEFT.

  ```python
  lora = gm.ckpts.load_adapter('my-adapter', model=model)
  params = peft.merge_params(
    params, lora
  )  # The model uses them as they are.
  params = peft.fuse_params(params)  # Or: added to the weights.
  ```

  The factor of PEFT, `lora_alpha / r`, is put into `b`; of it, the factor that
  a `gm.nn.LoRA` has itself is left out. Where PEFT adapts two weights that are
  one here (keys and values, gate and up), they have one adapter if they share
  `a`, and else one each.

  Args:
    path: The folder, or `hf://org/name`.
    model: The model that the adapters are of.

  Returns:
    The adapters alone, float32, at the places where the model looks for them.

  Raises:
    FileNotFoundError: If there is no such folder, or a file is missing.
    ValueError: If the adapter does more than LoRA or DoRA, or does not fit the
      model; lists all that is in the way.
  """
  folder = _paths.existing_folder(path)
  config = _config.read_config(folder)
  tensors = _read_tensors(folder)
  inner, factor = _inner(model), _config.factor_of(model)
  out: dict[_tree.Path, Any] = {}
  problems: list[str] = []
  shapes = _tree.flatten(_shapes.param_shapes(inner))
  for whole, *parts in _rows.groups(inner.config):
    pairs = [_take(tensors, name, config, factor) for name in whole.modules]
    weights = jax.eval_shape(whole.row.write, shapes[whole.row.path])
    wrong = [
      _misfit(name, weight, pair)
      for name, weight, pair in zip(whole.modules, weights, pairs, strict=True)
      if pair and not _fits(pair, weight.shape, config)
    ]
    problems += wrong
    if not wrong:
      out |= _read(whole, parts, pairs)
  problems += [f'unknown: {name}' for name in sorted(tensors)]
  if problems:
    raise ValueError(
      f'{len(problems)} tensors in {folder} do not fit the model:\n  '
      + '\n  '.join(problems)
    )
  return _tree.nest(out)


def _inner(model: _lora.Model) -> _transformer.Transformer:
  return model.model if isinstance(model, _lora.LoRA) else model


def _pairs(
  params: Mapping[str, Any], model: _transformer.Transformer
) -> dict[str, _rows.Pair]:
  """The adapters of a tree by the modules of PEFT, with their towers."""
  groups = [*_rows.groups(model.config)]
  found = _targets.adapters_in(params)
  if not found:
    raise ValueError('params have no adapters: no dict has a key `lora`.')
  known = {place.path for group in groups for place in group}
  problems = [_no_place(path) for path in sorted(found.keys() - known)]
  pairs: dict[str, _rows.Pair] = {}
  for group in groups:
    places = [place for place in group if place.path in found]
    if len(places) > 1 and places[0].part is None:
      problems.append(f'twice, for all and a part: {"/".join(places[0].path)}')
    for place in places:
      lora = {name: np.asarray(x) for name, x in found[place.path].items()}
      try:
        written = place.write(lora)
      except (einops.EinopsError, IndexError, KeyError, ValueError):
        parts = ' '.join(f'{name} {x.shape}' for name, x in lora.items())
        problems.append(f'mis-shaped: {"/".join(place.path)} {parts}')
        continue
      tower = _tower(place, model)
      pairs |= {f'{tower}{module}': pair for module, pair in written.items()}
  if problems:
    raise ValueError(
      'Adapters do not fit the model:\n  ' + '\n  '.join(problems)
    )
  return pairs


def _tower(place: _rows.Place, model: _transformer.Transformer) -> str:
  """What a module is in, if its name does not tell."""
  text = not _hf_layout.is_media(place.row.names[0])
  both = text and model.config.vision_encoder is not None
  return _config.TEXT_TOWER if both else ''


def _no_place(path: _tree.Path) -> str:
  name = '/'.join(path)
  if path[0].startswith('layers_'):
    return f'not NESTED: {name}. Give gm.nn.unstack_layers(params).'
  if _PROJECTION not in path:
    return f'unknown: {name}'
  return (
    f'no module of PEFT: {name}. Leave it out (targets= of peft.init_lora), or '
    'write the whole model: peft.fuse_params, then gm.ckpts.save_hf.'
  )


def _take(
  tensors: dict[str, np.ndarray],
  module: str,
  config: Mapping[str, Any],
  factor: float,
) -> _rows.Pair | None:
  """The adapter of a module, with the factor that the model has not."""
  pair = _rows.take(tensors, module)
  if pair is None:
    return None
  theirs = _config.factor_in(config, module, len(pair.a))
  return pair._replace(b=pair.b * np.float32(theirs / factor))


def _fits(
  pair: _rows.Pair, shape: tuple[int, ...], config: Mapping[str, Any]
) -> bool:
  outputs, inputs = shape
  lengths = None if pair.m is None else pair.m.shape
  expected = (outputs,) if config.get('use_dora') else None
  return (len(pair.b), pair.a.shape[1], lengths) == (outputs, inputs, expected)


def _misfit(name: str, weight: jax.ShapeDtypeStruct, pair: Any) -> str:
  lengths = None if pair.m is None else pair.m.shape
  return (
    f'mis-shaped: {name} {weight.shape}, lora_A {pair.a.shape}, lora_B '
    f'{pair.b.shape}, magnitudes {lengths}'
  )


def _read(
  whole: _rows.Place, parts: list[_rows.Place], pairs: list[_rows.Pair | None]
) -> dict[_tree.Path, jax.Array]:
  """The adapter of a weight, or those of its parts."""
  found = [pair for pair in pairs if pair is not None]
  if not found:
    return {}
  same = len(found) == len(pairs) and all(
    np.array_equal(pair.a, found[0].a) for pair in found
  )
  if same:
    read = {whole.path: whole.read(found)}
  else:
    each = zip(parts, pairs, strict=True)
    read = {place.path: place.read([pair]) for place, pair in each if pair}
  return {
    (*path, name): jnp.asarray(x)
    for path, lora in read.items()
    for name, x in lora.items()
  }


def _read_tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """All tensors, by the name of their module in a text model."""
  file = folder / _WEIGHTS
  if not file.exists():
    raise FileNotFoundError(
      f'No {_WEIGHTS} in {folder}. Save the adapter as safetensors.'
    )
  try:
    stored = safetensors.numpy.load_file(file)
  except safetensors.SafetensorError as e:
    raise ValueError(f'{file} is damaged or cut short: {e}.') from e
  plain = {}
  for name, x in stored.items():
    key = _hf_layout.plain_name(name.removeprefix(_PREFIX))
    if key is not None:  # Such as the head behind a vision encoder.
      plain[key] = x
  return plain
