"""Checks of what a call goes on from: parameters, and an earlier state."""

from typing import Any

import jax
import jax.numpy as jnp

from gemma.gm.nn import _like
from gemma.gm.nn import _weights
from gemma.gm.text import _state


def check_params(params: Any) -> None:
  """Raises if the buffers of parameters were given away."""
  if _is_deleted(params):
    raise ValueError(
      'The parameters of this sampler are deleted: something that they were '
      'given to has reused their memory, as a training step does with its '
      'state. Make a sampler of the newest state.params, or train a copy: '
      'jax.tree.map(jnp.copy, params).'
    )


def check_alive(state: _state.SamplingState) -> None:
  """Raises if the buffers of a state were reused."""
  if _is_deleted(state):
    raise ValueError(
      'This state is deleted: the state of a stream is good until its next '
      'piece. Take that of the last piece, or of a call without stream=True.'
    )


def check_state(
  state: _state.SamplingState | None, model: _like.TransformerLike, params: Any
) -> None:
  """Raises unless a model can go on from a state.

  Args:
    state: `last_state`, if there is one.
    model: The model.
    params: Its parameters.

  Raises:
    ValueError: If it was deleted, or its cache is that of another model.
  """
  if state is None:
    return
  check_alive(state)
  dtype = jnp.dtype(_weights.dtype_of(params))
  own = {
    f'layer_{i}': _of_token(
      dtype, (spec.num_kv_heads, spec.head_dim), spec.window
    )
    for i, spec in enumerate(model.config.layers())
    if spec.kv_source is None
  }
  given = {
    name: _of_token(kv.k.dtype, kv.k.shape[2:], kv.window)
    for name, kv in state.cache.layers.items()
  }
  if own == given:
    return
  differ = [name for name in own if given.get(name) != own[name]]
  name = differ[0] if differ else next(n for n in given if n not in own)
  raise ValueError(
    f'last_state is of another model: {name} of its cache has '
    f'{given.get(name, "no keys")}, and that of this {type(model).__name__} '
    f'{own.get(name, "none")}. Go on with the model and dtype that it came '
    'from, or give all that was said as the prompt.'
  )


def _of_token(dtype: Any, shape: tuple[int, ...], window: int | None) -> str:
  """What a layer caches of a token."""
  return f'{dtype}{[*shape]}, window={window}'


def _is_deleted(tree: Any) -> bool:
  return any(
    leaf.is_deleted()
    for leaf in jax.tree.leaves(tree)
    if isinstance(leaf, jax.Array)
  )
