"""What a backward pass keeps of the forward pass, from shapes alone."""

import functools
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp

from gemma.gm.nn import _scan
from gemma.gm.nn import _transformer


def activation_bytes(
  model: _transformer.Transformer,
  params: Any,
  chosen: set[Any],
  rows: int,
  length: int,
) -> int:
  """Bytes that the backward pass needs, parameters left out.

  Args:
    model: The model.
    params: Shapes, NESTED.
    chosen: Paths of what is trained.
    rows: Rows of a batch.
    length: Tokens of a row.
  """
  # A flag for each parameter, as a dtype: whether it is trained.
  flat = traverse_util.flatten_dict(params)
  flags = traverse_util.unflatten_dict(
    {
      path: jax.ShapeDtypeStruct(x.shape, bool if path in chosen else x.dtype)
      for path, x in flat.items()
    }
  )
  if _can_stack(params, model):  # The same bytes, and quicker to follow.
    model = model.clone(scan_layers=True)
    params, flags = (
      _scan.stack_layers(tree, model.config) for tree in (params, flags)
    )
  leaves, structure = jax.tree.flatten(params)
  return _traced(
    model,
    structure,
    tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves),
    tuple(x.dtype == bool for x in jax.tree.leaves(flags)),
    rows,
    length,
  )


def _can_stack(params: Any, model: _transformer.Transformer) -> bool:
  """Whether layers that repeat have the same parameters: adapters may not."""

  def shapes(i: int) -> str:
    return str(jax.tree.map(jnp.shape, params[f'layer_{i}']))

  return all(
    shapes(i) == shapes(stack.start + place)
    for stack in _scan.stacks(model.config)
    for i, _, place in stack.layers()
  )


@functools.lru_cache(maxsize=64)
def _traced(
  model: _transformer.Transformer,
  structure: Any,
  leaves: tuple[Any, ...],
  trained: tuple[bool, ...],
  rows: int,
  length: int,
) -> int:
  def keep(leaves: list[Any], tokens: jax.Array) -> list[Any]:
    def states(some: list[Any]) -> jax.Array:
      pairs = zip(leaves, trained, strict=True)
      given = iter(some)
      whole = [next(given) if flag else x for x, flag in pairs]
      variables = {'params': jax.tree.unflatten(structure, whole)}
      out: Any = model.apply(variables, tokens, return_hidden_states=True)
      return out.hidden_states

    some = [x for x, flag in zip(leaves, trained, strict=True) if flag]
    _, backward = jax.vjp(states, some)
    # Weights, which a branch hands on as arrays of its own.
    known = {(x.shape, x.dtype) for x in leaves}
    kept = jax.tree.leaves(backward)
    return [x for x in kept if (x.shape, x.dtype) not in known]

  tokens = jax.ShapeDtypeStruct((rows, length), jnp.int32)
  kept = jax.eval_shape(keep, list(leaves), tokens)
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(kept))
