"""How the weights of a layer may be stored: plain, as integers, adapted.

What is in the parameters decides: a model needs no wrapper to run with weights
that were quantized, or with adapters merged into its tree.
"""

from collections.abc import Mapping
from typing import Any

import jax
from jax.typing import DTypeLike

from gemma.gm.math import _project


def suffix(weight_name: str) -> str:
  """What the stand-ins of a weight are numbered or called by."""
  return '0' if weight_name == 'w' else weight_name


def dtype_of(params: Mapping[str, Any]) -> Any:
  """The dtype that a model computes in with these parameters."""
  embedder = params['embedder']
  if 'input_embedding' in embedder:
    return embedder['input_embedding'].dtype
  return embedder['_IntEmbedder_0']['scale'].dtype


def apply_adapter(
  eqn: str, x: jax.Array, lora: Mapping[str, Any], dtype: DTypeLike
) -> jax.Array:
  """`x A B` of an adapter (https://arxiv.org/abs/2106.09685).

  Args:
    eqn: The einsum of the weight that is adapted.
    x: Activations.
    lora: `a`, what is summed over and then the rank; `b`, the rank and then
      what is not.
    dtype: Dtype of the result.
  """
  inputs, out = eqn.split('->')
  x_axes, w_axes = inputs.split(',')
  summed = ''.join(axis for axis in w_axes if axis in x_axes)
  kept = ''.join(axis for axis in w_axes if axis not in x_axes)
  low = f'{x_axes[:2]}r'
  down = _project.project(f'{x_axes},{summed}r->{low}', x, lora['a'], x.dtype)
  return _project.project(f'{low},r{kept}->{out}', down, lora['b'], dtype)
