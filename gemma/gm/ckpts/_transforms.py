"""What a Kauldron trainer does to its fresh state: `cfg.init_transform = ...`.

A trainer calls `transform(state)` when the parameters are made, and
`transform_after_optimizer(state)` when the optimizer is. Nothing else of
Kauldron is needed: a state is any object with `params` and
`replace(params=...)`.
"""

from collections.abc import Mapping
import dataclasses
import os
import sys
from typing import Any
from typing import Protocol
from typing import TypeVar
from typing import runtime_checkable

import jax
import jax.numpy as jnp

from gemma import peft
from gemma.gm.ckpts import _load
from gemma.gm.ckpts import _quantize
from gemma.gm.ckpts import _targets
from gemma.gm.ckpts import _tree
from gemma.peft import _factors

_State = TypeVar('_State', bound='State')


@runtime_checkable
class State(Protocol):
  """The part of a training state that is used."""

  @property
  def params(self) -> Mapping[str, Any]: ...

  def replace(self: _State, *, params: Mapping[str, Any]) -> _State: ...


@runtime_checkable
class InitTransform(Protocol):
  """What changes a fresh training state."""

  def transform(self, state: _State) -> _State: ...

  def transform_after_optimizer(self, state: _State) -> _State: ...


class _Transform:
  """Is a `kd.ckpts.InitTransform` if `kauldron` was imported before."""

  def __new__(cls, *args: Any, **kwargs: Any) -> '_Transform':
    del args, kwargs
    if sys.modules.get('kauldron'):  # For those who ask `isinstance`.
      from kauldron import kd

      kd.ckpts.InitTransform.register(_Transform)
    return super().__new__(cls)


@dataclasses.dataclass(frozen=True)
class LoadCheckpoint(_Transform):
  """Fills the parameters with those of a checkpoint.

  ```python
  >>> from gemma import gm
  >>> gm.ckpts.LoadCheckpoint(path='/checkpoints/mine')
  LoadCheckpoint(path='/checkpoints/mine', quantize=False)

  ```

  Attributes:
    path: Any path that `load_params` takes.
    quantize: `'int8'` or `'int4'` puts integers in place of the weights; True
      is `'int8'`.
  """

  path: str | os.PathLike[str]
  quantize: bool | str = False

  def transform(self, state: _State) -> _State:
    """The state with the checkpoint's parameters.

    Args:
      state: Its parameters are freed; their dtypes and shardings are kept.

    Raises:
      FileNotFoundError: If there is no checkpoint.
      ValueError: If it does not fit the parameters, which are then not freed.
    """
    if self.quantize:
      targets = _quantize.integers_like(state.params, self.quantize)
      loaded = _load.load_params(self.path, params=targets)
      _targets.release_memory(state.params)
      return state.replace(params=loaded)
    loaded = _load.load_params(self.path, params=state.params)
    return state.replace(params=_refill(state.params, _tree.leaves(loaded)))

  def transform_after_optimizer(self, state: _State) -> _State:
    """The same state: the optimizer starts afresh."""
    return state


@dataclasses.dataclass(frozen=True)
class SkipLoRA(_Transform):
  """Applies a transform to all parameters but those of LoRA adapters.

  Magnitudes (DoRA) become those of the new weights.

  ```python
  >>> from gemma import gm
  >>> path = gm.ckpts.CheckpointPath.GEMMA3_4B_IT
  >>> skip = gm.ckpts.SkipLoRA(wrapped=gm.ckpts.LoadCheckpoint(path))

  ```

  Attributes:
    wrapped: The transform, usually `LoadCheckpoint`. It sees no adapters.
  """

  wrapped: InitTransform

  def transform(self, state: _State) -> _State:
    """The state with new parameters and the adapters it had.

    Args:
      state: Its adapters are under dict keys `lora`.
    """
    base, lora = peft.split_params(state.params)
    new = self.wrapped.transform(state.replace(params=base))
    if any(path[-1] == _factors.M for path in _tree.leaves(lora)):
      lora = peft.set_magnitudes(lora, new.params)
    flat = _tree.leaves(new.params) | _tree.leaves(lora)
    return new.replace(params=_refill(state.params, flat))

  def transform_after_optimizer(self, state: _State) -> _State:
    """What the wrapped transform does; it sees the adapters now."""
    return self.wrapped.transform_after_optimizer(state)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnchoredPolicyLoader(_Transform):
  """Fills the two models of preference training: a policy, and its anchor.

  ```python
  >>> from gemma import gm
  >>> path = gm.ckpts.CheckpointPath.GEMMA3_4B_IT
  >>> both = gm.ckpts.AnchoredPolicyLoader(
  ...   policy=gm.ckpts.LoadCheckpoint(path),
  ... )

  ```

  Attributes:
    policy: What fills the policy.
    anchor: What fills the anchor; by default it is a copy of the policy.
  """

  policy: InitTransform
  anchor: InitTransform | None = None

  def transform(self, state: _State) -> _State:
    """The state with both models filled.

    Args:
      state: Its parameters are under `policy` and `anchor`.

    Raises:
      ValueError: If the parameters are under other names, or the anchor should
        be a copy but has other shapes.
    """
    if set(state.params) != {'policy', 'anchor'}:
      raise ValueError(
        f'The parameters are under {sorted(state.params)}, not under '
        "['anchor', 'policy']. Wrap the model in gm.nn.AnchoredPolicy."
      )
    if self.anchor is None:
      _check_same(state.params['policy'], state.params['anchor'])
    policy = _transformed(self.policy, state, 'policy')
    if self.anchor is None:
      _targets.release_memory(state.params['anchor'])
      anchor = jax.tree.map(jnp.copy, policy)
    else:
      anchor = _transformed(self.anchor, state, 'anchor')
    return state.replace(params={'policy': policy, 'anchor': anchor})

  def transform_after_optimizer(self, state: _State) -> _State:
    """The same state: the optimizer starts afresh."""
    return state


def _transformed(transform: InitTransform, state: State, key: str) -> Any:
  part = state.replace(params=state.params[key])
  return transform.transform(part).params


def _check_same(policy: Mapping[str, Any], anchor: Mapping[str, Any]) -> None:
  kinds = [
    {path: (x.shape, str(x.dtype)) for path, x in _tree.leaves(params).items()}
    for params in (policy, anchor)
  ]
  differ = sorted(
    '/'.join(path)
    for path in kinds[0].keys() | kinds[1].keys()
    if kinds[0].get(path) != kinds[1].get(path)
  )
  if differ:
    raise ValueError(
      f'The anchor cannot be a copy of the policy: {differ} differ. Pass '
      '`anchor=` to fill it on its own.'
    )


def _refill(
  tree: Mapping[str, Any], flat: Mapping[_tree.Path, Any]
) -> dict[str, Any]:
  """The tree with other leaves: dicts with nothing in are kept."""

  def fill(part: Mapping[str, Any], path: _tree.Path) -> dict[str, Any]:
    return {
      key: fill(value, (*path, key))
      if isinstance(value, Mapping)
      else flat[(*path, key)]
      for key, value in part.items()
    }

  return fill(tree, ())
