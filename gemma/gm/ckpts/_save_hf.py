"""Hugging Face folders out."""

from collections.abc import Mapping
import json
import os
import pathlib
import shutil
import tempfile
from typing import Any

import numpy as np
import safetensors.numpy

from gemma.gm.ckpts import _hf_config
from gemma.gm.ckpts import _hf_layout
from gemma.gm.ckpts import _tree
from gemma.gm.nn import _transformer


def save_hf(
  path: str | os.PathLike[str],
  *,
  model: _transformer.Transformer,
  params: Mapping[str, Any],
  tokenizer: Any = None,
) -> None:
  """Writes a folder that `transformers` and `gm.from_pretrained` open.

  The folder appears when it is complete, or not at all.

  Args:
    path: The folder to make.
    model: The model.
    params: Its parameters, NESTED, in the dtype to store.
    tokenizer: If given, its model file is written too.

  Raises:
    FileExistsError: If there is something at `path`.
    ValueError: If parameters are missing or unknown.
  """
  path = pathlib.Path(path)
  if path.exists():
    raise FileExistsError(f'{path} exists. Remove it or choose another name.')
  path.parent.mkdir(parents=True, exist_ok=True)
  tensors = _tensors(model, params)
  building = pathlib.Path(tempfile.mkdtemp(dir=path.parent, prefix='.saving-'))
  try:
    config = _hf_config.to_hf(model.config)
    config['dtype'] = str(tensors['model.norm.weight'].dtype)
    (building / 'config.json').write_text(json.dumps(config, indent=2) + '\n')
    safetensors.numpy.save_file(
      tensors, building / 'model.safetensors', metadata={'format': 'pt'}
    )
    if tokenizer is not None:
      (building / 'tokenizer.model').write_bytes(tokenizer.model_proto)
    for file in (building, *building.iterdir()):
      file.chmod(0o755 if file.is_dir() else 0o644)  # Others may read it.
    building.rename(path)
  finally:
    shutil.rmtree(building, ignore_errors=True)


def _tensors(
  model: _transformer.Transformer, params: Mapping[str, Any]
) -> dict[str, np.ndarray]:
  flat = _tree.flatten(params)
  rows = {row.path: row for row in _hf_layout.table(model.config)}
  if flat.keys() != rows.keys():
    raise ValueError(
      f'params do not fit the model. Missing: {sorted(rows - flat.keys())}. '
      f'Unknown: {sorted(flat.keys() - rows)}.'
    )
  out = {}
  for path, row in rows.items():
    for name, tensor in zip(row.names, row.write(flat[path]), strict=True):
      out[f'model.{name}'] = np.ascontiguousarray(np.asarray(tensor))
  return out
