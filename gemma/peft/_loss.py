"""What a loss does to adapters before the model gets them.

Both are functions of a tree, to be used inside of what is differentiated: the
numbers that are trained and saved stay those of the adapter.
"""

from collections.abc import Mapping
from typing import Any

from flax import traverse_util
import jax.numpy as jnp

from gemma.peft import _factors
from gemma.peft import _tree
from gemma.peft import _weights


def scale_lora(params: Mapping[str, Any], factor: float) -> dict[str, Any]:
  """Adapters whose products are multiplied: `factor x A B`.

  With `alpha / rank`, it is the factor of LoRA
  (https://arxiv.org/abs/2106.09685), with `alpha / sqrt(rank)` that of rsLoRA
  (https://arxiv.org/abs/2312.03732). Gradients are those of the adapters
  before: the factor is no part of what is trained.

  ```python
  def loss(lora, batch):
    params = peft.merge_params(base, peft.scale_lora(lora, 16 / rank))
    ...
  ```

  Args:
    params: Adapters alone, or with other parameters, which stay as they are.
    factor: The factor.
  """
  flat = traverse_util.flatten_dict(params, keep_empty_nodes=True)
  for path, x in flat.items():
    if path[-2:] == (_tree.LORA, _factors.B):
      flat[path] = x * jnp.asarray(factor, x.dtype)
  return traverse_util.unflatten_dict(flat)


def drop_lora(params: Mapping[str, Any], rate: float) -> dict[str, Any]:
  """Adapters whose inputs are dropped at random, for training.

  The models of `gm.nn` drop elements of the inputs of each adapter at this
  rate, and scale up the others, if they are given random numbers:
  `model.apply({'params': params}, tokens, rngs={'dropout': key})`. Without,
  they drop none.

  Args:
    params: Adapters alone, or with other parameters, which stay as they are.
    rate: From 0, which changes nothing, to below 1.

  Raises:
    ValueError: If the rate is none.
  """
  check_rate(rate)
  flat = traverse_util.flatten_dict(params, keep_empty_nodes=True)
  for path, x in list(flat.items()):
    if rate and path[-2:] == (_tree.LORA, _factors.A):
      # One for each layer, if there are several in one array.
      batch = x.shape[: _weights.is_stacked(path)]
      flat[(*path[:-1], _factors.DROPOUT)] = jnp.full(batch, rate, jnp.float32)
  return traverse_util.unflatten_dict(flat)


def check_rate(rate: float) -> None:
  """Raises if this is no rate of dropout."""
  if not 0 <= rate < 1:
    raise ValueError(f'dropout={rate} is not from 0 to below 1.')
