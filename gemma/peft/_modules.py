"""Adapters around Flax's own layers.

Axes: r rank.
"""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

from flax import linen as nn
from flax.linen import dtypes
from flax.typing import Initializer
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Float

from gemma.peft import _einsum

INIT_A = nn.initializers.kaiming_uniform()
INIT_B = nn.initializers.zeros
_FLOAT: Any = float  # The default dtype of JAX.


def _wrapped() -> Any:
  """A field that is not shown: a wrapper can be a child of what it wraps."""
  return dataclasses.field(repr=False)


class LoRADenseAdapter(nn.Module):
  """`x A B` for a `nn.Dense`, https://arxiv.org/abs/2106.09685.

  Parameters are `a`, `[in, r]`, and `b`, `[r, features]`.

  ```python
  >>> import jax, jax.numpy as jnp
  >>> from gemma import peft
  >>> adapter = peft.LoRADenseAdapter(rank=2, features=5)
  >>> params = adapter.init(jax.random.key(0), jnp.ones((3, 4)))['params']
  >>> params['a'].shape, params['b'].shape
  ((4, 2), (2, 5))

  ```

  Attributes:
    rank: Columns of `A`.
    features: Columns of `B`.
    dtype: Dtype of the parameters.
    a_init: How `A` starts.
    b_init: How `B` starts.
  """

  _: dataclasses.KW_ONLY
  rank: int
  features: int
  dtype: DTypeLike = _FLOAT
  a_init: Initializer = INIT_A
  b_init: Initializer = INIT_B

  @nn.compact
  def __call__(self, inputs: Float[Array, '*B D']) -> Float[Array, '*B F']:
    a = self.param('a', self.a_init, (inputs.shape[-1], self.rank), self.dtype)
    b = self.param('b', self.b_init, (self.rank, self.features), self.dtype)
    x, a, b = dtypes.promote_dtype(inputs, a, b)
    return x @ a @ b


class LoRADense(nn.Module):
  """A `nn.Dense` with an adapter beside: `wrapped(x) + x A B`.

  Its parameters are those of the layer, and `lora/{a,b}` beside them.

  ```python
  >>> import jax, jax.numpy as jnp
  >>> from flax import linen as nn
  >>> from gemma import peft
  >>> layer = peft.LoRADense(rank=2, wrapped=nn.Dense(5))
  >>> params = layer.init(jax.random.key(0), jnp.ones((3, 4)))['params']
  >>> sorted(params), params['lora']['a'].shape
  (['bias', 'kernel', 'lora'], (4, 2))

  ```

  Attributes:
    rank: Columns of `A`.
    wrapped: The layer.
    dtype: Dtype of the adapter.
    a_init: How `A` starts.
    b_init: How `B` starts.
  """

  _: dataclasses.KW_ONLY
  rank: int
  wrapped: nn.Dense = _wrapped()
  dtype: DTypeLike = _FLOAT
  a_init: Initializer = INIT_A
  b_init: Initializer = INIT_B

  def setup(self):
    nn.share_scope(self, self.wrapped)
    self.lora = LoRADenseAdapter(
      rank=self.rank,
      features=self.wrapped.features,
      dtype=self.dtype,
      a_init=self.a_init,
      b_init=self.b_init,
    )

  def __call__(self, inputs: Float[Array, '*B D']) -> Float[Array, '*B F']:
    return self.wrapped(inputs) + self.lora(inputs)


class LoRAEinsumAdapter(nn.Module):
  """The same einsum with a weight of low rank, in two factors.

  `A` has the axes of the weight that the inputs have too, `B` those that are
  new in the outputs: `BTNH,NHD->BTD` becomes `BTNH,NHr,rD->BTD`.

  ```python
  >>> import jax, jax.numpy as jnp
  >>> from gemma import peft
  >>> adapter = peft.LoRAEinsumAdapter(
  ...   rank=2, einsum_str='BTD,NDH->BTNH', shape=(4, 8, 16)
  ... )
  >>> params = adapter.init(jax.random.key(0), jnp.ones((1, 3, 8)))['params']
  >>> params['a'].shape, params['b'].shape
  ((8, 2), (2, 4, 16))

  ```

  Attributes:
    rank: Size of the axis between both.
    einsum_str: `inputs,weights->outputs`.
    shape: Shape of the weight.
    dtype: Dtype of the parameters.
    a_init: How `A` starts.
    b_init: How `B` starts.
  """

  _: dataclasses.KW_ONLY
  rank: int
  einsum_str: str
  shape: Sequence[int]
  dtype: DTypeLike = _FLOAT
  a_init: Initializer = INIT_A
  b_init: Initializer = INIT_B

  @nn.compact
  def __call__(self, inputs: Float[Array, '...']) -> Float[Array, '...']:
    split = _einsum.split(self.einsum_str, tuple(self.shape), rank=self.rank)
    a = self.param('a', self.a_init, split.a, self.dtype)
    b = self.param('b', self.b_init, split.b, self.dtype)
    x, a, b = dtypes.promote_dtype(inputs, a, b)
    return jnp.einsum(split.einsum_str, x, a, b)


