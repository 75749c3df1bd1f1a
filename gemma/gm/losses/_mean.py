"""A mean that can be added to others before it is taken."""

from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

TINY = 1e-8  # In place of a count of 0.


class Mean(NamedTuple):
  """A sum, and of how many: what batch losses return.

  Means of parts of a batch, on several devices or one after the other, are
  added field by field; their value is then that of the whole batch. The mean
  of nothing is 0.

  ```python
  >>> import jax.numpy as jnp
  >>> from gemma import gm
  >>> values = jnp.array([1.0, 2.0, jnp.nan])
  >>> mean = gm.losses.Mean.of(values, jnp.array([True, True, False]))
  >>> mean.value, mean.count
  (Array(1.5, dtype=float32), Array(2., dtype=float32))

  ```

  Attributes:
    total: Sum of the values, float32.
    count: How many there are, float32.
  """

  total: jax.Array
  count: Any  # An array too; but tuples have a method of this name.

  @property
  def value(self) -> jax.Array:
    """The mean."""
    return self.total / jnp.maximum(self.count, TINY)

  @classmethod
  def of(cls, values: jax.Array, mask: ArrayLike | None = None) -> 'Mean':
    """The mean of values where a mask says so.

    Args:
      values: Any shape.
      mask: The same shape; by default all values count. Numbers are weights.
    """
    values = values.astype(jnp.float32)
    if mask is None:
      return cls(values.sum(), jnp.float32(values.size))
    weights = jnp.asarray(mask, jnp.float32)
    # What is masked may be anything, not a number too.
    kept = jnp.where(weights == 0, 0.0, values)
    return cls((kept * weights).sum(), weights.sum())
