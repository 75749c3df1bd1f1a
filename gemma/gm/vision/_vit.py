"""The vision transformer of SigLIP (https://arxiv.org/abs/2303.15343).

Axes: *B any batch dims, P patches, E elements of a patch, W width, N heads, H
head_dim, F hidden, S soft tokens.

Names of parameters are those of the released files, which are Flax's own.
"""

from collections.abc import Sequence
import math
from typing import Any

from flax import linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Key
from jaxtyping import UInt32

from gemma.gm.math import _attention
from gemma.gm.math import _mask
from gemma.peft import _factors

Rng = Key[Array, ''] | UInt32[Array, '2']  # Of either kind of keys.

_EPS = 1e-6
_XAVIER = nn.initializers.xavier_uniform()


class PatchEmbedding(nn.Module):
  """A convolution that does not overlap: one product for each patch.

  Attributes:
    shape: Rows, columns and channels of a patch.
    width: Width of the result.
    dtype: Dtype to compute in.
  """

  shape: tuple[int, int, int]
  width: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, patches: Float[Array, 'B P E']) -> Float[Array, 'B P W']:
    shape = (*self.shape, self.width)
    init = nn.initializers.lecun_normal()
    kernel = self.param('kernel', init, shape, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (self.width,), jnp.float32)
    kernel = kernel.reshape(-1, self.width).astype(self.dtype)
    x = jnp.einsum('BPE,EW->BPW', patches.astype(self.dtype), kernel)
    return x + bias.astype(self.dtype)[None, None]


class Dense(nn.Module):
  """Flax's `Dense` and `DenseGeneral` in one, with their parameters.

  If the parameters have an adapter in `lora`, it is added.

  Attributes:
    features: Axes of the result.
    num_summed: How many axes of the input are summed over, from the last.
    kernel_init: How the kernel starts, as a matrix.
    bias_init: How the bias starts.
    dtype: Dtype to compute in.
  """

  features: tuple[int, ...]
  num_summed: int = 1
  kernel_init: nn.initializers.Initializer = _XAVIER
  bias_init: nn.initializers.Initializer = nn.initializers.zeros
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B P ...']) -> Float[Array, 'B P ...']:
    summed = x.shape[x.ndim - self.num_summed :]
    matrix = math.prod(summed), math.prod(self.features)

    def init(key: Rng, shape: Sequence[int]) -> Array:
      return self.kernel_init(key, matrix, jnp.float32).reshape(shape)

    def apply(x: Array, kernel: Array, summed: int) -> Array:
      return jnp.tensordot(x, kernel.astype(self.dtype), summed)

    def adapter(x: Array, lora: Any) -> Array:
      return apply(apply(x, lora['a'], self.num_summed), lora['b'], 1)

    kernel = self.param('kernel', init, (*summed, *self.features))
    bias = self.param('bias', self.bias_init, self.features, jnp.float32)
    x = x.astype(self.dtype)
    y = apply(x, kernel, self.num_summed)
    lora: Any = self.get_variable('params', 'lora')
    if lora is not None:
      layer = _factors.Layer(
        summed=(*range(self.num_summed),),
        weight=lambda: kernel,
        product=lambda x: apply(x, kernel, self.num_summed),
        adapter=adapter,
        spread=lambda gain: gain.reshape(1, 1, *self.features),
      )
      drops = _factors.DROPOUT in lora and self.has_rng('dropout')
      rng = self.make_rng('dropout') if drops else None
      y = _factors.adapt(y, x, lora, layer, rng)
    return y + jnp.expand_dims(bias.astype(self.dtype), (0, 1))


class SelfAttention(nn.Module):
  """Attention of every patch to every patch; memory grows with their number.

  Attributes:
    num_heads: Heads.
    dtype: Dtype to compute in.
  """

  num_heads: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B P W']) -> Float[Array, 'B P W']:
    head_dim = x.shape[-1] // self.num_heads

    def heads(name: str) -> Float[Array, 'B P N H']:
      features = self.num_heads, head_dim
      return Dense(features, dtype=self.dtype, name=name)(x)

    index = jnp.broadcast_to(jnp.arange(x.shape[1])[None], x.shape[:2])
    out = _attention.attend(
      heads('query'),
      heads('key'),
      heads('value'),
      mask=_mask.Mask(q_index=index, k_index=index, causal=False),
      scale=head_dim**-0.5,
    )
    whole = Dense(x.shape[-1:], num_summed=2, dtype=self.dtype, name='out')
    return whole(out)


