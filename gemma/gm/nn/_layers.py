"""The smallest parts with parameters.

Axes: *B any batch dims, B batch, L length, D model, V vocab, F hidden, S soft
tokens, W width of the vision encoder.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from flax import linen as nn
import jax
from jax import ad_checkpoint
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int

from gemma.gm.math import _integers
from gemma.gm.math import _lookup
from gemma.gm.math import _norm
from gemma.gm.math import _partition
from gemma.gm.math import _project
from gemma.gm.math import _sparsity
from gemma.gm.nn import _adapters
from gemma.gm.nn import _config
from gemma.gm.nn import _weights
from gemma.peft import _factors

INIT = nn.initializers.normal(stddev=0.01)
_ONES = nn.initializers.ones
_F32 = jnp.float32
PRODUCT = 'product'  # What `remat` calls a product with a weight.


class Einsum(nn.Module):
  """A product with one weight, spelled as any einsum.

  If the parameters have `_IntEinsum_0` in place of the weight, as
  `peft.quantize` puts it there, its integers are used; the adapter in
  `_LoRAEinsum_0`, if there is one, is added. With a `weight_name` of its own,
  it ends their names in place of the 0. Keys and values, gate and up, which are
  one weight here, may have an adapter each, as `_LoRAEinsum_v_proj`.

  Attributes:
    shape: Shape of the weight.
    weight_name: Name of the parameter.
    initializer: How the weight starts.
    dtype: Dtype of the parameter; bfloat16 by default.
  """

  shape: Sequence[int]
  weight_name: str = 'w'
  initializer: Callable[..., jax.Array] = INIT
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(self, eqn: str, x: Float[Array, '...']) -> Float[Array, '...']:
    suffix = _weights.suffix(self.weight_name)
    ints: Any = self.get_variable('params', f'_IntEinsum_{suffix}')
    stored = _adapters.Stored(None, ints)
    if ints is None:
      dtype = jnp.bfloat16 if self.dtype is None else self.dtype
      shape = tuple(self.shape)
      w = self.param(self.weight_name, self.initializer, shape, dtype)
      stored = _adapters.Stored(w)
    adapters = self._adapters(suffix)
    if not _project.fits(eqn):
      if adapters:
        raise ValueError(
          f'{"/".join(self.path)} has an adapter, which cannot be added to '
          f'{eqn!r}. Begin the axes of the input with batch and length, and '
          'end them with what is summed over, in the order of the weight.'
        )
      y = jnp.einsum(eqn, x, stored.floats(), preferred_element_type=_F32)
      return ad_checkpoint.checkpoint_name(y.astype(x.dtype), PRODUCT)
    y = _partition.constrain(stored.project(eqn, x), eqn.split('->')[1])
    y = ad_checkpoint.checkpoint_name(y, PRODUCT)
    for lora, part in adapters:
      drops = _factors.DROPOUT in lora and self.has_rng('dropout')
      rng = self.make_rng('dropout') if drops else None
      y = _adapters.adapt(eqn, y, x, stored, lora, part=part, rng=rng)
    return y

  @nn.nowrap
  def _adapters(self, suffix: str) -> list[tuple[Any, int | None]]:
    """The adapters in the parameters, and of which part each is."""
    module = (self.name or '') if suffix == '0' else suffix
    found = []
    for name, part in _adapters.places(module, suffix):
      adapter: Any = self.get_variable('params', name)
      if adapter:
        found.append((adapter['lora'], part))
    if len(found) > 1 and found[0][1] is None:
      raise ValueError(
        f'{"/".join(self.path)} has an adapter, and a part of it has one too. '
        'Keep one of them.'
      )
    return found


class RMSNorm(nn.Module):
  """Root mean square norm (https://arxiv.org/abs/1910.07467), in float32.

  By default the scale is stored zero-centred: the output is
  `x / rms(x) * (1 + scale)`.

  Attributes:
    eps: Added to the mean square.
    dtype: Dtype of the parameter; bfloat16 by default.
    zero_centered: Whether the factor is `1 + scale` and not `scale`.
  """

  eps: float = 1e-6
  dtype: DTypeLike | None = None
  zero_centered: bool = True

  @nn.compact
  def __call__(self, x: Float[Array, '*B D']) -> Float[Array, '*B D']:
    dtype = jnp.bfloat16 if self.dtype is None else self.dtype
    start = nn.initializers.zeros if self.zero_centered else _ONES
    scale = self.param('scale', start, (x.shape[-1],), dtype)
    scale = scale.astype(jnp.float32) + float(self.zero_centered)
    return _norm.rms_norm(x, scale, eps=self.eps)


class Embedder(nn.Module):
  """The table that turns tokens into vectors, and vectors into logits.

  If the parameters have `_IntEmbedder_0` in place of the table, its integers
  are used.

  Attributes:
    vocab_size: Rows of the table.
    embed_dim: Width of a row.
    vision_proj_dim: Width of a vision encoder's soft tokens, if there is one.
    dtype: Dtype of the table; bfloat16 by default.
  """

  vocab_size: int
  embed_dim: int
  vision_proj_dim: int | None = None
  dtype: DTypeLike | None = None

  def setup(self):
    dtype = jnp.bfloat16 if self.dtype is None else self.dtype
    self.integers: Any = self.get_variable('params', '_IntEmbedder_0')
    if self.integers is None:
      shape = self.vocab_size, self.embed_dim
      self.input_embedding = self.param('input_embedding', INIT, shape, dtype)
    if self.vision_proj_dim is not None:
      # In float32, as released: in float16 units, bfloat16 overflows here.
      shape = self.vision_proj_dim, self.embed_dim
      self.mm_soft_embedding_norm = RMSNorm(dtype=jnp.float32)
      self.mm_input_projection = Einsum(shape, dtype=jnp.float32)

  @property
  def compute_dtype(self) -> DTypeLike:
    """Dtype of the table, or of what its integers stand for."""
    if self.integers is None:
      return self.input_embedding.dtype
    return self.integers['scale'].dtype

  def encode(self, tokens: Int[Array, '*B L']) -> Float[Array, '*B L D']:
    """Rows of the table times `sqrt(embed_dim)`, rounded as in training."""
    if self.integers is None:
      x = _lookup.lookup(self.input_embedding, tokens)
    else:
      kernel, scale = self.integers['kernel'], self.integers['scale']
      rows = _lookup.lookup(kernel, tokens).astype(scale.dtype)
      x = rows / _lookup.lookup(scale, tokens)
    return x * jnp.sqrt(jnp.float32(self.embed_dim)).astype(x.dtype)

  def encode_vision(self, x: Float[Array, '*B S W']) -> Float[Array, '*B S D']:
    """Soft tokens in the width of the model, in float32."""
    rows = x.astype(jnp.float32).reshape(-1, *x.shape[-2:])
    rows = self.mm_input_projection(
      'BSW,WD->BSD', self.mm_soft_embedding_norm(rows)
    )
    return rows.reshape(*x.shape[:-1], self.embed_dim)

  def decode(self, x: Float[Array, '*B L D']) -> Float[Array, '*B L V']:
    """Logits in float32: bfloat16 would tie close ones."""
    rows = x if x.ndim == 3 else x.reshape(-1, 1, self.embed_dim)
    eqn = 'BLD,VD->BLV'
    if self.integers is None:
      table = self.input_embedding
      logits = _project.project(eqn, rows, table, jnp.float32)
    else:
      logits = _integers.project_integers(
        eqn, rows, **self.integers, dtype=jnp.float32
      )
    logits = _partition.constrain(logits, 'BLV')
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
    gating = self._einsum('gating_einsum', 2, *(shape[axis] for axis in order))
    linear = self._einsum('linear', hidden, self.embed_dim)
    gate, up = gating(f'BLD,C{order}->CBLF', x)
    if self.spec.sparsity:
      gate = _sparsity.sparsify(gate, self.spec.sparsity)
    # In float32 inside: to round after each step is slow on a CPU, and worse.
    active = nn.gelu(gate.astype(jnp.float32), approximate=True)
    active = active.astype(x.dtype) * up
    return linear('BLF,FD->BLD', active)

  @nn.nowrap
  def _einsum(self, name: str, *shape: int) -> Einsum:
    """A weight that is a leaf of this module's parameters."""
    einsum = Einsum(shape, weight_name=name, dtype=self.dtype)
    nn.share_scope(self, einsum)
    return einsum


class LowRank(nn.Module):
  """`x A B`.

  Attributes:
    rank: Columns of `A`.
    dtype: Dtype of the parameters.
  """

  rank: int
  dtype: DTypeLike = jnp.bfloat16

  @nn.compact
  def __call__(self, x: Float[Array, 'B L D']) -> Float[Array, 'B L D']:
    left = self._einsum('linear_left', x.shape[-1], self.rank)
    right = self._einsum('linear_right', self.rank, x.shape[-1])
    return right('BLR,RD->BLD', left('BLD,DR->BLR', x))

  @nn.nowrap
  def _einsum(self, name: str, *shape: int) -> Einsum:
    return Einsum(shape, dtype=self.dtype, name=name)


def norm_of(
  config: _config.TransformerConfig, dtype: DTypeLike, name: str
) -> RMSNorm:
  """A norm as the config has it."""
  return RMSNorm(
    eps=config.norm_eps,
    dtype=dtype,
    zero_centered=config.zero_centered_norms,
    name=name,
  )
