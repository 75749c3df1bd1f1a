"""The tensors of an adapter folder, and the names of their modules."""

from collections.abc import Mapping
import dataclasses
import pathlib
import re

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from gemma.gm.ckpts import _hf_layout

WEIGHTS = 'adapter_model.safetensors'
PREFIX = 'base_model.model.'
# Wrappers of PEFT, of torch.compile and of data parallelism.
_WRAPPERS = re.compile(r'^((base_model\.model|_orig_mod|module)\.)+')
_HEAD = 'lm_head.'


@dataclasses.dataclass(frozen=True)
class Tensors:
  """The tensors of a folder.

  Attributes:
    file: The file.
    arrays: The tensors by their names in a text model, `layers.0...`; they are
      taken out while they are read.
    fronts: What full names have before these, for the text model (`''`) and
      for each encoder.
  """

  file: pathlib.Path
  arrays: dict[str, np.ndarray]
  fronts: Mapping[str, str]

  def full_name(self, module: str) -> str | None:
    """The name of a module as PEFT spells it; None in an encoder without any.

    Args:
      module: The name in a text model, `layers.0.self_attn.q_proj`.
    """
    if f'{module}.' == _HEAD:
      return module
    tower, rest = _split(module)
    front = self.fronts.get(tower)
    return None if front is None else front + rest


def read(folder: pathlib.Path, *, text_only: bool = False) -> Tensors:
  """The tensors of a folder of PEFT.

  Args:
    folder: The folder.
    text_only: Whether to leave out those of encoders.

  Raises:
    FileNotFoundError: If the file is missing.
    ValueError: If it is damaged, or has names of several models.
  """
  file = folder / WEIGHTS
  if not file.exists():
    raise FileNotFoundError(
      f'No {WEIGHTS} in {folder}. Save the adapter as safetensors.'
    )
  arrays: dict[str, np.ndarray] = {}
  fronts: dict[str, str] = {}
  for name, x in _load(file).items():
    spelled = _WRAPPERS.sub('', name)
    key = _hf_layout.plain_name(spelled)
    # Such as the head behind a vision encoder.
    if key is None or (text_only and _hf_layout.is_media(key)):
      continue
    if key in arrays:
      raise ValueError(
        f'{name} in {file} is there twice, with and without a prefix. Remove '
        'one of them.'
      )
    arrays[key] = _floats(file, name, x)
    tower, rest = _split(key)
    front = spelled.removesuffix(rest)
    if not key.startswith(_HEAD) and fronts.setdefault(tower, front) != front:
      raise ValueError(
        f'{file} has names of several models, {fronts[tower]!r} and {front!r} '
        f'before {rest}. Save the adapter of one model.'
      )
  return Tensors(file, arrays, {'': 'model.'} | fronts)


def _load(file: pathlib.Path) -> dict[str, np.ndarray]:
  if not file.is_file():
    raise ValueError(f'{file} is not a regular file. Replace it by one.')
  try:
    return safetensors.numpy.load_file(file)
  except (safetensors.SafetensorError, TypeError, KeyError) as e:
    raise ValueError(
      f'{file} is damaged or cut short, or has a dtype that NumPy has not: {e}.'
    ) from e


def _floats(file: pathlib.Path, name: str, x: np.ndarray) -> np.ndarray:
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise ValueError(
      f'{name} in {file} is {x.dtype}, but weights of adapters are floats. '
      'Save the adapter in one of their dtypes.'
    )
  return x.astype(np.float32)


def _split(name: str) -> tuple[str, str]:
  """The encoder that a name begins with, or nothing, and the rest."""
  if not _hf_layout.is_media(name):
    return '', name
  tower, _, rest = name.partition('.')
  return tower, rest
