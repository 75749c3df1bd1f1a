"""The mixture-of-experts feed-forward of Gemma 4.

Axes: B batch, L length, D model, E experts, F hidden.
"""

from typing import Any

from flax import linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Float

from gemma.gm.math import _experts
from gemma.gm.math import _norm
from gemma.gm.nn import _config
from gemma.gm.nn import _layers


class Experts(nn.Module):
  """Experts, and the router that picks some for each token.

  Attributes:
    embed_dim: Width of the residual stream.
    spec: Their number and width.
    eps: Added to the mean square in the router's norm.
    dtype: Dtype of the parameters.
  """

  embed_dim: int
  spec: _config.Experts
  eps: float = 1e-6
  dtype: DTypeLike = jnp.bfloat16

  @nn.compact
  def __call__(
    self, x: Float[Array, 'B L D'], stream: Float[Array, 'B L D']
  ) -> Float[Array, 'B L D']:
    """What the experts add up to.

    Args:
      x: The normed residual stream, which the experts get.
      stream: The residual stream itself, which the router gets.
    """
    embed_dim, experts = self.embed_dim, self.spec.num_experts
    logits = self._route(_norm.rms_norm(stream, eps=self.eps))
    shares, index = _experts.route(logits, self.spec.top_k)
    scale = self._vector('per_expert_scale', experts)
    hidden = self.spec.hidden_dim
    return _experts.apply_experts(
      x,
      shares * scale[index],
      index,
      self._weight('gating_einsum', experts, 2, hidden, embed_dim),
      self._weight('linear', experts, hidden, embed_dim),
    )

  @nn.nowrap
  def _route(self, x: Float[Array, 'B L D']) -> Float[Array, 'B L E']:
    """Scores of the experts, float32."""
    scale = self._vector('router_scale', self.embed_dim)
    scale = scale.reshape((1,) * (x.ndim - 1) + (-1,))
    x = x.astype(jnp.float32) * scale * self.embed_dim**-0.5
    shape = self.embed_dim, self.spec.num_experts
    router = _layers.Einsum(shape, dtype=self.dtype, name='router_logits')
    return router('BLD,DE->BLE', x)

  @nn.nowrap
  def _vector(self, name: str, size: int) -> Float[Array, '_']:
    ones = nn.initializers.ones
    return self.param(name, ones, (size,), self.dtype).astype(jnp.float32)

  @nn.nowrap
  def _weight(self, name: str, *shape: int) -> _experts.Weights:
    return Weight(shape, self.dtype, name=name)()


class Weight(nn.Module):
  """One weight of all experts, or its integers if these are stored.

  Attributes:
    shape: Its shape.
    dtype: Its dtype.
  """

  shape: tuple[int, ...]
  dtype: DTypeLike = jnp.bfloat16

  @nn.compact
  def __call__(self) -> _experts.Weights:
    ints: Any = self.get_variable('params', '_IntEinsum_0')
    if ints is not None:
      return _experts.Weights(ints['kernel'], ints['scale'])
    w = self.param('w', _layers.INIT, self.shape, self.dtype)
    return _experts.Weights(w)
