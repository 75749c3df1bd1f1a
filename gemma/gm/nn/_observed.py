"""Whether Flax watches a call: an interceptor, or captured intermediates."""

from flax import linen as nn
from flax.linen import module as _module
import jax

INTERMEDIATES = 'intermediates'


def interceptors() -> tuple[object, ...]:
  """The active interceptors of `nn.intercept_methods`, innermost first."""
  # Flax has no public name for them, nor for the filter below.
  return tuple(_module._global_interceptor_stack)


def captures() -> bool:
  """Whether the call has `capture_intermediates`."""
  return bool(_capture_filter())


def is_traced() -> bool:
  """Whether JAX traces the call for a program: in `jax.jit`, `jax.lax.scan`."""
  return isinstance(jax.lax.add(0, 0), jax.core.Tracer)


def records(module: nn.Module, method: str = '__call__') -> bool:
  """Whether results of a method are kept, by `sow` or by a capture.

  Args:
    module: A bound module.
    method: The method.
  """
  if not module.is_mutable_collection(INTERMEDIATES):
    return False
  keep = _capture_filter()
  return not keep or bool(keep(module, method))


def _capture_filter():
  stack = _module._context.capture_stack
  return stack[-1] if stack else None
