"""Compiled functions that hide nothing from Flax.

Compiled code is found by shapes and static arguments. Interceptors and methods
that were replaced after the import change what a module computes, but neither
of these: without the functions below, a stale program would run.
"""

from collections.abc import Callable
import contextlib
from typing import Any

from flax import linen as nn
import jax

from gemma.gm.nn import _altup
from gemma.gm.nn import _attention_weights
from gemma.gm.nn import _block
from gemma.gm.nn import _blocks
from gemma.gm.nn import _experts
from gemma.gm.nn import _layers
from gemma.gm.nn import _observed
from gemma.gm.nn import _per_layer
from gemma.gm.nn import _scan
from gemma.gm.vision import _siglip
from gemma.gm.vision import _vit

# The modules of a model. A test compares them to the modules that models call.
PARTS: tuple[type[nn.Module], ...] = (
  _altup.AltUp,
  _altup.Streams,
  _attention_weights.AttentionWeights,
  _block.Attention,
  _block.Block,
  _blocks.Blocks,
  _experts.Experts,
  _experts.Weight,
  _layers.Einsum,
  _layers.Embedder,
  _layers.FeedForward,
  _layers.LowRank,
  _layers.RMSNorm,
  _per_layer.PerLayerInputs,
  _per_layer.PerLayerMapping,
  _scan.Period,
  _siglip.SigLiPFromPatches,
  _vit.Dense,
  _vit.Encoder,
  _vit.EncoderBlock,
  _vit.MlpBlock,
  _vit.PatchEmbedding,
  _vit.SelfAttention,
  _vit.ViTModel,
  _vit.VisionExit,
)


def jit(function: Callable[..., Any], **options: Any) -> Any:
  """`jax.jit` whose programs belong to the interceptors around the call.

  Args:
    function: A function that calls a model.
    **options: See `jax.jit`.
  """
  return _Program(jax.jit(function, **options))


class _Program:
  """A jitted function whose key has what surrounds a call."""

  def __init__(self, compiled: Any):
    self._compiled = compiled

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    """Runs the function."""
    with _surroundings():
      return self._compiled(*args, **kwargs)

  def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
    """As the function of `jax.jit`."""
    with _surroundings():
      return self._compiled.lower(*args, **kwargs)

  def _cache_size(self) -> int:
    return self._compiled._cache_size()


def _surroundings() -> contextlib.AbstractContextManager[Any]:
  """Interceptors and replaced methods, as a part of the keys of programs."""
  key = _observed.interceptors(), _patched()
  return contextlib.nullcontext() if key == _PLAIN else _CHANGES(key)


def method(function: Callable[..., Any], static: tuple[str, ...] = ()) -> Any:
  """A method of a module that is compiled where only its caller waits for it.

  Inside of an interceptor, of a capture and of another program, the plain
  method runs.

  Args:
    function: The method.
    static: Names of its static arguments.
  """

  def plain(self: nn.Module, *args: Any, patched: Any, **kwargs: Any) -> Any:
    del patched  # A part of the key of the program.
    return function(self, *args, **kwargs)

  plain.__name__ = function.__name__
  run = nn.jit(plain, static_argnames=(*static, 'patched'))

  def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    seen = _observed.interceptors() or _observed.captures()
    if seen or _observed.is_traced():
      return function(self, *args, **kwargs)
    return run(self, *args, patched=_patched(type(self)), **kwargs)

  call.__name__ = function.__name__
  call.__doc__ = function.__doc__
  return nn.nowrap(call)


def _methods(*classes: type) -> tuple[Any, ...]:
  """The functions of classes, in order."""
  return tuple(x for cls in classes for x in vars(cls).values() if callable(x))


def _patched(model: type[nn.Module] | None = None) -> tuple[Any, ...]:
  """The methods of `PARTS` if one was replaced, and those of a model's class.

  Args:
    model: The class.
  """
  own = () if model is None else _methods(*model.__mro__)
  now = _methods(*PARTS)
  return own if now == _METHODS else (*own, *now)


_METHODS = _methods(*PARTS)
_PLAIN: tuple[Any, ...] = ((), ())
# A part of the key of every program that JAX keeps.
_CHANGES = jax.make_user_context(default_value=_PLAIN)
