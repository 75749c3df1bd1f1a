"""LoRA adapters in the layout of PEFT, out and in.

Axes: r rank, i input and o output of a linear map of Hugging Face, whose weight
is `[o, i]`, with `lora_A` `[r, i]` and `lora_B` `[o, r]`.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import json
import os
import pathlib
import re
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from gemma import peft
from gemma.gm.ckpts import _folders
from gemma.gm.ckpts import _hf_layout
from gemma.gm.ckpts import _paths
from gemma.gm.ckpts import _tree
from gemma.gm.nn import _transformer
from gemma.peft import _weights

_CONFIG = 'adapter_config.json'
_WEIGHTS = 'adapter_model.safetensors'
_PREFIX = 'base_model.model.'
_TEXT_TOWER = 'language_model.'  # Where there is another beside it.
_TEXT_ENDS = '/w', '/gating_einsum', '/linear'
_VISION_ENDS = ('/kernel',)
_CONVOLUTION = '/embedding/kernel'
_PROJECTION = 'mm_input_projection'  # A parameter of theirs, not a module.
# What PEFT can do beyond `B A`, and what it must be for us to read it.
_ONLY = {
  'use_dora': False,
  'use_qalora': False,
  'lora_bias': False,
  'bias': 'none',
  'modules_to_save': None,
  'layer_replication': None,
  'fan_in_fan_out': False,
}


def save_adapter(
  path: str | os.PathLike[str],
  *,
  model: _transformer.Transformer,
  params: Mapping[str, Any],
  base: str | None = None,
) -> None:
  """Writes the adapters of a model as a folder that PEFT opens.

  The folder appears when it is complete, or not at all.

  ```python
  peft.PeftModel.from_pretrained(transformers_model, path)
  ```

  Args:
    path: The folder to make.
    model: The model that the adapters are of.
    params: Parameters with adapters, or the adapters alone.
    base: The name of the model that they adapt, such as
      `google/gemma-3-1b-it`, for those that look it up.

  Raises:
    FileExistsError: If there is something at `path`.
    ValueError: If there are no adapters, or some do not fit the model.
  """
  flat = _tree.leaves(peft.split_params(params).lora)
  rows = {_place(row): row for row in _linear_rows(model)}
  found = {path[:-1] for path in flat}
  problems = [_no_place(path) for path in sorted(found - rows.keys())]
  tensors: dict[str, np.ndarray] = {}
  ranks: dict[str, int] = {}
  for where in sorted(found & rows.keys()):
    row = rows[where]
    a, b = (np.asarray(flat.get((*where, x), 0)) for x in 'ab')
    try:
      written = _write(row, a, b)
    except einops.EinopsError:
      problems.append(f'mis-shaped: {"/".join(where)} a {a.shape} b {b.shape}')
      continue
    tower = _tower(row, model)
    prefix = f'{_PREFIX}model.{tower}'
    tensors |= {f'{prefix}{name}': x for name, x in written.items()}
    ranks.update((tower + _module(name), b.shape[0]) for name in row.names)
  if not found:
    raise ValueError('params have no adapters: no dict has a key `lora`.')
  if problems:
    raise ValueError(
      'Adapters do not fit the model:\n  ' + '\n  '.join(problems)
    )
  with _folders.new_folder(path) as folder:
    config = _config_of(ranks, base, text_only=not _has_vision(model))
    (folder / _CONFIG).write_text(json.dumps(config, indent=2) + '\n')
    safetensors.numpy.save_file(
      tensors, folder / _WEIGHTS, metadata={'format': 'pt'}
    )


def load_adapter(
  path: str | os.PathLike[str], *, model: _transformer.Transformer
) -> dict[str, Any]:
  """Reads a folder of PEFT.

  ```python
  lora = gm.ckpts.load_adapter('my-adapter', model=model)
  params = peft.merge_params(
    params, lora
  )  # The model uses them as they are.
  params = peft.fuse_params(params)  # Or: added to the weights.
  ```

  The factor `lora_alpha / r` of PEFT is put into `b`. Where PEFT adapts two
  weights that are one here (keys and values, gate and up), their ranks add up,
  unless they share `a`.

  Args:
    path: The folder, or `hf://org/name`.
    model: The model that the adapters are of.

  Returns:
    The adapters alone, float32, at the places where the model looks for them.

  Raises:
    FileNotFoundError: If there is no such folder, or a file is missing.
    ValueError: If the adapter does more than LoRA, or does not fit the model;
      lists all that is in the way.
  """
  folder = _paths.existing_folder(path)
  config = _read_config(folder)
  tensors = _read_tensors(folder)
  out: dict[_tree.Path, Any] = {}
  problems: list[str] = []
  shapes = _tree.flatten(_transformer.param_shapes(model))
  for row in _linear_rows(model):
    pairs = [_take(tensors, _module(name), config) for name in row.names]
    if not any(pairs):
      continue
    weights = jax.eval_shape(row.write, shapes[row.path])
    wrong = [
      f'mis-shaped: {name} {weight.shape}, lora_A {pair[0].shape}, lora_B '
      f'{pair[1].shape}'
      for name, weight, pair in zip(row.names, weights, pairs, strict=True)
      if pair and (pair[1].shape[0], pair[0].shape[1]) != weight.shape
    ]
    problems += wrong
    if not wrong:
      a, b = _read(row, pairs)
      out |= {(*_place(row), 'a'): a, (*_place(row), 'b'): b}
  problems += [f'unknown: {name}' for name in sorted(tensors)]
  if problems:
    raise ValueError(
      f'{len(problems)} tensors in {folder} do not fit the model:\n  '
      + '\n  '.join(problems)
    )
  return _tree.nest(out)


_Pair = tuple[np.ndarray, np.ndarray]  # lora_A, and lora_B with its factor.


def _linear_rows(model: _transformer.Transformer) -> Iterator[_hf_layout.Row]:
  """The weights that adapters can be of: those of linear modules."""
  for row in _hf_layout.table(model.config):
    vision = _hf_layout.is_vision(row.names[0])
    ends = _VISION_ENDS if vision else _TEXT_ENDS
    if row.path.endswith(ends) and not row.path.endswith(_CONVOLUTION):
      yield row


def _has_vision(model: _transformer.Transformer) -> bool:
  return model.config.vision_encoder is not None


def _tower(row: _hf_layout.Row, model: _transformer.Transformer) -> str:
  """What a module is in, if its name does not tell."""
  text = not _hf_layout.is_vision(row.names[0])
  return _TEXT_TOWER if text and _has_vision(model) else ''


def _no_place(path: _tree.Path) -> str:
  name = '/'.join(path)
  if _PROJECTION not in path:
    return f'unknown: {name}'
  return (
    f'no module of PEFT: {name}. Leave it out (targets= of peft.init_lora), or '
    'write the whole model: peft.fuse_params, then gm.ckpts.save_hf.'
  )


def _place(row: _hf_layout.Row) -> _tree.Path:
  """Where the adapter of a weight is."""
  return _weights.Weight(tuple(row.path.split('/')), ()).adapter


def _module(name: str) -> str:
  return name.removesuffix('.weight')


def _axes(row: _hf_layout.Row) -> tuple[str, str]:
  """How a weight splits its outputs and its inputs, as einops spells it."""
  weight = (row.pattern or 'o i ->').split(' ->')[0]
  out, in_ = re.findall(r'\([^)]*\)|\S+', weight)
  return out, in_


def _rearrange(x: np.ndarray, pattern: str, row: _hf_layout.Row) -> np.ndarray:
  sizes = {'n': row.heads} if '(n h)' in pattern and row.heads else {}
  return einops.rearrange(x, pattern, **sizes)


def _write(
  row: _hf_layout.Row, a: np.ndarray, b: np.ndarray
) -> dict[str, np.ndarray]:
  """The tensors of PEFT from an adapter of ours."""
  out, in_ = _axes(row)
  lora_a = _rearrange(a, f'{in_.strip("()")} r -> r {in_}', row)
  parts = np.moveaxis(b, 1, 0) if len(row.names) > 1 else [b]
  tensors = {}
  for name, part in zip(row.names, parts, strict=True):
    lora_b = _rearrange(part, f'r {out.strip("()")} -> {out} r', row)
    tensors[f'{_module(name)}.lora_A.weight'] = np.ascontiguousarray(lora_a)
    tensors[f'{_module(name)}.lora_B.weight'] = np.ascontiguousarray(lora_b)
  return tensors


def _read(
  row: _hf_layout.Row, pairs: list[_Pair | None]
) -> tuple[jax.Array, jax.Array]:
  """An adapter of ours from those of PEFT; None is one that does nothing."""
  out, in_ = _axes(row)
  downs: list[np.ndarray] = []  # Each lora_A once.
  for pair in pairs:
    if pair and not any(np.array_equal(pair[0], down) for down in downs):
      downs.append(pair[0])
  height = next(pair[1].shape[0] for pair in pairs if pair)
  parts = []
  for pair in pairs:
    ups = [np.zeros((height, len(down)), np.float32) for down in downs]
    for down, up in zip(downs, ups, strict=True):
      if pair and np.array_equal(pair[0], down):
        up[:] = pair[1]
    up = np.concatenate(ups, axis=1)
    parts.append(_rearrange(up, f'{out} r -> r {out.strip("()")}', row))
  lora_a = np.concatenate(downs)
  a = _rearrange(lora_a, f'r {in_} -> {in_.strip("()")} r', row)
  b = np.stack(parts, axis=1) if len(parts) > 1 else parts[0]
  return jnp.asarray(a), jnp.asarray(b)


def _take(
  tensors: dict[str, np.ndarray], module: str, config: Mapping[str, Any]
) -> _Pair | None:
  """The adapter of a module, taken out of `tensors`; None if it has none."""
  names = [f'{module}.lora_{x}.weight' for x in 'AB']
  if not all(name in tensors for name in names):
    return None
  a, b = (tensors.pop(name).astype(np.float32) for name in names)
  alpha = config['lora_alpha']
  for pattern, value in (config.get('alpha_pattern') or {}).items():
    full = re.compile(rf'(.*\.)?({pattern})')
    if full.fullmatch(module) or full.fullmatch(_TEXT_TOWER + module):
      alpha = value
  rank = len(a)
  return a, b * (alpha / (rank**0.5 if config.get('use_rslora') else rank))


def _config_of(
  ranks: Mapping[str, int], base: str | None, *, text_only: bool
) -> dict[str, Any]:
  """What PEFT has to know; its factor `lora_alpha / r` is 1.

  Args:
    ranks: Rank of each module.
    base: Name of the model that they adapt.
    text_only: Whether short names of modules are enough: those of a vision
      encoder are the same.
  """
  rank = max(ranks.values())
  others = {module: r for module, r in ranks.items() if r != rank}
  short = {module.rsplit('.', 1)[-1] for module in ranks}
  layers = {module.split('.')[1] for module in ranks}
  whole = text_only and len(ranks) == len(short) * len(layers)
  return {
    'peft_type': 'LORA',
    'task_type': 'CAUSAL_LM',
    'base_model_name_or_path': base,
    'r': rank,
    'lora_alpha': rank,
    'rank_pattern': others,
    'alpha_pattern': others,
    'target_modules': sorted(short if whole else ranks),
    'layers_to_transform': sorted(map(int, layers)) if whole else None,
    'lora_dropout': 0.0,
    'bias': 'none',
    'inference_mode': True,
  }


def _read_config(folder: pathlib.Path) -> dict[str, Any]:
  file = folder / _CONFIG
  if not file.exists():
    raise FileNotFoundError(
      f'No {_CONFIG} in {folder}. Give the folder of an adapter of PEFT.'
    )
  config = json.loads(file.read_text())
  if (kind := config.get('peft_type')) != 'LORA':
    raise ValueError(f'{folder} holds {kind}; only LORA can be read.')
  odd = {
    key: config[key]
    for key, value in _ONLY.items()
    if config.get(key, value) not in (value, [] if value is None else value)
  }
  if odd:
    raise ValueError(
      f'{folder} has more than LoRA: {odd}. Merge it into its base with PEFT '
      '(merge_and_unload), and load the result.'
    )
  return config


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
