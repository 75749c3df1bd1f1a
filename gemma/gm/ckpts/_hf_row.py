"""One parameter, and the Hugging Face tensors that it is made of."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Row:
  """One parameter and the tensors that it is made of.

  Attributes:
    path: The parameter, `layer_0/attn/q_einsum/w`.
    names: The tensors, without prefix, `layers.0.self_attn.q_proj.weight`. More
      than one are stacked on a new first axis.
    pattern: How each tensor becomes the parameter, as an einops pattern.
    heads: Number `n` of heads in the pattern.
    rows: If set, only the first rows of the tensor count.
    padding: Rows that are written behind those, copies of that of padding: what
      stands for no token is then as unlikely as padding is.
  """

  path: str
  names: tuple[str, ...]
  pattern: str | None = None
  heads: int | None = None
  rows: int | None = None
  padding: int = 0

  def read(self, tensors: Sequence[Any]) -> Any:
    """The parameter from its tensors; of NumPy if they are."""
    parts = [self._rearrange(x[: self.rows], self.pattern) for x in tensors]
    stack = np.stack if isinstance(parts[0], np.ndarray) else jnp.stack
    return stack(parts) if len(parts) > 1 else parts[0]

  def write(self, param: jax.Array) -> list[jax.Array]:
    """The tensors from the parameter; the inverse of `read`."""
    parts = list(param) if len(self.names) > 1 else [param]
    if self.padding:
      more = jnp.broadcast_to(param[:1], (self.padding, *param.shape[1:]))
      parts = [jnp.concatenate([param, more])]
    inverse = self.pattern and ' -> '.join(reversed(self.pattern.split(' -> ')))
    return [self._rearrange(x, inverse) for x in parts]

  @property
  def order(self) -> list[int] | None:
    """The axes of what one tensor makes, in the tensor's order."""
    if self.pattern is None:
      return None
    tensor, param = self.pattern.split(' -> ')
    tensor = tensor.replace('(', '').replace(')', '')
    return [param.split().index(axis) for axis in tensor.split()]

  def transpose(self, part: np.ndarray) -> np.ndarray:
    """A view of what one tensor makes, with the axes in the tensor's order."""
    return part if self.order is None else part.transpose(self.order)

  def _rearrange(self, x: Any, pattern: str | None) -> Any:
    if pattern is None:
      return x
    sizes = {} if self.heads is None else {'n': self.heads}
    return einops.rearrange(x, pattern, **sizes)
