"""What an `adapter_config.json` of PEFT says, and its rules for modules.

Names of modules are full and as PEFT spells them,
`model.language_model.layers.0.self_attn.q_proj`.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import pathlib

from gemma.gm.ckpts import _adapter_regex

_ALL_LINEAR = 'all-linear'  # But the output head.
TABLES = ('embed_tokens', 'embed_tokens_per_layer', 'lm_head')
# The first number in a name: that of an expert comes behind that of its layer.
_LAYER = r'.*?\.[^.]*\.(?P<idx>\d+)\.'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """The keys that change numbers, with the defaults of `peft.LoraConfig`.

  Attributes:
    file: The file.
    r: Rank.
    lora_alpha: The factor times the rank.
    use_rslora: Whether it is the factor times the root of the rank.
    use_dora: Whether adapters have magnitudes.
    rank_pattern: Other ranks by regular expression; the first match counts.
    alpha_pattern: Other values of `lora_alpha`, likewise.
    target_modules: The modules that have adapters: names, ends of names, or a
      regular expression.
    exclude_modules: Modules without, likewise.
    layers_to_transform: The layers with adapters; all if it is empty.
    layers_pattern: Expressions for the name before the number of a layer.
    modules_to_save: Modules that are trained as a whole.
    trainable_token_indices: Rows that are trained, by the name of their table.
    ensure_weight_tying: Whether the output head is trained as the table is.
  """

  file: pathlib.Path
  r: int = 8
  lora_alpha: float = 8
  use_rslora: bool = False
  use_dora: bool = False
  rank_pattern: Mapping[str, int] = dataclasses.field(default_factory=dict)
  alpha_pattern: Mapping[str, float] = dataclasses.field(default_factory=dict)
  target_modules: str | Sequence[str] = ()
  exclude_modules: str | Sequence[str] = ()
  layers_to_transform: Sequence[int] = ()
  layers_pattern: Sequence[str] = ()
  modules_to_save: Sequence[str] = ()
  trainable_token_indices: Mapping[str, Sequence[int]] = dataclasses.field(
    default_factory=dict
  )
  ensure_weight_tying: bool = False

  def targets(self, modules: Iterable[str]) -> set[str]:
    """The modules that have an adapter.

    Args:
      modules: Full names of linear maps and tables.
    """
    left = [*modules]
    if self.exclude_modules:
      excluded = self._named('exclude_modules', left)
      left = [module for module in left if module not in excluded]
    saved = self._matches('modules_to_save', around, left)
    left = [module for module in left if module not in saved]
    if isinstance(self.target_modules, str):
      if self.target_modules.lower() == _ALL_LINEAR:
        return {m for m in left if m.rsplit('.', 1)[-1] not in TABLES}
      return self._named('target_modules', left)
    found = self._named('target_modules', left)
    if not self.layers_to_transform:
      return found
    full = found & {*self.target_modules}
    return full | self._in_layers(sorted(found - full))

  def ranks(self, modules: Sequence[str]) -> dict[str, int]:
    """The rank of each module, by its full name."""
    found = self._matches('rank_pattern', ending_in, modules)
    ranks = self.rank_pattern
    return {m: ranks[found[m][0]] if m in found else self.r for m in modules}

  def factors(self, modules: Sequence[str]) -> dict[str, float]:
    """The factor on the product of each module's adapter, by its full name."""
    found = self._matches('alpha_pattern', ending_in, modules)
    factors = {}
    for module, rank in self.ranks(modules).items():
      alpha = self.lora_alpha
      if module in found:
        alpha = self.alpha_pattern[found[module][0]]
      factors[module] = alpha / (rank**0.5 if self.use_rslora else rank)
    return factors

  def _named(self, key: str, modules: Sequence[str]) -> set[str]:
    """The modules of an expression, or of a list of names or their ends."""
    named = vars(self)[key]
    if isinstance(named, str):
      return {*self._matches(key, None, modules)}
    full, ends = {*named}, tuple(f'.{name}' for name in named)
    return {m for m in modules if m in full or m.endswith(ends)}

  def _in_layers(self, modules: Sequence[str]) -> set[str]:
    """The modules in the layers that have adapters."""
    if self.layers_pattern:
      found = self._matches('layers_pattern', before_layer, modules)
    else:
      matches = _adapter_regex.match(_LAYER, modules)
      pairs = zip(modules, matches, strict=True)
      found = {m: ('', layer) for m, layer in pairs if layer}
    layers = {*self.layers_to_transform}
    return {m for m, (_, layer) in found.items() if int(layer) in layers}

  def _matches(
    self, key: str, make: Callable[[str], str] | None, modules: Sequence[str]
  ) -> dict[str, tuple[str, str]]:
    """For each module the first pattern that matches, and its group `idx`."""
    given = vars(self)[key]
    given = [given] if isinstance(given, str) else given
    every = _adapter_regex.match_in_time(
      {own: make(own) if make else own for own in given},
      modules,
      where=f'{key} in {self.file}',
      whole=make is None,
    )
    found: dict[str, tuple[str, str]] = {}
    for pattern, matches in every.items():
      for module, match in zip(modules, matches, strict=True):
        if match is not None:
          found.setdefault(module, (pattern, match))
    return found


def ending_in(pattern: str) -> str:
  """The expression that PEFT makes of a key of `rank_pattern`."""
  return rf'(.*\.)?({pattern})$'


def before_layer(pattern: str) -> str:
  """The expression that PEFT makes of `layers_pattern`."""
  return rf'(?:^|.*?\.){pattern}\.(?P<idx>\d+)\.'


def around(pattern: str) -> str:
  """The expression that PEFT makes of an entry of `modules_to_save`."""
  return rf'(^|.*\.){pattern}($|\..*)'
