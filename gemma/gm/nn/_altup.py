"""Several residual streams of which each layer computes one.

AltUp (https://arxiv.org/abs/2301.13310), as in Gemma 3n.

Axes: I streams, J the same as inputs, P the same in the router, B batch, L
length, D model.
"""

from flax import linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Float

from gemma.gm.math import _norm
from gemma.gm.nn import _config
from gemma.gm.nn import _layers


class AltUp(nn.Module):
  """What one layer does to the streams around its own computation.

  Coefficients are computed in float32.

  Attributes:
    config: The model's config.
    dtype: Dtype of the parameters.
  """

  config: _config.TransformerConfig
  dtype: DTypeLike = jnp.bfloat16

  def setup(self):
    spec, embed_dim = altup_of(self.config), self.config.embed_dim
    self.spec, n = spec, spec.num_inputs
    zeros, ones = nn.initializers.zeros, nn.initializers.ones
    self.prediction_coefs = self.param(
      'prediction_coefs', zeros, (n, n, n), self.dtype
    )
    self.correction_coefs = self.param(
      'correction_coefs', zeros, (n, n), self.dtype
    )
    self.correct_output_scale = self.param(
      'correct_output_scale', ones, (embed_dim,), self.dtype
    )
    self.modality_router = _layers.Einsum((embed_dim, n), dtype=self.dtype)
    self.router_norm_layer = _layers.norm_of(
      self.config, self.dtype, 'router_norm_layer'
    )

  def active(self, x: Float[Array, 'I B L D']) -> Float[Array, 'B L D']:
    """The stream that layers compute."""
    return x[self.spec.active]

  def predict(self, x: Float[Array, 'I B L D']) -> Float[Array, 'I B L D']:
    """The streams behind the layer, guessed from those before it."""
    coefs = self._clip(self.prediction_coefs)  # P I J
    mixed = jnp.einsum('BLP,PIJ->BLIJ', self._route(self.active(x)), coefs)
    wide = x.astype(jnp.float32)
    wide += jnp.einsum('BLIJ,JBLD->IBLD', mixed, wide)
    return wide.astype(x.dtype)

  def correct(
    self, predicted: Float[Array, 'I B L D'], active: Float[Array, 'B L D']
  ) -> Float[Array, 'I B L D']:
    """The streams behind the layer, given the one that it computed."""
    coefs = self._clip(self.correction_coefs)  # P I
    share = jnp.einsum('BLP,PI->IBL', self._route(active), coefs) + 1
    wide = predicted.astype(jnp.float32)
    error = active.astype(jnp.float32) - self.active(wide)
    return (wide + share[..., None] * error[None]).astype(predicted.dtype)

  def scale(self, x: Float[Array, 'B L D']) -> Float[Array, 'B L D']:
    """The computed stream, as it goes to the per-layer inputs."""
    return x * self.correct_output_scale.astype(x.dtype)[None, None]

  def add(
    self, x: Float[Array, 'I B L D'], update: Float[Array, 'B L D']
  ) -> Float[Array, 'I B L D']:
    """An update of all streams but the computed one."""
    others = jnp.arange(self.spec.num_inputs) != self.spec.active
    return x + jnp.where(others[:, None, None, None], update[None], 0)

  @nn.nowrap
  def _route(self, x: Float[Array, 'B L D']) -> Float[Array, 'B L P']:
    """How much of each coefficient a token takes."""
    normed = self.router_norm_layer(x).astype(jnp.float32)
    normed *= self.config.embed_dim**-1.0
    return jnp.tanh(self.modality_router('BLD,DP->BLP', normed))

  @nn.nowrap
  def _clip(self, coefs: Float[Array, '...']) -> Float[Array, '...']:
    limit = self.spec.coef_clip
    return jnp.clip(coefs.astype(jnp.float32), -limit, limit)


class Streams(nn.Module):
  """One stream to several, before the layers, and back behind them.

  Attributes:
    config: The model's config.
    dtype: Dtype of the parameters.
  """

  config: _config.TransformerConfig
  dtype: DTypeLike = jnp.bfloat16

  def setup(self):
    count = range(altup_of(self.config).num_inputs - 1)
    self.split_maps = [self._map(f'altup_projection_{i}') for i in count]
    self.join_maps = [self._map(f'altup_unembed_projection_{i}') for i in count]

  def split(self, x: Float[Array, 'B L D']) -> Float[Array, 'I B L D']:
    """The stream itself, and maps of it that are as large."""
    others = [_norm.match_rms(f('BLD,DE->BLE', x), x) for f in self.split_maps]
    others.insert(altup_of(self.config).active, x)
    return jnp.stack(others)

  def join(self, x: Float[Array, 'I B L D']) -> Float[Array, 'B L D']:
    """The mean of the computed stream and maps of the others."""
    active = altup_of(self.config).active
    own, others = x[active], [y for i, y in enumerate(x) if i != active]
    maps = zip(self.join_maps, others, strict=True)
    mapped = [_norm.match_rms(f('BLD,DE->BLE', y), own) for f, y in maps]
    mean = jnp.mean(jnp.stack([own, *mapped]).astype(jnp.float32), axis=0)
    return mean.astype(x.dtype)

  @nn.nowrap
  def _map(self, name: str) -> _layers.Einsum:
    width = self.config.embed_dim
    return _layers.Einsum(
      (width, width), weight_name=name, dtype=self.dtype, name=name
    )


def altup_of(config: _config.TransformerConfig) -> _config.AltUp:
  """The streams of a config that has them."""
  if config.altup is None:
    raise ValueError('The config has no altup.')
  return config.altup
