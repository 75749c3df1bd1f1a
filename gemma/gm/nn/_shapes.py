"""Shapes of parameters, with each kind of layer traced once: it is quicker."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from gemma.gm.nn import _block
from gemma.gm.nn import _blocks
from gemma.gm.nn import _cache
from gemma.gm.nn import _config
from gemma.gm.nn import _inputs
from gemma.gm.nn import _scan
from gemma.gm.nn import _transformer


def param_shapes(model: _transformer.Transformer) -> dict[str, Any]:
  """Shapes and dtypes of a model's parameters, without making them."""
  config = model.config
  layers = config.layers()
  kinds = {
    spec: _layer(config, spec, model.dtype) for spec in dict.fromkeys(layers)
  }
  shapes = _outside(config, model.dtype) | {
    f'layer_{i}': kinds[spec] for i, spec in enumerate(layers)
  }
  return _scan.stack_layers(shapes, config) if model.scan_layers else shapes


class _NoBlocks(_blocks.Blocks):
  """No layers at all."""

  def setup(self):
    pass

  def __call__(self, x, context, cache, inputs):
    return {}, x


class _Outside(_transformer.Transformer):
  """A model without its layers."""

  BLOCKS = _NoBlocks


def _outside(config: _config.TransformerConfig, dtype: Any) -> dict[str, Any]:
  """What is around the layers."""
  small, encoder = config, config.vision_encoder
  if encoder is not None:
    vit = encoder.siglip_encoder.clone(depth=1, parent=None)
    vision = encoder.clone(siglip_encoder=vit, parent=None)
    small = dataclasses.replace(config, vision_encoder=vision)
  model = _Outside(config=small, dtype=dtype)
  tokens = jnp.ones((1, 1), jnp.int32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)['params']
  if encoder is not None:
    blocks = shapes['vision_encoder']['siglip_encoder']['Transformer']
    for i in range(encoder.siglip_encoder.depth):
      blocks[f'encoderblock_{i}'] = blocks['encoderblock_0']
  return shapes


def _layer(
  config: _config.TransformerConfig, spec: _config.LayerSpec, dtype: Any
) -> dict[str, Any]:
  """One layer, from what it makes of one token."""
  streams = () if config.altup is None else (config.altup.num_inputs,)
  width, heads = config.per_layer_input_dim, (spec.num_kv_heads, spec.head_dim)

  def init() -> Any:
    x = jnp.zeros((*streams, 1, 1, config.embed_dim), dtype)
    one = jnp.zeros((1, 1), jnp.int32)
    mask = _inputs.mask_of(one + 1, one[0], None, cached=False, images=False)
    context = _block.Context(one, mask, one[0])
    keys = jnp.zeros((1, 1, *heads), dtype)
    shared = _cache.KeyValues(k=keys, v=keys, index=one)
    return _block.Block(config, spec, dtype).init(
      jax.random.key(0),
      x,
      context,
      shared=None if spec.kv_source is None else shared,
      per_layer=jnp.zeros((1, 1, width), dtype) if width else None,
    )

  return jax.eval_shape(init)['params']
