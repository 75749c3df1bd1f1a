"""What the config of an adapter says of each module of a model."""

from collections.abc import Iterable
import dataclasses

import numpy as np

from gemma.gm.ckpts import _adapter_files
from gemma.gm.ckpts import _adapter_rows
from gemma.gm.ckpts import _adapter_settings

# The keys that decide which tensors a module has.
KEYS = (
  'r',
  'rank_pattern',
  'use_dora',
  'target_modules',
  'exclude_modules',
  'layers_to_transform',
  'layers_pattern',
  'modules_to_save',
)


@dataclasses.dataclass(frozen=True)
class Plan:
  """What the config says of one module.

  Attributes:
    module: Its name in a text model.
    target: Whether it has an adapter; None if nobody can know, as its full
      name is not known.
    rank: Rank of the adapter.
    factor: Factor on its product.
    use_dora: Whether it has magnitudes.
  """

  module: str
  target: bool | None
  rank: int
  factor: float
  use_dora: bool

  def problem(
    self, pair: _adapter_rows.Pair | None, shape: tuple[int, ...]
  ) -> str | None:
    """Why the tensors of the module do not fit; None if they do.

    Args:
      pair: The tensors.
      shape: Outputs and inputs of the module.
    """
    if pair is None:
      return f'missing: {self.module}, a target' if self.target else None
    if self.target is False:
      return f'not a target: {self.module}'
    lengths = None if pair.m is None else pair.m.shape
    outputs, inputs = shape
    a, b = (self.rank, inputs), (outputs, self.rank)
    m = (outputs,) if self.use_dora else None
    if (pair.a.shape, pair.b.shape, lengths) == (a, b, m):
      return None
    return (
      f'mis-shaped: {self.module} {shape}, lora_A {pair.a.shape}, lora_B '
      f'{pair.b.shape}, magnitudes {lengths} instead of {a}, {b}, {m}'
    )

  def scaled(
    self, pair: _adapter_rows.Pair | None, factor: float
  ) -> _adapter_rows.Pair | None:
    """The tensors with the factor that a model lacks in `b`.

    Args:
      pair: The tensors.
      factor: The factor of the model.
    """
    if pair is None:
      return None
    return pair._replace(b=pair.b * np.float32(self.factor / factor))


def plan(
  settings: _adapter_settings.Settings,
  tensors: _adapter_files.Tensors,
  modules: Iterable[str],
) -> dict[str, Plan]:
  """What the config says of each module, by its name in a text model."""
  full = {module: tensors.full_name(module) for module in modules}
  known = [name for name in full.values() if name is not None]
  targets = settings.targets(known)
  ranks, factors = settings.ranks(known), settings.factors(known)
  return {
    module: Plan(
      module,
      None if name is None else name in targets,
      ranks.get(name or '', settings.r),
      factors.get(name or '', 1.0),
      settings.use_dora,
    )
    for module, name in full.items()
  }
