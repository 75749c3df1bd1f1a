"""Adapters folded into the weights that they adapt."""

from collections.abc import Mapping
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp

from gemma.peft import _tree
from gemma.peft import _weights


def fuse_params(params: Mapping[str, Any]) -> dict[str, Any]:
  """Adds each adapter to its weight, so that the plain model gives the same.

  ```python
  >>> import jax.numpy as jnp
  >>> from gemma import peft
  >>> lora = {'a': jnp.ones((3, 1)), 'b': jnp.ones((1, 2))}
  >>> params = {'mlp': {
  ...   'linear': jnp.zeros((3, 2)), '_LoRAEinsum_linear': {'lora': lora}
  ... }}
  >>> peft.fuse_params(params)['mlp']['linear'].shape
  (3, 2)

  ```

  Args:
    params: The parameters of a model with adapters, NESTED. Sums are made in
      float32, and rounded to the dtype of the weight once.

  Returns:
    The parameters of the model without.

  Raises:
    ValueError: If an adapter has no weight, or does not fit it.
  """
  original, lora = _tree.split_params(params)
  flat = traverse_util.flatten_dict(original)
  adapters = traverse_util.flatten_dict(lora)
  for weight in (*_weights.weights(original), *_weights.kernels(original)):
    name = weight.adapter
    if (*name, 'a') in adapters:
      a, b = adapters.pop((*name, 'a')), adapters.pop((*name, 'b'))
      flat[weight.path] = _add(weight, flat[weight.path], a, b)
  if adapters:
    raise ValueError(
      'Adapters without a weight beside them: '
      f'{sorted("/".join(path) for path in adapters)}.'
    )
  return traverse_util.unflatten_dict(flat)


def _add(weight: _weights.Weight, w: Any, a: Any, b: Any) -> jax.Array:
  summed = weight.summed
  product = jnp.tensordot(
    a.astype(jnp.float32),
    b.astype(jnp.float32),
    axes=((-1,), (0,)),
    precision='highest',
  )
  delta = jnp.moveaxis(product, range(len(summed)), summed)
  if a.shape[-1] != b.shape[0] or delta.shape != w.shape:
    raise ValueError(
      f'The adapter of {"/".join(weight.path)} {w.shape} does not fit it: a '
      f'{a.shape}, b {b.shape}.'
    )
  return (w.astype(jnp.float32) + delta).astype(w.dtype)