class MlpBlock(nn.Module):
  """Two layers with tanh GeLU between.

  Attributes:
    hidden_dim: Width between.
    dtype: Dtype to compute in.
  """

  hidden_dim: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B P W']) -> Float[Array, 'B P W']:
    width = x.shape[-1]
    x = nn.gelu(self._dense(self.hidden_dim)(x), approximate=True)
    return self._dense(width)(x)

  @nn.nowrap
  def _dense(self, features: int) -> Dense:
    bias_init = nn.initializers.normal(stddev=1e-6)
    return Dense((features,), bias_init=bias_init, dtype=self.dtype)


class EncoderBlock(nn.Module):
  """One layer: attention and MLP, each normed before and on the residual.

  Attributes:
    num_heads: Heads.
    hidden_dim: Width of the MLP.
    dtype: Dtype to compute in.
  """

  num_heads: int
  hidden_dim: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B P W']) -> Float[Array, 'B P W']:
    attention = SelfAttention(
      self.num_heads, self.dtype, name='MultiHeadDotProductAttention_0'
    )
    x += attention(_layer_norm(self.dtype)(x))
    return x + MlpBlock(self.hidden_dim, self.dtype)(_layer_norm(self.dtype)(x))


class Encoder(nn.Module):
  """The stack of layers, and the norm behind it.

  Attributes:
    depth: Layers.
    num_heads: Heads.
    hidden_dim: Width of the MLP.
    dtype: Dtype to compute in.
  """

  depth: int
  num_heads: int
  hidden_dim: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B P W']) -> Float[Array, 'B P W']:
    for i in range(self.depth):
      x = EncoderBlock(
        self.num_heads, self.hidden_dim, self.dtype, name=f'encoderblock_{i}'
      )(x)
    return _layer_norm(self.dtype, name='encoder_norm')(x)


class ViTModel(nn.Module):
  """Patches to features. By default So400m/14, the size of Gemma 3.

  Attributes:
    patch_size: Rows and columns of a patch.
    width: Width of the features.
    depth: Layers.
    mlp_dim: Width of the MLP.
    num_heads: Heads.
    dtype: Dtype to compute in, whatever that of the parameters: bfloat16
      shifts the soft tokens.
  """

  patch_size: tuple[int, int] = (14, 14)
  width: int = 1152
  depth: int = 27
  mlp_dim: int = 4304
  num_heads: int = 16
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, patches: Float[Array, 'B P E']) -> Float[Array, 'B P W']:
    rows, columns = self.patch_size
    channels = patches.shape[-1] // (rows * columns)
    shape = rows, columns, channels
    x = PatchEmbedding(shape, self.width, self.dtype, name='embedding')(patches)
    where = self.param(
      'pos_embedding',
      nn.initializers.normal(stddev=self.width**-0.5),
      (1, *x.shape[1:]),
      jnp.float32,
    )
    x += where.astype(self.dtype)
    encoder = Encoder(
      self.depth, self.num_heads, self.mlp_dim, self.dtype, name='Transformer'
    )
    return encoder(x)


class VisionExit(nn.Module):
  """Features to fewer of them: the mean over squares of patches.

  Attributes:
    output_length: How many remain of an image.
  """

  output_length: int = 256

  def __call__(self, x: Float[Array, 'B P W']) -> Float[Array, 'B S W']:
    side, new_side = math.isqrt(x.shape[1]), math.isqrt(self.output_length)
    pool = side // new_side
    # Row by row: P is (s p) of rows by (s q) of columns.
    x = x.reshape(-1, new_side, pool, new_side, pool, x.shape[-1])
    return x.mean(axis=(2, 4)).reshape(x.shape[0], -1, x.shape[-1])


def _layer_norm(dtype: DTypeLike, name: str | None = None) -> nn.LayerNorm:
  # Variance in two passes: in one, differences of large numbers remain of it.
  return nn.LayerNorm(
    epsilon=_EPS, dtype=dtype, use_fast_variance=False, name=name
  )
