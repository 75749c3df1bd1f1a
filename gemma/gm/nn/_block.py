"""Attention and the block around it.

Axes: B batch, T query, S key, D model, N query heads, K kv heads, H head_dim.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int

from gemma.gm.math import _attention
from gemma.gm.math import _mask
from gemma.gm.math import _rope
from gemma.gm.nn import _cache
from gemma.gm.nn import _config
from gemma.gm.nn import _layers


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

  def setup(self):
    spec, embed_dim = self.spec, self.config.embed_dim
    n, k, h = spec.num_heads, spec.num_kv_heads, spec.head_dim
    if spec.fused_qkv:
      self.qkv_einsum = self._einsum(3, n, embed_dim, h)
    else:
      self.q_einsum = self._einsum(n, embed_dim, h)
      self.kv_einsum = self._einsum(2, k, embed_dim, h)
    if spec.qk_norm:
      eps = self.config.norm_eps
      self._query_norm = _layers.RMSNorm(eps=eps, dtype=self.dtype)
      self._key_norm = _layers.RMSNorm(eps=eps, dtype=self.dtype)
    self.attn_vec_einsum = self._einsum(n, h, embed_dim)

  def __call__(
    self,
    x: Float[Array, 'B T D'],
    positions: Int[Array, 'B T'],
    mask: _mask.Mask,
    length: Int[Array, 'B'],
    cache: _cache.LayerKV | None = None,
  ) -> tuple[_cache.LayerKV | None, Float[Array, 'B T D']]:
    """Attends from `x` to itself and to what is in the cache.

    Args:
      x: Normed residual stream.
      positions: Position of each token, for RoPE.
      mask: Indices of the queries and of the new keys; this layer adds its
        window and the keys of the cache.
      length: Tokens that each row had before.
      cache: Their keys and values.

    Returns:
      The extended cache (None without one), and the attention's output.
    """
    q, k, v = self._project(x)
    if self.spec.qk_norm:
      q, k = self._query_norm(q), self._key_norm(k)
    rope = self.spec.attention.rope
    q, k = _rope.rotate(q, positions, rope), _rope.rotate(k, positions, rope)

    if cache is None:
      seen = _cache.KeyValues(k=k, v=v, index=mask.k_index)
    else:
      cache, seen = cache.extend(k, v, mask.k_index, length)
    out = _attention.attend(
      q,
      seen.k,
      seen.v,
      mask=mask.replace(k_index=seen.index, window=self.spec.window),
      scale=self.spec.query_scale,
      softcap=self.spec.softcap,
    )
    return cache, self.attn_vec_einsum('BTNH,NHD->BTD', out)

  def _einsum(self, *shape: int) -> _layers.Einsum:
    return _layers.Einsum(shape, dtype=self.dtype)

  def _project(self, x: jax.Array) -> tuple[jax.Array, ...]:
    if self.spec.fused_qkv:
      return tuple(self.qkv_einsum('BTD,CNDH->CBTNH', x))
    q = self.q_einsum('BTD,NDH->BTNH', x)
    k, v = self.kv_einsum('BTD,CKDH->CBTKH', x)
    return q, k, v


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

  def setup(self):
    spec = self.spec
    self.pre_attention_norm = self._norm()
    self.attn = Attention(self.config, spec, self.dtype)
    self.post_attention_norm = self._norm() if spec.post_attn_norm else None
    self.pre_ffw_norm = self._norm()
    self.mlp = _layers.FeedForward(self.config.embed_dim, spec.ffw, self.dtype)
    self.post_ffw_norm = self._norm() if spec.post_ffw_norm else None

  def __call__(
    self,
    x: Float[Array, 'B T D'],
    positions: Int[Array, 'B T'],
    mask: _mask.Mask,
    length: Int[Array, 'B'],
    cache: _cache.LayerKV | None = None,
  ) -> tuple[_cache.LayerKV | None, Float[Array, 'B T D']]:
    """The residual stream after this layer; arguments as `Attention`."""
    attended = self.pre_attention_norm(x)
    cache, attended = self.attn(attended, positions, mask, length, cache)
    if self.post_attention_norm is not None:
      attended = self.post_attention_norm(attended)
    x += attended
    hidden = self.mlp(self.pre_ffw_norm(x))
    if self.post_ffw_norm is not None:
      hidden = self.post_ffw_norm(hidden)
    return cache, x + hidden

  def _norm(self) -> _layers.RMSNorm:
    return _layers.RMSNorm(eps=self.config.norm_eps, dtype=self.dtype)
