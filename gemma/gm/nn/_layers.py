"""The smallest parts with parameters.

Axes: B batch, L length, D model, V vocab, F hidden.
"""

from collections.abc import Callable
from collections.abc import Sequence

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int

from gemma.gm.math import _lookup
from gemma.gm.math import _project
from gemma.gm.nn import _config

_INIT = nn.initializers.normal(stddev=0.01)


class Einsum(nn.Module):
  """A product with one weight, spelled as an einsum.

  Attributes:
    shape: Shape of the weight.
    weight_name: Name of the parameter.
    initializer: How the weight starts.
    dtype: Dtype of the parameter; bfloat16 by default.
  """

  shape: Sequence[int]
  weight_name: str = 'w'
  initializer: Callable[..., jax.Array] = _INIT
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(self, eqn: str, x: Float[Array, '...']) -> Float[Array, '...']:
    dtype = jnp.bfloat16 if self.dtype is None else self.dtype
    w = self.param(self.weight_name, self.initializer, tuple(self.shape), dtype)
    return _project.project(eqn, x, w, x.dtype)


class RMSNorm(nn.Module):
  """Root mean square norm (https://arxiv.org/abs/1910.07467), in float32.

  The scale is stored zero-centred: the output is `x / rms(x) * (1 + scale)`.

  Attributes:
    eps: Added to the mean square.
    dtype: Dtype of the parameter; bfloat16 by default.
  """

  eps: float = 1e-6
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(self, x: Float[Array, '*B D']) -> Float[Array, '*B D']:
    dtype = jnp.bfloat16 if self.dtype is None else self.dtype
    scale = self.param('scale', nn.initializers.zeros, (x.shape[-1],), dtype)
    wide = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    normed = wide * jax.lax.rsqrt(mean_square + self.eps)
    scale = scale.astype(jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,))
    return (normed * (1 + scale)).astype(x.dtype)


class Embedder(nn.Module):
  """The table that turns tokens into vectors, and vectors into logits.

  Attributes:
    vocab_size: Rows of the table.
    embed_dim: Width of a row.
    dtype: Dtype of the parameter; bfloat16 by default.
  """

  vocab_size: int
  embed_dim: int
  dtype: DTypeLike | None = None

  def setup(self):
    self.input_embedding = self.param(
      'input_embedding',
      _INIT,
      (self.vocab_size, self.embed_dim),
      jnp.bfloat16 if self.dtype is None else self.dtype,
    )

  def encode(self, tokens: Int[Array, '*B L']) -> Float[Array, '*B L D']:
    """Rows of the table times `sqrt(embed_dim)`, rounded as in training."""
    x = _lookup.lookup(self.input_embedding, tokens)
    return x * jnp.sqrt(jnp.float32(self.embed_dim)).astype(x.dtype)

  def decode(self, x: Float[Array, '*B L D']) -> Float[Array, '*B L V']:
    """Logits in float32: bfloat16 would tie close ones."""
    rows = x.reshape(-1, 1, self.embed_dim)
    logits = _project.project(
      'BLD,VD->BLV', rows, self.input_embedding, jnp.float32
    )
    return logits.reshape(*x.shape[:-1], self.vocab_size)


class FeedForward(nn.Module):
  """`(gelu(x W0) * (x W1)) W2`, https://arxiv.org/abs/2002.05202.

  Attributes:
    embed_dim: Width of the residual stream.
    spec: Hidden width and storage order.
    dtype: Dtype of the parameters.
  """

  embed_dim: int
  spec: _config.Dense
  dtype: DTypeLike = jnp.bfloat16

  @nn.compact
  def __call__(self, x: Float[Array, 'B L D']) -> Float[Array, 'B L D']:
    hidden = self.spec.hidden_dim
    order = 'FD' if self.spec.gate_last else 'DF'
    shape = {'F': hidden, 'D': self.embed_dim}
    gating = self.param(
      'gating_einsum', _INIT, (2, *(shape[axis] for axis in order)), self.dtype
    )
    linear = self.param('linear', _INIT, (hidden, self.embed_dim), self.dtype)
    eqn = f'BLD,C{order}->CBLF'
    gate, up = _project.project(eqn, x, gating, x.dtype)
    # In float32 inside: to round after each step is slow on a CPU, and worse.
    active = nn.gelu(gate.astype(jnp.float32), approximate=True)
    active = active.astype(x.dtype) * up
    return _project.project('BLF,FD->BLD', active, linear, x.dtype)
