"""How the weights of a layer may be stored: plain, as integers, adapted.

What is in the parameters decides: a model needs no wrapper to run with weights
that were quantized, or with adapters merged into its tree.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


def suffix(weight_name: str) -> str:
  """What the stand-ins of a weight are numbered or called by."""
  return '0' if weight_name == 'w' else weight_name


def dtype_of(params: Mapping[str, Any]) -> Any:
  """The dtype that a model computes in with these parameters."""
  if 'embedder' not in params:  # A model of one's own.
    leaves = (jnp.asarray(x).dtype for x in jax.tree.leaves(params))
    return next(x for x in leaves if jnp.issubdtype(x, jnp.floating))
  embedder = params['embedder']
  if 'input_embedding' in embedder:
    return embedder['input_embedding'].dtype
  return embedder['_IntEmbedder_0']['scale'].dtype
