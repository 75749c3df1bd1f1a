"""What each layer gets of each token by a table of its own.

Per-layer embeddings, as in Gemma 3n and 4.

Axes: *B any batch dims, B batch, L length, Z layers, P width of an input, D
model, V vocab.
"""

from typing import Any

from flax import linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int

from gemma.gm.math import _lookup
from gemma.gm.nn import _config
from gemma.gm.nn import _layers

# Of Gemma 4, and of 3n.
TABLES = 'per_layer_embeddings', 'per_layer_input_embedding'
PROJECTIONS = 'per_layer_model_projection', 'per_layer_input_projection'


class PerLayerInputs(nn.Module):
  """Inputs of all layers, from the tokens and from their embeddings.

  Parameters are those of the embedder, which shares its scope.

  Attributes:
    config: The model's config.
    dtype: Dtype of the parameters.
  """

  config: _config.TransformerConfig
  dtype: DTypeLike = jnp.bfloat16

  @nn.compact
  def __call__(
    self, tokens: Int[Array, 'B L'], x: Float[Array, 'B L D']
  ) -> Float[Array, 'B L Z P']:
    """The mean, but for its length, of what tokens and embeddings say.

    Args:
      tokens: Token ids; those that stand for no row count as padding.
      x: The residual stream before the first layer.
    """
    config = self.config
    width = config.per_layer_input_dim
    vocab = config.per_layer_rows or config.num_embed
    layers = config.num_layers
    gemma3n = config.altup is not None
    shape = (config.embed_dim, layers, width)
    project = _layers.Einsum(shape, dtype=self.dtype, name=PROJECTIONS[gemma3n])
    norm = _layers.norm_of(config, self.dtype, 'per_layer_projection_norm')
    projected = project('BLD,DZP->BLZP', x) * config.embed_dim**-0.5
    known = jnp.where((tokens >= 0) & (tokens < vocab), tokens, 0)
    rows = self._rows(TABLES[gemma3n], known).astype(x.dtype)
    rows *= jnp.sqrt(jnp.float32(width)).astype(rows.dtype)
    return (norm(projected) + rows) * jnp.asarray(2**-0.5, x.dtype)

  @nn.nowrap
  def _rows(
    self, name: str, tokens: Int[Array, 'B L']
  ) -> Float[Array, 'B L Z P']:
    """Rows of the table, which may be stored as integers."""
    ints: Any = self.get_variable('params', f'_IntEmbedder_{name}')
    if ints is not None:
      scale = _lookup.lookup(ints['scale'], tokens)
      rows = _lookup.lookup(ints['kernel'], tokens)
      return rows.astype(scale.dtype) / scale
    config = self.config
    count = config.per_layer_rows or config.num_embed
    shape = count, config.num_layers, config.per_layer_input_dim
    table = self.param(name, _layers.INIT, shape, self.dtype)
    return _lookup.lookup(table, tokens)


class PerLayerMapping(nn.Module):
  """What a layer makes of its input: an update of the residual stream.

  Attributes:
    config: The model's config.
    dtype: Dtype of the parameters.
  """

  config: _config.TransformerConfig
  dtype: DTypeLike = jnp.bfloat16

  @nn.compact
  def __call__(
    self, x: Float[Array, 'B L D'], per_layer: Float[Array, 'B L P']
  ) -> Float[Array, 'B L D']:
    width, embed_dim = self.config.per_layer_input_dim, self.config.embed_dim
    gate = self._einsum('per_layer_input_gate', embed_dim, width)
    project = self._einsum('per_layer_projection', width, embed_dim)
    active = nn.gelu(gate('BLD,DP->BLP', x).astype(jnp.float32))
    update = project('BLP,PD->BLD', active.astype(x.dtype) * per_layer)
    name = 'post_per_layer_input_norm'
    return _layers.norm_of(self.config, self.dtype, name)(update)

  @nn.nowrap
  def _einsum(self, name: str, *shape: int) -> _layers.Einsum:
    return _layers.Einsum(shape, dtype=self.dtype, name=name)
