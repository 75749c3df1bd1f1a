"""Equal layers as one, whose parameters have an axis more: compiled once.

Layers repeat with the period of their kinds of attention. What repeats is a
`Stack`; layers that differ (the last of an incomplete period, those whose keys
others read) stay on their own.

Axes: B batch, T tokens, D model, P width of a per-layer input, I streams, R
repeats of a stack.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import re
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Float

from gemma.gm.nn import _block
from gemma.gm.nn import _cache
from gemma.gm.nn import _config
from gemma.gm.nn import _observed
from gemma.gm.nn import _remat

_NAME = re.compile(r'layers_(\d+)_(\d+)')


@dataclasses.dataclass(frozen=True)
class Stack:
  """Layers that repeat.

  Attributes:
    start: The first.
    specs: What the layers of one period are.
    repeats: Periods; 1 for a layer on its own.
  """

  start: int
  specs: tuple[_config.LayerSpec, ...]
  repeats: int = 1

  @property
  def name(self) -> str:
    if self.repeats == 1:
      return f'layer_{self.start}'
    return f'layers_{self.start}_{self.stop - 1}'

  @property
  def stop(self) -> int:
    return self.start + len(self.specs) * self.repeats

  def layers(self) -> Iterator[tuple[int, int, int]]:
    """Each layer: its number, its repeat and its place in the period."""
    for i in range(self.start, self.stop):
      yield i, *divmod(i - self.start, len(self.specs))


def stacks(
  config: _config.TransformerConfig, *, scan: bool = True
) -> tuple[Stack, ...]:
  """All layers, in order: those that repeat together, if `scan` is set."""
  specs = config.layers()
  sources = {spec.kv_source for spec in specs}
  kinds = [(spec, i in sources) for i, spec in enumerate(specs)]
  period = _period(config.attention_types)
  out: list[Stack] = []
  i = 0
  while i < len(specs):
    repeats = 1
    one = kinds[i : i + period]
    while scan and kinds[i + repeats * period :][:period] == one:
      repeats += 1
    size = period if repeats > 1 else 1
    out.append(Stack(i, specs[i : i + size], repeats))
    i = out[-1].stop
  return tuple(out)


def stack_layers(
  params: Mapping[str, Any], config: _config.TransformerConfig
) -> dict[str, Any]:
  """The parameters of a model with `scan_layers=True`, from NESTED ones.

  ```python
  >>> from gemma import gm
  >>> tiny = gm.from_pretrained(gm.ckpts.CheckpointPath.GEMMA3_TINY_IT)
  >>> params = gm.nn.stack_layers(tiny.params, tiny.model.config)
  >>> gm.nn.unstack_layers(params)['layer_0'].keys() == tiny.params[
  ...   'layer_0'
  ... ].keys()
  True

  ```

  Args:
    params: Arrays or shapes, NESTED.
    config: The model's config.

  Returns:
    The parameters, those of layers that repeat in one array each. Copies.

  Raises:
    ValueError: If the config has another number of layers.
  """
  out = dict(params)
  for stack in stacks(config):
    if f'layer_{stack.stop - 1}' not in params:
      raise ValueError(
        f'params have no layer_{stack.stop - 1}, but the config has '
        f'{config.num_layers} layers. Give the params of the model, NESTED.'
      )
    if stack.repeats == 1:
      continue
    layers: list[list[Any]] = [[] for _ in stack.specs]
    for i, _, place in stack.layers():
      layers[place].append(out.pop(f'layer_{i}'))
    out[stack.name] = {
      f'layer_{place}': jax.tree.map(_stack, *same)
      for place, same in enumerate(layers)
    }
  return out


def unstack_layers(params: Mapping[str, Any]) -> dict[str, Any]:
  """NESTED parameters from those of a model with `scan_layers=True`.

  The inverse of `stack_layers`; NESTED parameters stay as they are.

  Args:
    params: Arrays or shapes.
  """
  out = dict(params)
  for name in params:
    if match := _NAME.fullmatch(name):
      period = out.pop(name)
      for i in range(int(match[1]), int(match[2]) + 1):
        repeat, place = divmod(i - int(match[1]), len(period))
        out[f'layer_{i}'] = layer_of(period, repeat, place)
  return out


def layer_of(period: Mapping[str, Any], repeat: int, place: int) -> Any:
  """The parameters of one layer of a stack."""

  def take(x: Any) -> Any:
    if isinstance(x, jax.ShapeDtypeStruct):
      return jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
    return x[repeat]

  return jax.tree.map(take, period[f'layer_{place}'])


class Period(nn.Module):
  """The layers of one period, one after the other, without a cache.

  Attributes:
    config: The model's config.
    specs: What each layer is.
    dtype: Dtype of the parameters.
    remat: What gradients keep of each.
  """

  config: _config.TransformerConfig
  specs: tuple[_config.LayerSpec, ...]
  dtype: DTypeLike = jnp.bfloat16
  remat: str = _remat.Remat.NONE

  @nn.compact
  def __call__(
    self,
    x: Float[Array, '*I B T D'],
    inputs: tuple[Float[Array, 'B T P'], ...] | None,
    context: _block.Context,
    shared: Mapping[int, _cache.KeyValues],
  ) -> tuple[Float[Array, '*I B T D'], None]:
    """The stream behind them; the None is what `nn.scan` collects.

    Args:
      x: The stream before them.
      inputs: The per-layer input of each.
      context: What all layers share.
      shared: What the layers attended to that these read from.
    """
    make = _remat.block_of(self.remat)
    for i, spec in enumerate(self.specs):
      block = make(self.config, spec, self.dtype, name=f'layer_{i}')
      source = None if spec.kv_source is None else shared[spec.kv_source]
      per_layer = None if inputs is None else inputs[i]
      x = run_layer(self.remat, block, x, context, source, per_layer)
    return x, None


def run_layer(
  remat: str,
  block: nn.Module,
  x: Float[Array, '*I B T D'],
  context: _block.Context,
  source: _cache.KeyValues | None,
  per_layer: Float[Array, 'B T P'] | None,
) -> Float[Array, '*I B T D']:
  """The stream behind a layer without a cache; for arguments see `Period`."""

  def layer(block: Any, x: jax.Array) -> jax.Array:
    return block(x, context, None, source, per_layer)[2]

  return _remat.run(remat, layer, block, x, context.mask.q_index)


def scanned(
  stack: Stack,
  config: _config.TransformerConfig,
  dtype: DTypeLike,
  remat: str,
) -> nn.Module:
  """A stack as a module, called like a `Period` with all inputs `[R ...]`."""
  scan = nn.scan(
    Period,
    variable_axes={'params': 0, _observed.INTERMEDIATES: 0},
    split_rngs={'params': True, 'dropout': True},
    in_axes=(0, nn.broadcast, nn.broadcast),
    length=stack.repeats,
  )
  return scan(config, stack.specs, dtype, remat, name=stack.name)


def _period(kinds: tuple[_config.AttentionType, ...]) -> int:
  """After how many layers the kinds of attention repeat."""
  counts = range(1, len(kinds) + 1)
  return next(n for n in counts if kinds[n:] == kinds[: len(kinds) - n])


def _stack(*parts: Any) -> Any:
  if isinstance(parts[0], jax.ShapeDtypeStruct):
    shape = len(parts), *parts[0].shape
    return jax.ShapeDtypeStruct(shape, parts[0].dtype)
  return jnp.stack(parts)
