"""Hugging Face folders in, one parameter at a time."""

import collections
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from concurrent import futures
import dataclasses
import os
import pathlib
from typing import Any

import jax

from gemma.gm.ckpts import _hf_check
from gemma.gm.ckpts import _hf_config
from gemma.gm.ckpts import _hf_layout
from gemma.gm.ckpts import _hf_row
from gemma.gm.ckpts import _hub
from gemma.gm.ckpts import _json_file
from gemma.gm.ckpts import _safetensors
from gemma.gm.ckpts import _source
from gemma.gm.ckpts import _targets
from gemma.gm.ckpts import _tree
from gemma.gm.nn import _config
from gemma.gm.nn import _shapes
from gemma.gm.nn import _transformer

OnProgress = Callable[[int, int], None]
_CONFIG = 'config.json'
_THREADS = min(4, os.cpu_count() or 1)  # Copies are bound by memory.


def is_hf_folder(folder: pathlib.Path) -> bool:
  return (folder / _CONFIG).exists()


def read_config(
  folder: pathlib.Path,
  *,
  text_only: bool = False,
  path: str | os.PathLike[str] | None = None,
) -> _config.TransformerConfig:
  """The architecture of a folder, from its `config.json`.

  Args:
    folder: The folder.
    text_only: Whether to leave out a vision encoder.
    path: Its name for users, such as `hf://org/name`, if it has another.
  """
  file = read_file(folder)
  try:
    config = _hf_config.from_hf(file, text_only=text_only)
  except ValueError as e:
    e.add_note(f'Read from {folder / _CONFIG}.')
    raise
  hub = path is not None and _hub.is_hub(os.fspath(path))
  origin = _config.Origin(
    path=os.fspath(path) if path is not None and hub else str(folder),
    multimodal='text_config' in file,
  )
  return dataclasses.replace(config, origin=origin)


def read_file(folder: pathlib.Path) -> dict[str, Any]:
  """The `config.json` of a folder, as it is."""
  return _json_file.read_object(folder / _CONFIG)


@dataclasses.dataclass(frozen=True)
class Stored:
  """A folder whose headers are known to fit its config.

  Attributes:
    folder: The folder.
    shapes: Shape and dtype of each NESTED parameter.
    rows: The tensors of each.
    tensors: The tensors by the name that rows use.
  """

  folder: pathlib.Path
  shapes: _targets.Shapes
  rows: dict[_tree.Path, _hf_row.Row]
  tensors: dict[str, _safetensors.Tensor]

  def read(
    self,
    targets: Mapping[_tree.Path, jax.ShapeDtypeStruct],
    finish: _targets.Finish,
    on_progress: OnProgress | None = None,
    concurrent_gb: int | None = None,
  ) -> dict[_tree.Path, jax.Array]:
    """The parameters that are asked for; a few are on the host at a time.

    Args:
      targets: For NESTED paths, what to read.
      finish: What makes arrays of JAX from a parameter in its stored dtype.
      on_progress: Called with bytes done and bytes in all.
      concurrent_gb: Not needed here.
    """
    del concurrent_gb
    sources = {path: self.source(path) for path in targets}
    total = sum(source.nbytes for source in sources.values())
    done = 0
    out: dict[_tree.Path, jax.Array] = {}

    def one(path: _tree.Path) -> tuple[_tree.Path, dict[_tree.Path, jax.Array]]:
      return path, finish(path, sources[path])

    with futures.ThreadPoolExecutor(_THREADS) as pool:
      for path, arrays in _few_ahead(pool, one, targets):
        out |= arrays
        done += sources[path].nbytes
        if on_progress is not None:
          on_progress(done, total)
    return out

  def source(self, path: _tree.Path) -> _source.Source:
    """A parameter, still in its files."""
    row = self.rows[path]
    tensors = [self.tensors[name] for name in row.names]
    return _source.Source(row, tensors, self.shapes[path].shape)


def open_hf(folder: pathlib.Path, *, text_only: bool = False) -> Stored:
  """What is in a folder, from the headers of its files; no tensor is read.

  Args:
    folder: The folder.
    text_only: Whether to leave out a vision encoder.

  Raises:
    ValueError: If tensors are missing, unknown or mis-shaped; the message lists
      all of them.
  """
  config, file = read_config(folder, text_only=text_only), read_file(folder)
  tensors = _plain_names(folder, config, text_only)
  rows = list(_hf_layout.table(config))
  _hf_check.check_depth(file, config.num_layers, tensors)
  model = _transformer.Transformer(config=config)
  params = _tree.flatten(_shapes.param_shapes(model))
  _hf_check.check_shapes(folder, file, rows, tensors, params)
  _hf_check.check_head(file, tensors)
  shapes = {
    tuple(row.path.split('/')): jax.ShapeDtypeStruct(
      params[row.path].shape, tensors[row.names[0]].dtype
    )
    for row in rows
  }
  return Stored(folder, shapes, dict(zip(shapes, rows, strict=True)), tensors)


def _plain_names(
  folder: pathlib.Path, config: _config.TransformerConfig, text_only: bool
) -> dict[str, _safetensors.Tensor]:
  """The tensors of the model, by their names without prefix."""
  tensors = _safetensors.open_folder(folder)
  media = [name for name in tensors if _hf_layout.is_media(name)]
  if media and not text_only and config.vision_encoder is None:
    raise ValueError(
      f'{folder} has an encoder ({len(media)} tensors, such as {media[0]}), '
      f'but its {_CONFIG} has no vision_config. Pass text_only=True to load '
      'the text model.'
    )
  unused = _hf_layout.unused(config)
  plain: dict[str, _safetensors.Tensor] = {}
  for name, tensor in tensors.items():
    short = _hf_layout.plain_name(name)
    if short is None or short in unused:
      continue
    if text_only and _hf_layout.is_media(name):
      continue
    if short in plain:
      raise ValueError(
        f'{name} and {plain[short].name} in {folder} are both {short}. Keep '
        'one of them.'
      )
    plain[short] = tensor
  return plain


def _few_ahead(
  pool: futures.Executor, call: Callable, arguments: Iterable
) -> Iterable:
  """Results in order, while as many calls as there are threads go on."""
  waiting: collections.deque[futures.Future] = collections.deque()
  for argument in arguments:
    waiting.append(pool.submit(call, argument))
    if len(waiting) > _THREADS:
      yield waiting.popleft().result()
  while waiting:
    yield waiting.popleft().result()
