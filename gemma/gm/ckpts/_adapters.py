"""LoRA adapters in the layout of PEFT, out and in."""

from collections.abc import Mapping
import json
import os
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from gemma.gm.ckpts import _adapter_config as _config
from gemma.gm.ckpts import _adapter_files as _files
from gemma.gm.ckpts import _adapter_keys
from gemma.gm.ckpts import _adapter_plan
from gemma.gm.ckpts import _adapter_rows as _rows
from gemma.gm.ckpts import _folders
from gemma.gm.ckpts import _hf_layout
from gemma.gm.ckpts import _paths
from gemma.gm.ckpts import _tree
from gemma.gm.nn import _lora
from gemma.gm.nn import _transformer
from gemma.peft import _targets

# Of tables and of modules that are trained as a whole.
_WHOLE = ('.weight', '.trainable_tokens_delta', '.lora_embedding_A')
_PROJECTION = 'mm_input_projection'  # A parameter of theirs, not a module.


def save_adapter(
  path: str | os.PathLike[str],
  *,
  model: _lora.Model,
  params: Mapping[str, Any],
  base: str | None = None,
  multimodal: bool | None = None,
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
      `google/gemma-3-1b-it`, for those that look it up; by default the folder
      that the model was opened from.
    multimodal: Whether that model has encoders of images or audio: its modules
      then have other names. By default, as the model was where it was opened
      from, also with `text_only=True`; a published size is as its published
      folder.

  Raises:
    FileExistsError: If there is something at `path`.
    ValueError: If there are no adapters, some do not fit the model, or some
      have magnitudes and others have none.
  """
  inner = _inner(model)
  pairs = _pairs(params, inner)
  dora = {pair.m is not None for pair in pairs.values()}
  if len(dora) > 1:
    raise ValueError(
      'Some adapters have a magnitude, others have none, and PEFT has them for '
      'all or none. Give the others theirs (peft.set_magnitudes).'
    )
  names = _config.names_of(inner.config, multimodal)
  tensors: dict[str, np.ndarray] = {}
  for module, pair in pairs.items():
    tensors |= pair.tensors(f'{_files.PREFIX}{names.full(module)}')
  config = _config.config_of(
    {names.full(module): len(pair.a) for module, pair in pairs.items()},
    model,
    known=map(names.full, _rows.sizes(inner.config)),
    names=names,
    base=base,
    use_dora=dora == {True},
  )
  with _folders.new_folder(path) as folder:
    (folder / _config.FILE).write_text(json.dumps(config, indent=2) + '\n')
    safetensors.numpy.save_file(
      tensors, folder / _files.WEIGHTS, metadata={'format': 'pt'}
    )


def load_adapter(
  path: str | os.PathLike[str],
  *,
  model: _lora.Model,
  text_only: bool = False,
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
    text_only: Whether to leave out adapters of encoders, for a model without
      them.

  Returns:
    The adapters alone, float32, at the places where the model looks for them.

  Raises:
    FileNotFoundError: If there is no such folder, or a file is missing.
    ValueError: If a key of the config has a value that cannot be read, tensors
      and config disagree, the adapter does more than LoRA or DoRA, or it does
      not fit the model; lists all tensors that are in the way.
  """
  folder = _paths.existing_folder(path)
  settings = _adapter_keys.read(folder)
  tensors = _files.read(folder, text_only=text_only)
  inner = _inner(model)
  sizes = _rows.sizes(inner.config)
  expected = _adapter_plan.plan(settings, tensors, sizes)
  out: dict[_tree.Path, Any] = {}
  problems: list[str] = []
  for whole, *parts in _rows.groups(inner.config):
    pairs = []
    for name in whole.modules:
      pair = _rows.take(tensors.arrays, name)
      problem = expected[name].problem(pair, sizes[name])
      problems += [problem] if problem else []
      pairs.append(expected[name].scaled(pair, _config.factor_of(model)))
    if not problems:
      out |= _read(whole, parts, pairs)
  problems += [_unknown(name) for name in sorted(tensors.arrays)]
  if problems:
    raise ValueError(
      f'{len(problems)} tensors in {tensors.file} do not fit the model, or '
      f'what {", ".join(_adapter_plan.KEYS)} say in {settings.file}:\n  '
      + '\n  '.join(problems)
    )
  return _tree.nest(out)


def _inner(model: _lora.Model) -> _transformer.Transformer:
  return model.model if isinstance(model, _lora.LoRA) else model


def _pairs(
  params: Mapping[str, Any], model: _transformer.Transformer
) -> dict[str, _rows.Pair]:
  """The adapters of a tree, by the names of their modules in a text model."""
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
      pairs |= written
  if problems:
    raise ValueError(
      'Adapters do not fit the model:\n  ' + '\n  '.join(problems)
    )
  return pairs


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


def _unknown(name: str) -> str:
  if _hf_layout.is_media(name):
    return f'unknown: {name}. Give text_only=True to leave out encoders.'
  if name.endswith(_WHOLE):
    return (
      f'unknown: {name}, of modules_to_save, trainable_token_indices, or LoRA '
      'of a table. Merge the adapter into its base with PEFT '
      '(merge_and_unload), and load that.'
    )
  return f'unknown: {name}'


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
