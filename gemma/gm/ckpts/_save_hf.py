"""Hugging Face folders out."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import functools
import json
import os
import pathlib
from typing import Any

import numpy as np
import safetensors.numpy

from gemma.gm.ckpts import _folders
from gemma.gm.ckpts import _hf_config
from gemma.gm.ckpts import _hf_layout
from gemma.gm.ckpts import _hf_row
from gemma.gm.ckpts import _hf_vision
from gemma.gm.ckpts import _tree
from gemma.gm.nn import _shapes
from gemma.gm.nn import _transformer

_SHARD_BYTES = 5 * 10**9  # As the published folders.


def save_hf(
  path: str | os.PathLike[str],
  *,
  model: _transformer.Transformer,
  params: Mapping[str, Any],
  tokenizer: Any = None,
  max_shard_bytes: int = _SHARD_BYTES,
) -> None:
  """Writes a folder that `transformers`, vLLM and `gm.from_pretrained` open.

  The folder appears when it is complete, or not at all. One shard at a time is
  in the memory of the host.

  Args:
    path: The folder to make.
    model: The model.
    params: Its parameters, NESTED, in the dtype to store.
    tokenizer: If given, its files are written too, with the chat template.
    max_shard_bytes: Most bytes of a file, unless a single tensor has more.

  Raises:
    FileExistsError: If there is something at `path`.
    ValueError: If parameters are missing, unknown or mis-shaped.
  """
  with _folders.new_folder(path) as folder:
    shards = _shards(_rows(model, params), max_shard_bytes)
    name_of = functools.partial(_hf_layout.stored_name, config=model.config)
    config = _hf_config.to_hf(model.config)
    config['dtype'] = str(params['embedder']['input_embedding'].dtype)
    _write_json(folder / 'config.json', config)
    encoder = model.config.vision_encoder
    if encoder is not None:
      content = _hf_vision.preprocessor(encoder)
      _write_json(folder / 'preprocessor_config.json', content)
    if tokenizer is not None:
      for name, content in tokenizer.hf_files(model.config).items():
        (folder / name).write_bytes(content)
    _write_shards(folder, shards, name_of)


_Tensor = tuple[_hf_row.Row, Any]  # What a parameter is made into, and it.


def _rows(
  model: _transformer.Transformer, params: Mapping[str, Any]
) -> list[_Tensor]:
  """Each parameter with its place in the folder."""
  flat = _tree.flatten(params)
  rows = {row.path: row for row in _hf_layout.table(model.config)}
  if flat.keys() != rows.keys():
    raise ValueError(
      f'params do not fit the model. Missing: {sorted(rows - flat.keys())}. '
      f'Unknown: {sorted(flat.keys() - rows)}.'
    )
  shapes = _tree.flatten(_shapes.param_shapes(model))
  wrong = [
    f'{path} {flat[path].shape} instead of {shape.shape}'
    for path, shape in shapes.items()
    if flat[path].shape != shape.shape
  ]
  if wrong:
    raise ValueError(
      f'params do not fit the model. Mis-shaped: {wrong}. Give the model that '
      'they are of.'
    )
  return [(row, flat[path]) for path, row in rows.items()]


def _shards(rows: list[_Tensor], most: int) -> list[list[_Tensor]]:
  """Parameters of each file, in order."""
  shards: list[list[_Tensor]] = []
  room = 0
  for row, param in rows:
    nbytes = param.size * param.dtype.itemsize
    if not shards or nbytes > room:
      shards.append([])
      room = most
    shards[-1].append((row, param))
    room -= nbytes
  return shards


def _write_shards(
  folder: pathlib.Path,
  shards: list[list[_Tensor]],
  name_of: Callable[[str], str],
) -> None:
  """Writes one file; or several, and the index that says what is where."""
  index: dict[str, str] = {}
  count, total = len(shards), 0
  for i, shard in enumerate(shards, 1):
    name = f'model-{i:05d}-of-{count:05d}.safetensors'
    file = name if count > 1 else 'model.safetensors'
    tensors = {name_of(name): x for name, x in _tensors(shard)}
    safetensors.numpy.save_file(
      tensors, folder / file, metadata={'format': 'pt'}
    )
    index |= dict.fromkeys(tensors, file)
    total += sum(tensor.nbytes for tensor in tensors.values())
  if count > 1:
    content = {'metadata': {'total_size': total}, 'weight_map': index}
    _write_json(folder / 'model.safetensors.index.json', content)


def _tensors(shard: list[_Tensor]) -> Iterator[tuple[str, np.ndarray]]:
  for row, param in shard:
    for name, tensor in zip(row.names, row.write(param), strict=True):
      yield name, np.ascontiguousarray(np.asarray(tensor))


def _write_json(file: pathlib.Path, content: Any) -> None:
  file.write_text(json.dumps(content, indent=2) + '\n')
