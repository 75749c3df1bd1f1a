"""Whether a folder is that of this run."""

from collections.abc import Mapping
import json
import os
import pathlib
from typing import Any
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from gemma.gm.ckpts import _tree
from gemma.gm.training import _state

_FILE = 'run.json'


def check(
  folder: pathlib.Path, config: Mapping[str, Any], state: _state.TrainState
) -> None:
  """Compares with what the folder says, if it says something.

  Args:
    folder: Of a run.
    config: What the user says that the run is.
    state: That of a new run.

  Raises:
    ValueError: If it is another one, with all that differs.
    TypeError: If `config` is not for JSON.
  """
  file = folder / _FILE
  if not file.exists():
    return
  there, here = json.loads(file.read_text()), _about(config, state)
  names = sorted(there['config'].keys() | here['config'].keys())
  different = [
    f'{name}: {_shown(there, name)} there, {_shown(here, name)} here'
    for name in names
    if _shown(there, name) != _shown(here, name)
  ]
  if there['frozen'] != here['frozen']:
    different.append('the parameters that are frozen')
  if different:
    raise ValueError(
      f'{folder} has another run, which differs in\n  '
      + '\n  '.join(different)
      + '\nGo on as it began, choose another folder, or delete this one.'
    )


def write(
  folder: pathlib.Path, config: Mapping[str, Any], state: _state.TrainState
) -> None:
  """Says in the folder what run it is of, unless that is said.

  Args:
    folder: An existing folder.
    config: What the user says that the run is.
    state: That of a new run.
  """
  file = folder / _FILE
  if not file.exists():
    new = folder / f'.{_FILE}'
    new.write_text(json.dumps(_about(config, state), indent=2) + '\n')
    os.replace(new, file)


def _about(
  config: Mapping[str, Any], state: _state.TrainState
) -> dict[str, Any]:
  plain = json.loads(json.dumps(dict(config)))  # Tuples become lists.
  return {'config': plain, 'frozen': fingerprint(state.frozen)}


def _shown(about: dict[str, Any], name: str) -> str:
  config = about['config']
  return json.dumps(config[name]) if name in config else 'nothing'


def fingerprint(params: Any) -> str:
  """A number that other parameters hardly have, from every bit of these.

  It is the same on any number of devices: integers have no rounding.

  Args:
    params: Nested dicts of arrays.
  """
  total = 0
  for path, leaf in sorted(_tree.leaves(params).items()):
    name = f'{"/".join(path)} {leaf.dtype} {leaf.shape}'
    total += (int(_sum_of_bits(leaf)) + 1) * (zlib.crc32(name.encode()) | 1)
  return f'{total % 2**64:016x}'


@jax.jit
def _sum_of_bits(x: jax.Array) -> jax.Array:
  if jnp.issubdtype(x.dtype, jnp.floating):
    bits = 8 * np.dtype(x.dtype).itemsize
    x = jax.lax.bitcast_convert_type(x, f'uint{bits}')
  return jnp.sum(x.astype(jnp.uint32))
