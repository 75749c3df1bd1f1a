"""Adapters folded into the weights that they adapt, and out again."""

from collections.abc import Mapping
from typing import Any

from flax import traverse_util
import jax.numpy as jnp

from gemma.peft import _factors
from gemma.peft import _targets
from gemma.peft import _tree
from gemma.peft import _weights

_Flat = dict[_weights.Path, Any]


def fuse_params(
  params: Mapping[str, Any],
  *,
  dequantize: bool = False,
  einsums: Mapping[str, str] | None = None,
) -> dict[str, Any]:
  """Adds each adapter to its weight, so that the plain model gives the same.

  Adapters with a factor (`alpha` of `gm.nn.LoRA`) are scaled first:
  `fuse_params(scale_lora(params, model.factor))`.

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
    params: The parameters of a model with adapters: NESTED, those of
      `scan_layers`, or of Flax's own layers. Sums are made in float32, and
      rounded to the dtype of the weight once.
    dequantize: Whether weights that are stored as integers become floats, in
      the dtype of their scales, where they have an adapter: the sum has no
      integers. Quantize it anew for less memory.
    einsums: Equations of `nn.Einsum` by the path of the module, where shapes do
      not tell which axes are summed over: if several do, the first axes are
      taken, as `nn.Dense` and `nn.DenseGeneral` have them.

  Returns:
    The parameters of the model without.

  Raises:
    ValueError: If an adapter has no weight, or does not fit it, or its weight
      is stored as integers and `dequantize` is not set.
  """
  original, lora = _tree.split_params(params)
  flat = traverse_util.flatten_dict(original)
  for path in _adapted_paths(original, lora, einsums):
    _make_float(flat, path, dequantize=dequantize)
  plain = traverse_util.unflatten_dict(flat)
  for target, adapter in _pairs(plain, lora, einsums):
    flat[target.path] = target.replaced(
      lambda w, lora, summed=target.summed: _factors.changed(w, lora, summed),
      jnp.asarray(flat[target.path]),
      adapter,
    )
  return traverse_util.unflatten_dict(flat)


def unfuse_params(
  params: Mapping[str, Any],
  lora: Mapping[str, Any],
  *,
  base: Mapping[str, Any] | None = None,
  einsums: Mapping[str, str] | None = None,
) -> dict[str, Any]:
  """Takes adapters out of weights again: the inverse of `fuse_params`.

  Without `base`, what the adapters add is subtracted: the weights are those
  before, but for what both sums were rounded. With it, the weights are taken
  from there: bit for bit, and integers are back.

  ```python
  >>> import jax.numpy as jnp
  >>> from gemma import peft
  >>> lora = {'dense': {'lora': {'a': jnp.ones((3, 1)), 'b': jnp.ones((1, 2))}}}
  >>> fused = {'dense': {'kernel': jnp.ones((3, 2))}}
  >>> params = peft.unfuse_params(fused, lora)
  >>> params['dense']['kernel'].sum().item(), sorted(params['dense'])
  (0.0, ['kernel', 'lora'])

  ```

  Args:
    params: Parameters that adapters were folded into.
    lora: The adapters, as they were folded in (with their factor).
    base: The parameters before, with adapters or without; the adapted weights
      are enough.
    einsums: As of `fuse_params`.

  Returns:
    The parameters of the model with adapters, as `fuse_params` got them.

  Raises:
    ValueError: If an adapter has no weight, or does not fit it; or if it has a
      magnitude (DoRA) and there is no `base`: scaled weights do not tell how
      long they were.
  """
  lora = _tree.split_params(lora).lora
  flat = traverse_util.flatten_dict(_tree.split_params(params).original)
  before = None
  if base is not None:
    before = traverse_util.flatten_dict(_tree.split_params(base).original)
  plain = traverse_util.unflatten_dict(flat)
  for target, adapter in _pairs(plain, lora, einsums):
    if before is not None:
      _put_back(flat, before, target.path)
    elif _factors.M in adapter:
      raise ValueError(
        f'{"/".join(target.adapter)} has a magnitude (DoRA): the length that '
        'its weight had is lost. Give base=, the parameters before.'
      )
    else:
      flat[target.path] = target.replaced(
        lambda w, lora, summed=target.summed: (
          w.astype(jnp.float32) - _factors.change(lora['a'], lora['b'], summed)
        ),
        jnp.asarray(flat[target.path]),
        adapter,
      )
  return _tree.merge_params(traverse_util.unflatten_dict(flat), lora)


def _pairs(
  params: Mapping[str, Any],
  lora: Mapping[str, Any],
  einsums: Mapping[str, str] | None,
) -> Any:
  return _targets.adapted(params, lora, einsums or {})


def _adapted_paths(
  original: Mapping[str, Any],
  lora: Mapping[str, Any],
  einsums: Mapping[str, str] | None,
) -> list[_weights.Path]:
  """The weights that have adapters, integers at their places."""
  pairs = _pairs(_weights.as_plain(original), lora, einsums)
  return list(dict.fromkeys(target.path for target, _ in pairs))


def _make_float(flat: _Flat, path: _weights.Path, *, dequantize: bool) -> None:
  """Puts a weight in the place of its integers, if it is stored as such."""
  w = _weights.floats(flat, path)
  where = path[:-1] if path in flat else _stand_in(path)
  if w is flat.get(path):
    return
  if not dequantize:
    raise ValueError(
      f'{"/".join(path)} is stored as integers, and with its adapter it has '
      'none. Give dequantize=True to make it a float, or keep the adapter '
      'beside it: models use it there.'
    )
  del flat[(*where, _weights.KERNEL)], flat[(*where, _weights.SCALE)]
  flat[path] = w


def _put_back(flat: _Flat, before: _Flat, path: _weights.Path) -> None:
  """The weight as it was stored before."""
  where = path[:-1] if path in before else _stand_in(path)
  scale = (*where, _weights.SCALE)
  kernel = path if path in before else (*where, _weights.KERNEL)
  if kernel not in before:
    raise ValueError(f'base has no {"/".join(path)}, which has an adapter.')
  del flat[path]
  flat[kernel] = before[kernel]
  if jnp.issubdtype(flat[kernel].dtype, jnp.integer):
    flat[scale] = before[scale]


def _stand_in(path: _weights.Path) -> _weights.Path:
  return _weights.Weight(path, ()).stand_in('IntEinsum')
