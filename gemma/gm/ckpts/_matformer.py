"""Smaller models out of one that was trained to contain them."""

from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from gemma.gm.nn import _config
from gemma.gm.nn import _per_layer
from gemma.gm.nn import _transformer


def slice_matformer(
  model: _transformer.Transformer,
  params: Mapping[str, Any],
  *,
  hidden_dims: int | Sequence[int],
  skip_layers: Collection[int] = (),
) -> tuple[_transformer.Transformer, dict[str, Any]]:
  """Takes a smaller model out of Gemma 3n's weights, without training.

  Gemma 3n is a MatFormer (https://arxiv.org/abs/2310.07707): the first units
  of a feed-forward are one that was trained too. E2B is what E4B contains:

  ```python
  e2b, params = gm.ckpts.slice_matformer(
    gm.nn.Gemma3n_E4B(),
    params,
    hidden_dims=8192,
    skip_layers=range(20, 25),
  )
  ```

  Other choices, measured by Google, are in the dataset
  `google/gemma3n-slicing-configs` on Hugging Face.

  Args:
    model: The model; it is not changed.
    params: Its parameters, or their shapes, NESTED; they are not changed.
    hidden_dims: Width of one branch of the feed-forward: one number, or one
      for each layer that is kept.
    skip_layers: Layers that are left out.

  Returns:
    The smaller model and its parameters. What is whole is shared.

  Raises:
    ValueError: If a width is none that the layer contains, or a layer is not
      in the model or has keys that others read.
  """
  config, keep = model.config, _kept(model.config, skip_layers)
  whole = [spec.ffw.hidden_dim for spec in config.layers()]
  dims = (
    [hidden_dims] * len(keep)
    if isinstance(hidden_dims, int)
    else [*hidden_dims]
  )
  if len(dims) != len(keep):
    raise ValueError(
      f'hidden_dims has {len(dims)} numbers for the {len(keep)} layers that '
      'are kept.'
    )
  wrong = [
    (i, d) for i, d in zip(keep, dims, strict=True) if not 1 <= d <= whole[i]
  ]
  if wrong:
    raise ValueError(
      f'hidden_dims asks for {wrong} (layer, width), which is not within the '
      f'{whole[wrong[0][0]]} units of the layer.'
    )
  out = {
    name: value
    for name, value in params.items()
    if not name.startswith('layer_')
  }
  for new, (old, dim) in enumerate(zip(keep, dims, strict=True)):
    layer = dict(params[f'layer_{old}'])
    layer['mlp'] = _narrow(layer['mlp'], dim, config)
    out[f'layer_{new}'] = layer
  if config.per_layer_input_dim:
    out['embedder'] = _without_layers(params['embedder'], keep)
  small = _config_of(config, keep, dims)
  return _transformer.Transformer(config=small, dtype=model.dtype), out


def _kept(
  config: _config.TransformerConfig, skip: Collection[int]
) -> list[int]:
  specs = config.layers()
  if unknown := sorted(set(skip) - set(range(len(specs)))):
    raise ValueError(
      f'skip_layers has {unknown}, but the layers are 0 to {len(specs) - 1}.'
    )
  sources = {spec.kv_source for spec in specs}
  if needed := sorted(i for i in skip if i in sources):
    raise ValueError(
      f'skip_layers has {needed}, whose keys and values later layers read.'
    )
  return [i for i in range(len(specs)) if i not in set(skip)]


def _config_of(
  config: _config.TransformerConfig, keep: list[int], dims: list[int]
) -> _config.TransformerConfig:
  sparsity = config.activation_sparsity
  same = len(set(dims)) == 1
  return dataclasses.replace(
    config,
    hidden_dim=dims[0],
    hidden_dims=None if same else tuple(dims),
    attention_types=tuple(config.attention_types[i] for i in keep),
    num_kv_shared_layers=sum(i >= config.num_own_kv for i in keep),
    activation_sparsity=tuple(sparsity[i] for i in keep if i < len(sparsity)),
    origin=None,  # No folder has these sizes.
  )


def _narrow(
  mlp: Mapping[str, Any], dim: int, config: _config.TransformerConfig
) -> dict[str, Any]:
  """The first units of a feed-forward."""
  gating, linear = mlp['gating_einsum'], mlp['linear']
  axis = 1 if config.transpose_gating_einsum else 2
  return {
    'gating_einsum': _take(gating, range(dim), axis),
    'linear': _take(linear, range(dim), 0),
  }


def _without_layers(
  embedder: Mapping[str, Any], keep: list[int]
) -> dict[str, Any]:
  """The per-layer inputs of the layers that are kept."""
  out = dict(embedder)
  for name, value in embedder.items():
    if name in _per_layer.TABLES:
      out[name] = _take(value, keep, 1)
    elif name in _per_layer.PROJECTIONS:
      out[name] = {'w': _take(value['w'], keep, 1)}
  return out


def _take(x: Any, index: Sequence[int], axis: int) -> Any:
  shape = (*x.shape[:axis], len(index), *x.shape[axis + 1 :])
  if shape == x.shape:
    return x
  if isinstance(x, jax.ShapeDtypeStruct):
    return jax.ShapeDtypeStruct(shape, x.dtype)
  return jnp.take(x, jnp.asarray(index), axis=axis)
