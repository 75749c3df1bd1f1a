"""From a folder to a model that can be used."""

import dataclasses
import functools
import os
import pathlib
from typing import Any

from gemma.gm.ckpts import _hub
from gemma.gm.ckpts import _load
from gemma.gm.ckpts import _load_hf
from gemma.gm.ckpts import _paths
from gemma.gm.ckpts import _targets
from gemma.gm.nn import _transformer
from gemma.gm.nn import _weights
from gemma.gm.text import _tokenizer


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """A model with its weights. Unpacks as `model, params, tokenizer`.

  Attributes:
    model: The model, built from the folder's config.
    params: Its weights.
    path: The folder.
  """

  model: _transformer.Transformer
  params: dict[str, Any] = dataclasses.field(repr=False)
  path: pathlib.Path

  @functools.cached_property
  def tokenizer(self) -> _tokenizer.Tokenizer:
    """The folder's tokenizer, read on first use."""
    return _tokenizer.Tokenizer.from_path(self.path)

  def __iter__(self):
    return iter((self.model, self.params, self.tokenizer))


def from_pretrained(
  path: str | os.PathLike[str],
  *,
  dtype: Any = None,
  text_only: bool = False,
  quantize: bool | str = False,
  sharding: _targets.ShardingTree = None,
  on_progress: _load_hf.OnProgress | None = None,
) -> Pretrained:
  """Opens a Hugging Face folder: the model, its weights, its tokenizer.

  The architecture comes from `config.json`, so any size works, listed or not.
  With `pip install "gemma[hub]"` the folder may be on the Hub,
  `hf://google/gemma-3-1b-it`: it is downloaded once, into the cache that other
  libraries use too, and with `GEMMA_OFFLINE=1` only what is there is used.

  ```python
  >>> from gemma import gm
  >>> tiny = gm.from_pretrained(gm.ckpts.CheckpointPath.GEMMA3_TINY_IT)
  >>> tiny.model.config.num_layers
  6

  ```

  Args:
    path: The folder, or `hf://org/name[@revision]`.
    dtype: Dtype of the parameters; as stored by default.
    text_only: Whether to leave out a vision encoder.
    quantize: `'int8'` or `'int4'` rounds the weights while they are read.
    sharding: Where the parameters go, as in `load_params`; by default to the
      default device.
    on_progress: Called with bytes read and bytes in all.

  Raises:
    FileNotFoundError: If there is no such folder, a file is missing, or it
      cannot be downloaded.
    ImportError: If the folder is on the Hub, and huggingface_hub is missing.
    ValueError: If it has no `config.json`, or the weights do not fit it.
  """
  folder = _hf_folder(path)
  params = _load.load_params(
    folder,
    dtype=dtype,
    text_only=text_only,
    quantize=quantize,
    sharding=_targets.UNCOMMITTED if sharding is None else sharding,
    on_progress=on_progress,
  )
  model = _transformer.Transformer(
    config=_load_hf.read_config(folder, text_only=text_only, path=path),
    dtype=_weights.dtype_of(params),
  )
  return Pretrained(model, params, folder)


def model_from_folder(
  path: str | os.PathLike[str],
) -> _transformer.Transformer:
  """The model of a Hugging Face folder without its weights.

  Args:
    path: The folder, or `hf://org/name`; only its `config.json` is read.
  """
  name = os.fspath(path)
  if _hub.is_hub(name):
    path = _hub.folder(name, files=_hub.CONFIG)
  config = _load_hf.read_config(_hf_folder(path), path=name)
  return _transformer.Transformer(config=config)


def _hf_folder(path: str | os.PathLike[str]) -> pathlib.Path:
  folder = _paths.existing_folder(path)
  if not _load_hf.is_hf_folder(folder):
    raise ValueError(
      f'{folder} has no config.json, so its architecture is not known. For an '
      'Orbax checkpoint name the model, and use gm.ckpts.load_params: '
      'model, params = gm.nn.Gemma3_1B(), gm.ckpts.load_params(path).'
    )
  return folder