class LoRAEinsum(nn.Module):
  """A `nn.Einsum` with an adapter beside, see `LoRAEinsumAdapter`.

  Its parameters are those of the layer, and `lora/{a,b}` beside them.

  Attributes:
    rank: Size of the axis between both factors.
    wrapped: The layer.
    dtype: Dtype of the adapter.
    a_init: How `A` starts.
    b_init: How `B` starts.
  """

  _: dataclasses.KW_ONLY
  rank: int
  wrapped: nn.Einsum = _wrapped()
  dtype: DTypeLike = _FLOAT
  a_init: Initializer = INIT_A
  b_init: Initializer = INIT_B

  @nn.compact
  def __call__(
    self, inputs: Float[Array, '...'], einsum_str: str | None = None
  ) -> Float[Array, '...']:
    """The layer's product and the adapter's.

    Args:
      inputs: Activations.
      einsum_str: As of `nn.Einsum`: here, if not in the layer's own field.

    Raises:
      ValueError: If there is no equation, or it has not two operands.
    """
    nn.share_scope(self, self.wrapped)
    equation = nn.merge_param('einsum_str', self.wrapped.einsum_str, einsum_str)
    adapter = LoRAEinsumAdapter(
      rank=self.rank,
      einsum_str=equation,
      shape=self.wrapped.shape,
      dtype=self.dtype,
      a_init=self.a_init,
      b_init=self.b_init,
      name='lora',
    )
    out = adapter(inputs)  # First: its errors say more.
    return self.wrapped(inputs, einsum_str) + out


class LoRADenseGeneralAdapter(nn.Module):
  """`x A B` for a `nn.DenseGeneral`.

  Parameters are `a`, with the batch axes, those that are summed over and the
  rank, and `b`, with the batch axes, the rank and the features.

  ```python
  >>> import jax, jax.numpy as jnp
  >>> from gemma import peft
  >>> adapter = peft.LoRADenseGeneralAdapter(
  ...   rank=2, features=(5, 6), axis=(-2, -1), batch_dims=()
  ... )
  >>> params = adapter.init(jax.random.key(0), jnp.ones((3, 4, 7)))['params']
  >>> params['a'].shape, params['b'].shape
  ((4, 7, 2), (2, 5, 6))

  ```

  Attributes:
    rank: Size of the axis between both.
    features: Axes that are new in the result.
    axis: Axes of the input that are summed over.
    batch_dims: Its axes that have weights of their own.
    dtype: Dtype of the parameters.
    a_init: How `A` starts.
    b_init: How `B` starts.
  """

  _: dataclasses.KW_ONLY
  rank: int
  features: int | Sequence[int]
  axis: int | Sequence[int] = -1
  batch_dims: Sequence[int] = ()
  dtype: DTypeLike = _FLOAT
  a_init: Initializer = INIT_A
  b_init: Initializer = INIT_B

  @nn.compact
  def __call__(self, inputs: Float[Array, '...']) -> Float[Array, '...']:
    ndim = inputs.ndim
    batch = [i % ndim for i in self.batch_dims]
    summed = [i % ndim for i in _as_tuple(self.axis)]
    features = _as_tuple(self.features)
    shape = [inputs.shape[i] for i in (*batch, *summed)]
    a = self._factor('a', self.a_init, (*shape, self.rank), len(batch))
    b = self._factor(
      'b', self.b_init, (*shape[: len(batch)], self.rank, *features), len(batch)
    )
    x, a, b = dtypes.promote_dtype(inputs, a, b)
    # Batch axes first, as in the result of Flax's layer; then what is kept.
    kept = [i for i in range(ndim) if i not in (*batch, *summed)]
    x = x.transpose(*batch, *kept, *summed)
    rows = math.prod(x.shape[len(batch) : len(batch) + len(kept)])
    front = x.shape[: len(batch)]
    down = a.reshape(*front, -1, self.rank)
    up = b.reshape(*front, self.rank, -1)
    y = x.reshape(*front, rows, down.shape[-2]) @ down @ up
    return y.reshape(*x.shape[: len(batch) + len(kept)], *features)

  def _factor(
    self, name: str, init: Initializer, shape: tuple[int, ...], batch: int
  ) -> jax.Array:
    """A parameter; each index of the batch axes starts as one without."""

    def start(key: Any, shape: Any, dtype: Any) -> jax.Array:
      if not batch:
        return init(key, shape, dtype)
      keys = jax.random.split(key, math.prod(shape[:batch]))
      parts = jax.vmap(lambda key: init(key, shape[batch:], dtype))(keys)
      return parts.reshape(shape)

    return self.param(name, start, shape, self.dtype)


class LoRADenseGeneral(nn.Module):
  """A `nn.DenseGeneral` with an adapter beside: `wrapped(x) + x A B`.

  Its parameters are those of the layer, and `lora/{a,b}` beside them.

  Attributes:
    rank: Size of the axis between both factors.
    wrapped: The layer.
    dtype: Dtype of the adapter.
    a_init: How `A` starts.
    b_init: How `B` starts.
  """

  _: dataclasses.KW_ONLY
  rank: int
  wrapped: nn.DenseGeneral = _wrapped()
  dtype: DTypeLike = _FLOAT
  a_init: Initializer = INIT_A
  b_init: Initializer = INIT_B

  def setup(self):
    nn.share_scope(self, self.wrapped)
    self.lora = LoRADenseGeneralAdapter(
      rank=self.rank,
      features=self.wrapped.features,
      axis=self.wrapped.axis,
      batch_dims=self.wrapped.batch_dims,
      dtype=self.dtype,
      a_init=self.a_init,
      b_init=self.b_init,
    )

  def __call__(self, inputs: Float[Array, '...']) -> Float[Array, '...']:
    return self.wrapped(inputs) + self.lora(inputs)


def _as_tuple(x: int | Sequence[int]) -> tuple[int, ...]:
  return (x,) if isinstance(x, int) else tuple(x)
