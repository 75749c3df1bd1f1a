"""Attention and the block around it.

Axes: B batch, T query, S key, D model, N query heads, K kv heads, H head_dim.
"""

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int

from gemma.gm.math import _mask
from gemma.gm.math import _norm
from gemma.gm.math import _rope
from gemma.gm.nn import _altup
from gemma.gm.nn import _attention_weights
from gemma.gm.nn import _cache
from gemma.gm.nn import _config
from gemma.gm.nn import _experts
from gemma.gm.nn import _layers
from gemma.gm.nn import _observed
from gemma.gm.nn import _per_layer


class Attention(nn.Module):
  """Multi-head attention with grouped keys and values.

  Attributes:
    config: The model's config.
    spec: What this layer is.
    dtype: Dtype of the parameters.
  """

  config: _config.TransformerConfig
  spec: _config.LayerSpec
  dtype: DTypeLike = jnp.bfloat16

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'B T D'],
    context: 'Context',
    cache: _cache.LayerKV | None = None,
    shared: _cache.KeyValues | None = None,
  ) -> tuple[_cache.LayerKV | None, _cache.KeyValues, Float[Array, 'B T D']]:
    """Attends from `x` to itself and to what is in the cache.

    Args:
      x: Normed residual stream.
      context: What all layers share; this one adds its window and the keys of
        the cache to the mask.
      cache: Keys and values of the tokens before.
      shared: What the layer attended to whose keys and values this one reads.

    Returns:
      The extended cache (None without one), what was attended to, and the
      attention's output.
    """
    spec = self.spec
    n, h, embed_dim = spec.num_heads, spec.head_dim, self.config.embed_dim
    if spec.fused_qkv:
      q, k, v = self._einsum('qkv_einsum', 3, n, embed_dim, h)(
        'BTD,CNDH->CBTNH', x
      )
    else:
      q = self._einsum('q_einsum', n, embed_dim, h)('BTD,NDH->BTNH', x)
    q = self._rotate(self._normed('query_norm', q), context)
    if shared is None:
      if not spec.fused_qkv:
        k, v = self._keys_values(x)
      k = self._rotate(self._normed('key_norm', k), context)
      if spec.value_norm:
        v = _norm.rms_norm(v, eps=self.config.norm_eps)
      cache, shared = self._extend(cache, k, v, context)
    mask = context.mask.replace(k_index=shared.index, window=spec.window)
    out = _attention_weights.attend(
      _attention_weights.AttentionWeights(name='attention_weights'),
      q,
      shared.k,
      shared.v,
      mask=mask if spec.images_see else mask.replace(q_last=None),
      scale=spec.query_scale,
      softcap=spec.softcap,
    )
    output = self._einsum('attn_vec_einsum', n, h, embed_dim)
    return cache, shared, output('BTNH,NHD->BTD', out)

  @nn.nowrap
  def _keys_values(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    k, h = self.spec.num_kv_heads, self.spec.head_dim
    shape = k, self.config.embed_dim, h
    if self.spec.keys_as_values:
      keys = self._einsum('k_einsum', *shape)('BTD,KDH->BTKH', x)
      return keys, keys
    both = self._einsum('kv_einsum', 2, *shape)('BTD,CKDH->CBTKH', x)
    return both[0], both[1]

  @nn.nowrap
  def _extend(
    self,
    cache: _cache.LayerKV | None,
    k: jax.Array,
    v: jax.Array,
    context: 'Context',
  ) -> tuple[_cache.LayerKV | None, _cache.KeyValues]:
    index = context.mask.k_index
    if cache is None:
      return None, _cache.KeyValues(k=k, v=v, index=index)
    return cache.extend(k, v, index, context.length)

  @nn.nowrap
  def _normed(self, name: str, x: jax.Array) -> jax.Array:
    if not self.spec.qk_norm:
      return x
    # Gemma 3 has an underscore there.
    prefix = '_' if self.config.zero_centered_norms else ''
    return _layers.norm_of(self.config, self.dtype, prefix + name)(x)

  @nn.nowrap
  def _rotate(self, x: jax.Array, context: 'Context') -> jax.Array:
    return _rope.rotate(x, context.positions, self.spec.attention.rope)

  @nn.nowrap
  def _einsum(self, name: str, *shape: int) -> _layers.Einsum:
    return _layers.Einsum(shape, dtype=self.dtype, name=name)


class Context(struct.PyTreeNode):
  """What all layers share in a forward pass.

  Attributes:
    positions: Position of each token, for RoPE.
    mask: Indices of the queries and of the new keys.
    length: Tokens that each row had before.
  """

  positions: Int[Array, 'B T']
  mask: _mask.Mask
  length: Int[Array, 'B']


class Block(nn.Module):
  """One layer: attention and feed-forward, each on the residual stream.

  Attributes:
    config: The model's config.
    spec: What this layer is.
    dtype: Dtype of the parameters.
  """

  config: _config.TransformerConfig
  spec: _config.LayerSpec
  dtype: DTypeLike = jnp.bfloat16

  @nn.compact
  def __call__(
    self,
    x: Float[Array, '*I B T D'],
    context: Context,
    cache: _cache.LayerKV | None = None,
    shared: _cache.KeyValues | None = None,
    per_layer: Float[Array, 'B T P'] | None = None,
  ) -> tuple[_cache.LayerKV | None, _cache.KeyValues, Float[Array, '*I B T D']]:
    """The residual stream, or all of them, after this layer.

    Args:
      x: The stream; all of them if the config has `altup`.
      context: See `Attention`, as the next two.
      cache: Keys and values of the tokens before.
      shared: What another layer attended to.
      per_layer: This layer's own input.

    Returns:
      The extended cache, what was attended to, and the stream.
    """
    if self.config.altup is not None:
      return self._layer_of_streams(x, context, cache, shared, per_layer)
    cache, shared, x = self._layer(x, context, cache, shared)
    if per_layer is not None:
      mapping = _per_layer.PerLayerMapping(self.config, self.dtype)
      nn.share_scope(self, mapping)
      x += mapping(x, per_layer)
    return cache, shared, self._recorded(self._scaled(x))

  @nn.nowrap
  def _layer_of_streams(
    self,
    x: jax.Array,
    context: Context,
    cache: _cache.LayerKV | None,
    shared: _cache.KeyValues | None,
    per_layer: jax.Array | None,
  ) -> tuple[_cache.LayerKV | None, _cache.KeyValues, jax.Array]:
    """One stream through the layer; its input moves the others."""
    altup = _altup.AltUp(self.config, self.dtype, name='altup')
    x = altup.predict(x)
    cache, shared, y = self._layer(altup.active(x), context, cache, shared)
    x = altup.correct(x, y)
    if per_layer is not None:
      mapping = _per_layer.PerLayerMapping(
        self.config, self.dtype, name='per_layer_mapping'
      )
      x = altup.add(x, mapping(altup.scale(altup.active(x)), per_layer))
    return cache, shared, self._recorded(x)

  @nn.nowrap
  def _layer(
    self,
    x: jax.Array,
    context: Context,
    cache: _cache.LayerKV | None,
    shared: _cache.KeyValues | None,
  ) -> tuple[_cache.LayerKV | None, _cache.KeyValues, jax.Array]:
    normed = self._norm('pre_attention_norm')(x)
    attention = Attention(self.config, self.spec, self.dtype, name='attn')
    cache, shared, attended = attention(normed, context, cache, shared)
    if self.spec.post_attn_norm:
      attended = self._norm('post_attention_norm')(attended)
    x += attended
    if self.spec.laurel_rank:
      x = (x + self._laurel(normed)) * jnp.asarray(2**-0.5, x.dtype)
    return cache, shared, x + self._feed_forward(x)

  @nn.nowrap
  def _laurel(self, x: jax.Array) -> jax.Array:
    """A residual branch of low rank (https://arxiv.org/abs/2411.07501)."""
    laurel = _layers.LowRank(self.spec.laurel_rank, self.dtype, name='laurel')
    return x + self._norm('post_laurel_norm')(laurel(x))

  @nn.nowrap
  def _feed_forward(self, x: jax.Array) -> jax.Array:
    if self.spec.experts is None:
      hidden = self._dense('mlp')(self._norm('pre_ffw_norm')(x))
    else:
      hidden = self._dense('mlp2')(self._norm('pre_ffw2_norm')(x))
      hidden = self._norm('post_ffw2_norm')(hidden)
      experts = _experts.Experts(
        self.config.embed_dim,
        self.spec.experts,
        self.config.norm_eps,
        self.dtype,
        name='mlp',
      )
      chosen = experts(self._norm('pre_ffw_norm')(x), x)
      hidden += self._norm('post_ffw1_norm')(chosen)
    if self.spec.post_ffw_norm:
      hidden = self._norm('post_ffw_norm')(hidden)
    return hidden

  @nn.nowrap
  def _scaled(self, x: jax.Array) -> jax.Array:
    if not self.spec.layer_scalar:
      return x
    scale = self.param('skip_scale', nn.initializers.ones, (1,), self.dtype)
    return x * scale.astype(x.dtype)[None, None]

  @nn.nowrap
  def _recorded(self, x: jax.Array) -> jax.Array:
    self.sow(_observed.INTERMEDIATES, 'residual_stream', x)
    return x

  @nn.nowrap
  def _dense(self, name: str) -> _layers.FeedForward:
    width, spec = self.config.embed_dim, self.spec.ffw
    return _layers.FeedForward(width, spec, self.dtype, name=name)

  @nn.nowrap
  def _norm(self, name: str) -> _layers.RMSNorm:
    return _layers.norm_of(self.config, self.dtype, name)
