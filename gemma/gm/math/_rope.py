"""Rotary position embeddings (RoPE), https://arxiv.org/abs/2104.09864.

Axes: B batch, L length, N heads, H head_dim, P = H // 2 rotated pairs.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int
import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rope:
  """How one layer encodes positions.

  Attributes:
    base: Wavelength base; pair `j` turns by `position / base ** (2j / H)`.
    scale_factor: Linear position interpolation
      (https://arxiv.org/abs/2306.15595): positions are divided by it.
    proportion: Share of the pairs that turn, counted from the fastest; the
      others are left as they are.
  """

  base: float = 10_000
  scale_factor: float = 1.0
  proportion: float = 1.0

  def __post_init__(self):
    if self.scale_factor < 1:
      raise ValueError(
        f'scale_factor={self.scale_factor} would stretch positions. Use 1.0 '
        'or more.'
      )
    if not 0 <= self.proportion <= 1:
      raise ValueError(f'proportion={self.proportion} is not within [0, 1].')

  def frequencies(self, head_dim: int) -> np.ndarray:
    """Radians per position of each pair, `float64[head_dim // 2]`."""
    turning = int(self.proportion * head_dim // 2)
    exponents = 2 * np.arange(head_dim // 2) / head_dim
    frequencies = self.base**-exponents / self.scale_factor
    return np.where(np.arange(head_dim // 2) < turning, frequencies, 0.0)


def apply_rope(
  inputs: Float[Array, '*B L N H'],
  positions: Int[Array, '*B L'],
  *,
  base_frequency: float,
  scale_factor: float = 1.0,
  rope_proportion: float = 1.0,
) -> Float[Array, '*B L N H']:
  """Rotates each head by the angle of its position.

  The first half of the head is paired with the second (not interleaved).
  Angles and products are float32 whatever the input: in bfloat16 angles are
  useless beyond a few hundred positions.

  ```python
  >>> import jax.numpy as jnp
  >>> x = jnp.ones((1, 3, 2, 8))
  >>> apply_rope(x, jnp.arange(3)[None], base_frequency=10_000).shape
  (1, 3, 2, 8)

  ```

  Args:
    inputs: Queries or keys.
    positions: Position of each token.
    base_frequency: See `Rope.base`.
    scale_factor: See `Rope.scale_factor`.
    rope_proportion: See `Rope.proportion`.

  Returns:
    The rotated heads, in the dtype of `inputs`.

  Raises:
    ValueError: If `scale_factor` is below 1.
  """
  rope = Rope(
    base=base_frequency, scale_factor=scale_factor, proportion=rope_proportion
  )
  return rotate(inputs, positions, rope)


def rotate(
  inputs: Float[Array, '*B L N H'], positions: Int[Array, '*B L'], rope: Rope
) -> Float[Array, '*B L N H']:
  """`apply_rope` for a `Rope` that is already at hand."""
  frequencies = jnp.asarray(rope.frequencies(inputs.shape[-1]), jnp.float32)
  frequencies = frequencies.reshape((1,) * positions.ndim + (-1,))
  angles = positions[..., None].astype(jnp.float32) * frequencies  # [*B L P]
  sin, cos = jnp.sin(angles)[..., None, :], jnp.cos(angles)[..., None, :]
  a, b = jnp.split(inputs.astype(jnp.float32), 2, axis=-1)
  out = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
  return out.astype(inputs.dtype)
