"""Whether the tensors of a Hugging Face folder are those of its config."""

from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gemma.gm.ckpts import _fields
from gemma.gm.ckpts import _hf_config
from gemma.gm.ckpts import _hf_keys
from gemma.gm.ckpts import _hf_layout
from gemma.gm.ckpts import _hf_row
from gemma.gm.ckpts import _safetensors

_CONFIG = 'config.json'
_LAYER = re.compile(r'layers\.(\d{1,9})\.')
Tensors = Mapping[str, _safetensors.Tensor]


def check_depth(file: Mapping[str, Any], layers: int, tensors: Tensors) -> None:
  """Raises if the config has more layers than the files.

  Said before shapes are made, of which there may be many.

  Args:
    file: The `config.json`.
    layers: Layers of the config.
    tensors: The tensors of the folder, without prefixes.
  """
  found = {int(m[1]) for m in map(_LAYER.match, tensors) if m}
  if found and max(found) + 1 < layers:
    raise ValueError(
      f'num_hidden_layers={layers} in {_CONFIG}, but the folder has tensors of '
      f'{max(found) + 1} layers. {_sizes(file)}'
    )


def check_shapes(
  folder: pathlib.Path,
  file: Mapping[str, Any],
  rows: Iterable[_hf_row.Row],
  tensors: Tensors,
  targets: Mapping[str, jax.ShapeDtypeStruct],
) -> None:
  """Raises one error that lists every tensor that does not fit."""
  problems = []
  unknown = set(tensors) - {_hf_layout.HEAD}
  for row in rows:
    missing = [name for name in row.names if name not in tensors]
    unknown -= set(row.names)
    problems += [f'missing: {name}' for name in missing]
    if not missing:
      shapes = [tensors[name].shape for name in row.names]
      problems += _dtype_problems(row.names, tensors)
      target = targets[row.path].shape
      if _shape_of(row, shapes) != target:
        listed = ', '.join(
          f'{name} {shape}'
          for name, shape in zip(row.names, shapes, strict=True)
        )
        problems.append(f'mis-shaped: {listed} for {row.path} {target}')
  problems += [f'unknown: {tensors[name].name}' for name in sorted(unknown)]
  if problems:
    raise ValueError(
      f'{len(problems)} tensors in {folder} do not fit its {_CONFIG}:\n  '
      + '\n  '.join([*problems, _sizes(file)])
    )


def _sizes(file: Mapping[str, Any]) -> str:
  """The sizes that a file gives, for errors."""
  _, text = _hf_config.text_part(file)
  parts = {**(file.get('vision_config') or {}), **text}
  said = {key: parts[key] for key in _hf_keys.SHAPES if key in parts}
  listed = ', '.join(f'{k}={_fields.shown(v)}' for k, v in said.items())
  return f'{_CONFIG} says {listed or "nothing of sizes, so defaults hold"}.'


def _dtype_problems(names: Iterable[str], tensors: Tensors) -> list[str]:
  """Integers and 8-bit floats are quantized weights, not the weights."""
  return [
    f'stored as {tensors[name].stored}: {tensors[name].name}'
    for name in names
    if tensors[name].stored not in _safetensors.DTYPES
  ]


def _shape_of(
  row: _hf_row.Row, shapes: list[tuple[int, ...]]
) -> tuple[int, ...] | None:
  """Shape of the parameter that a row would read; None if it cannot."""
  structs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  whole = dataclasses.replace(row, rows=None)
  try:
    return jax.eval_shape(whole.read, structs).shape
  except (ValueError, RuntimeError, TypeError):
    return None


def check_head(file: Mapping[str, Any], tensors: Tensors) -> None:
  """Raises if there is an output head of its own.

  A head that is a copy of the table is the table, whatever the file says.
  """
  _, text = _hf_config.text_part(file)
  head = tensors.get(_hf_layout.HEAD)
  if head is None:
    for part in (file, text):
      if part.get('tie_word_embeddings') is False:
        raise ValueError(
          f'tie_word_embeddings=False in {_CONFIG}, but the folder has no '
          f'{_hf_layout.HEAD}. If the head is the table, set it to true.'
        )
    return
  table = tensors['embed_tokens.weight']
  same = head.shape == table.shape
  step, rows = 8192, table.shape[0]  # Compared at once, and in all.
  for start in range(0, rows if same else 0, step):
    some = slice(start, start + step)
    same = same and np.array_equal(head[some].read(), table[some].read())
  if not same:
    raise ValueError(
      f'{head.name} in {head.file} differs from the embedding table. '
      'Gemma models tie the two; an untied head cannot be used.'
    )
