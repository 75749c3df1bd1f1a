"""Hugging Face folders in, one tensor at a time."""

from collections.abc import Callable
from collections.abc import Iterable
import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gemma.gm.ckpts import _hf_config
from gemma.gm.ckpts import _hf_layout
from gemma.gm.ckpts import _safetensors
from gemma.gm.ckpts import _tree
from gemma.gm.nn import _config
from gemma.gm.nn import _transformer

OnProgress = Callable[[int, int], None]
_CONFIG = 'config.json'


def is_hf_folder(folder: pathlib.Path) -> bool:
  return (folder / _CONFIG).exists()


def read_config(folder: pathlib.Path) -> _config.TransformerConfig:
  """The architecture of a folder, from its `config.json`."""
  return _hf_config.from_hf(json.loads((folder / _CONFIG).read_text()))


def load_hf(
  folder: pathlib.Path,
  *,
  dtype: Any = None,
  text_only: bool = False,
  on_progress: OnProgress | None = None,
) -> dict[str, Any]:
  """Parameters of a Hugging Face folder, in the NESTED layout.

  Everything is checked from the files' headers before any tensor is read.

  Args:
    folder: The folder.
    dtype: Dtype of the result; as stored by default.
    text_only: Whether to leave out a vision encoder.
    on_progress: Called with bytes done and bytes in all.

  Raises:
    ValueError: If tensors are missing, unknown or mis-shaped; the message lists
      all of them.
  """
  config = read_config(folder)
  tensors = _safetensors.TensorFolder(folder)
  names = _plain_names(tensors, text_only)
  rows = list(_hf_layout.table(config))
  _check(folder, rows, names, tensors, _targets(config))
  _check_head(names, tensors)

  total = sum(tensors.nbytes(names[n]) for row in rows for n in row.names)
  done, flat = 0, {}
  for row in rows:
    parts = [tensors.read(names[name]) for name in row.names]
    flat[row.path] = _read(parts, row, dtype)
    done += sum(tensors.nbytes(names[name]) for name in row.names)
    if on_progress is not None:
      on_progress(done, total)
  return _tree.unflatten(flat)


def _plain_names(
  tensors: _safetensors.TensorFolder, text_only: bool
) -> dict[str, str]:
  """From names without prefix to names in the files."""
  vision = [name for name in tensors.names if _hf_layout.is_vision(name)]
  if vision and not text_only:
    raise ValueError(
      f'{tensors.folder} has a vision encoder ({len(vision)} tensors, such as '
      f'{vision[0]}), which this version does not have. Pass text_only=True to '
      'load the text model.'
    )
  text = [name for name in tensors.names if not _hf_layout.is_vision(name)]
  plain = {_hf_layout.plain_name(name): name for name in text}
  return {name: full for name, full in plain.items() if name is not None}


def _targets(
  config: _config.TransformerConfig,
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shape of every parameter, from one layer of each kind: it is quicker."""
  kinds = tuple(dict.fromkeys(config.attention_types))
  small = dataclasses.replace(config, attention_types=kinds)
  shapes = _transformer.param_shapes(_transformer.Transformer(config=small))
  layers = [shapes.pop(f'layer_{i}') for i in range(len(kinds))]
  for i, kind in enumerate(config.attention_types):
    shapes[f'layer_{i}'] = layers[kinds.index(kind)]
  return _tree.flatten(shapes)


def _check(
  folder: pathlib.Path,
  rows: Iterable[_hf_layout.Row],
  names: dict[str, str],
  tensors: _safetensors.TensorFolder,
  targets: dict[str, jax.ShapeDtypeStruct],
) -> None:
  """Raises one error that lists every tensor that does not fit."""
  problems = []
  unknown = set(names) - {_hf_layout.HEAD}
  for row in rows:
    missing = [name for name in row.names if name not in names]
    unknown -= set(row.names)
    problems += [f'missing: {name}' for name in missing]
    if not missing:
      shapes = [tensors.shape(names[name]) for name in row.names]
      problems += _dtype_problems(tensors, [names[name] for name in row.names])
      target = targets[row.path].shape
      if _shape_of(row, shapes) != target:
        listed = ', '.join(
          f'{name} {shape}'
          for name, shape in zip(row.names, shapes, strict=True)
        )
        problems.append(f'mis-shaped: {listed} for {row.path} {target}')
  problems += [f'unknown: {names[name]}' for name in sorted(unknown)]
  if problems:
    raise ValueError(
      f'{len(problems)} tensors in {folder} do not fit its {_CONFIG}:\n  '
      + '\n  '.join(problems)
    )


def _dtype_problems(
  tensors: _safetensors.TensorFolder, names: list[str]
) -> list[str]:
  """Integers and 8-bit floats are quantized weights, not the weights."""
  return [
    f'stored as {tensors.dtype(name)}: {name}'
    for name in names
    if tensors.dtype(name) not in _safetensors.FLOATS
  ]


def _shape_of(
  row: _hf_layout.Row, shapes: list[tuple[int, ...]]
) -> tuple[int, ...] | None:
  """Shape of the parameter that a row would read; None if it cannot."""
  structs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  try:
    return jax.eval_shape(row.read, structs).shape
  except (ValueError, RuntimeError, TypeError):
    return None


def _check_head(
  names: dict[str, str], tensors: _safetensors.TensorFolder
) -> None:
  """Raises if there is an output head of its own."""
  head = names.get(_hf_layout.HEAD)
  if head is None:
    return
  table = names['embed_tokens.weight']
  same = tensors.shape(head) == tensors.shape(table)
  step, rows = 8192, tensors.shape(table)[0]  # Rows compared at once, and all.
  for start in range(0, rows if same else 0, step):
    part = start, min(start + step, rows)
    same &= np.array_equal(
      tensors.rows(head, *part), tensors.rows(table, *part)
    )
  if not same:
    raise ValueError(
      f'{head} in {tensors.folder} differs from the embedding table. Gemma '
      'models tie the two; an untied head cannot be used.'
    )


def _read(
  parts: list[np.ndarray], row: _hf_layout.Row, dtype: Any
) -> jax.Array:
  """One parameter in its final order and dtype.

  By NumPy: to compile a program for each shape takes longer than to copy.
  """
  out = row.read(parts)
  return jnp.asarray(out if dtype is None else out.astype(dtype))
