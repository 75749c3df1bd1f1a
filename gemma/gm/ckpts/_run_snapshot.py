"""From the state of a run to what its files hold."""

from collections.abc import Iterable
import pathlib
from typing import Any

import jax

from gemma.gm.ckpts import _run_files
from gemma.gm.ckpts import _run_leaves
from gemma.gm.ckpts import _run_values


class Snapshot:
  """What is saved, as it was when `save` was called.

  Attributes:
    step: How many steps were done.
    about: What each leaf is.
  """

  def __init__(self, step: int):
    """Of nothing yet."""
    self.step = step
    self.about: dict[str, Any] = {}
    self._pieces: Iterable[tuple[str, _run_leaves.Piece]] = ()
    self._data: Any = None

  def take(self, state: Any, data: Any, *, copy: bool) -> None:
    """Checks all leaves, and copies them; or fetches each when it is written.

    Raises:
      TypeError: If something cannot be saved.
    """
    leaves = _run_leaves.flatten(state)
    self.about = {
      k: _run_leaves.describe_values(x, k) for k, x in leaves.items()
    }
    self._data = _run_values.encode(data, 'data')
    first = jax.process_index() == 0
    pieces = (
      (name, piece)
      for name, leaf in leaves.items()
      for piece in _run_leaves.pieces(leaf, copy=copy, first_process=first)
    )
    self._pieces = list(pieces) if copy else pieces

  def write_shards(self, folder: pathlib.Path) -> None:
    """Writes the part of this process."""
    process = jax.process_index()
    _run_files.write_shards(folder, process, self._pieces, self._data)
