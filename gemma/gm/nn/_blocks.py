"""All layers of a model, one after the other.

Axes: B batch, T tokens, D model, N layers, P width of a per-layer input, I
streams.
"""

from collections.abc import Callable
from collections.abc import Mapping
import functools
from typing import Any

from flax import linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Float

from gemma.gm.nn import _block
from gemma.gm.nn import _cache
from gemma.gm.nn import _config
from gemma.gm.nn import _remat
from gemma.gm.nn import _scan

# What layers attended to, by their numbers; None has none.
_Seen = Mapping[int | None, _cache.KeyValues | None]


class Blocks(nn.Module):
  """The layers. Parameters are those of the model, which shares its scope.

  Attributes:
    config: The model's config.
    dtype: Dtype of the parameters.
    remat: What gradients keep of each layer.
    scan: Whether layers that repeat are compiled once.
  """

  config: _config.TransformerConfig
  dtype: DTypeLike = jnp.bfloat16
  remat: str = _remat.Remat.NONE
  scan: bool = False

  def setup(self):
    self._stacks = _scan.stacks(self.config, scan=self.scan)
    self._modules = [self._module(stack) for stack in self._stacks]
    self._sources = {spec.kv_source for spec in self.config.layers()}

  def __call__(
    self,
    x: Float[Array, '*I B T D'],
    context: _block.Context,
    cache: _cache.KVCache | None,
    inputs: Float[Array, 'B T N P'] | None,
  ) -> tuple[dict[str, _cache.LayerKV | None], Float[Array, '*I B T D']]:
    """The extended cache of each layer that has one, and the last stream.

    Args:
      x: The stream before the first layer; all of them if there are several.
      context: What all layers share.
      cache: Keys and values of the tokens before.
      inputs: What each layer gets of its own.
    """
    layers: dict[str, _cache.LayerKV | None] = {}
    seen: dict[int | None, _cache.KeyValues | None] = {None: None}
    for stack, module in zip(self._stacks, self._modules, strict=True):
      if stack.repeats > 1 and cache is None:
        x = self._run_stack(stack, module, x, context, seen, inputs)
        continue
      for i, repeat, place in stack.layers():
        source = stack.specs[place].kv_source
        own = None if cache is None else cache.layers.get(f'layer_{i}')
        per_layer = None if inputs is None else inputs[:, :, i]
        if cache is None and i not in self._sources:
          x = _scan.run_layer(
            self.remat, module, x, context, seen[source], per_layer
          )
          continue
        block: Callable[..., Any] = module
        if stack.repeats > 1:
          block = self._unstacked(stack, repeat, place)
        extended, seen[i], x = block(x, context, own, seen[source], per_layer)
        if source is None:
          layers[f'layer_{i}'] = extended
    return layers, x

  @nn.nowrap
  def _run_stack(
    self,
    stack: _scan.Stack,
    module: nn.Module,
    x: Float[Array, '*I B T D'],
    context: _block.Context,
    seen: _Seen,
    inputs: Float[Array, 'B T N P'] | None,
  ) -> Float[Array, '*I B T D']:
    """Layers that repeat, without a cache."""
    sources = {spec.kv_source for spec in stack.specs} - {None}
    shared = {source: seen[source] for source in sources}
    rows = None
    if inputs is not None:
      period = len(stack.specs)
      parts = [
        inputs[:, :, stack.start + place : stack.stop : period]
        for place in range(period)
      ]
      rows = tuple(jnp.moveaxis(part, 2, 0) for part in parts)
    return module(x, rows, context, shared)[0]

  @nn.nowrap
  def _unstacked(
    self, stack: _scan.Stack, repeat: int, place: int
  ) -> Callable[..., Any]:
    """One layer of a stack, as a function."""
    params: Any = self.get_variable('params', stack.name)
    layer = {'params': _scan.layer_of(params, repeat, place)}
    spec = stack.specs[place]
    block = _block.Block(self.config, spec, self.dtype, parent=None)
    return functools.partial(block.apply, layer)

  @nn.nowrap
  def _module(self, stack: _scan.Stack) -> nn.Module:
    if stack.repeats > 1:
      return _scan.scanned(stack, self.config, self.dtype, self.remat)
    make = _remat.block_of(self.remat)
    return make(self.config, stack.specs[0], self.dtype, name=stack.name)
