"""Modules of a model replaced by others, without a change to the model."""

import abc
from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import threading
from typing import Any
from typing import TypeVar
import weakref

from flax import linen as nn
import jax

_Self = TypeVar('_Self', bound='Interceptor')


class Interceptor(abc.ABC):
  """Intercepts every call of a method of a Flax module, inside of `with`.

  Blocks may be nested, and several threads may be in blocks of one
  interceptor; each sees its own. What JAX compiles inside of a block is not
  used outside, nor in the blocks of another interceptor: an object stands for
  one behaviour, so make one and use it again. An `await` inside of a block
  would let others into it.

  ```python
  >>> import jax, jax.numpy as jnp
  >>> from flax import linen as nn
  >>> from gemma import peft
  >>> class Twice(peft.Interceptor):
  ...   def interceptor(self, next_fun, args, kwargs, context):
  ...     y = next_fun(*args, **kwargs)
  ...     return 2 * y if isinstance(context.module, nn.LayerNorm) else y
  >>> norm, x = nn.LayerNorm(), jnp.array([1.0, 3.0])
  >>> with Twice():
  ...   y, _ = norm.init_with_output(jax.random.key(0), x)
  >>> y.round(2).tolist()
  [-2.0, 2.0]

  ```
  """

  @abc.abstractmethod
  def interceptor(
    self,
    next_fun: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: nn.module.InterceptorContext,
  ) -> Any:
    """What a call returns.

    Args:
      next_fun: The method, or the next interceptor around it.
      args: Positional arguments of the call.
      kwargs: Its keyword arguments.
      context: The module, the name of the method, and the method.
    """

  def __enter__(self: _Self) -> _Self:
    with contextlib.ExitStack() as stack:
      entered = (*(_Same(block.owner) for block in _LOCAL.blocks), _Same(self))
      stack.enter_context(_ENTERED(entered))
      stack.enter_context(nn.intercept_methods(self.interceptor))
      _LOCAL.blocks.append(_Block(self, stack.pop_all()))
    return self

  def __exit__(self, *error: Any) -> None:
    if not _LOCAL.blocks or _LOCAL.blocks[-1].owner is not self:
      raise RuntimeError(
        f'{type(self).__name__} was entered before another interceptor, or in '
        'another thread, and is left first. Leave the inner block first, and '
        'do not await inside of one.'
      )
    _LOCAL.blocks.pop().stack.close()


@dataclasses.dataclass(eq=False)
class ModuleInterceptor(Interceptor):
  """Calls another module in place of a module.

  The other may call the one that it stands in for, whose methods are its own
  again then. With `nn.share_scope` their parameters are side by side, without
  it those of the other are below.

  ```python
  >>> import jax, jax.numpy as jnp
  >>> from flax import linen as nn
  >>> from gemma import peft
  >>> def replace(module):
  ...   if isinstance(module, nn.Dense):
  ...     return peft.LoRADense(rank=2, wrapped=module)
  ...   return module
  >>> model = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(3)])
  >>> with peft.ModuleInterceptor(replace):
  ...   variables = model.init(jax.random.key(0), jnp.ones((1, 4)))
  >>> sorted(variables['params']['layers_0'])
  ['bias', 'kernel', 'lora']

  ```

  Attributes:
    replace_module_fn: Called once for each module, inside of it; returns the
      module that takes its place, or the same one.
  """

  replace_module_fn: Callable[[nn.Module], nn.Module]

  def __exit__(self, *error: Any) -> None:
    super().__exit__(*error)
    if not any(block.owner is self for block in _LOCAL.blocks):
      _LOCAL.replaced.pop(self, None)

  def interceptor(
    self,
    next_fun: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: nn.module.InterceptorContext,
  ) -> Any:
    """See `Interceptor`.

    Raises:
      AttributeError: If the module in its place has no such method.
    """
    replaced = _LOCAL.replaced.setdefault(self, _Replaced())
    module, name = context.module, context.method_name
    if name == 'setup' or replaced.is_inside(module):
      return next_fun(*args, **kwargs)
    other = replaced.by(module, self.replace_module_fn)
    if other is module:
      return next_fun(*args, **kwargs)
    with replaced.inside(module, other):
      return getattr(other, name)(*args, **kwargs)


class _Replaced:
  """The modules that an interceptor replaced in one thread."""

  def __init__(self):
    # By id, as modules are equal if their fields are; kept, so that no other
    # gets the id.
    self._by: dict[int, tuple[nn.Module, nn.Module]] = {}
    self._inside: list[nn.Module] = []

  def by(
    self, module: nn.Module, replace: Callable[[nn.Module], nn.Module]
  ) -> nn.Module:
    """What takes the place of a module."""
    if id(module) not in self._by:
      self._by[id(module)] = module, replace(module)
    return self._by[id(module)][1]

  def is_inside(self, module: nn.Module) -> bool:
    """Whether a module, or what stands in for it, is being called already."""
    return any(_is_same(module, other) for other in self._inside)

  @contextlib.contextmanager
  def inside(self, *modules: nn.Module) -> Iterator[None]:
    """While these modules are called."""
    self._inside += modules
    try:
      yield
    finally:
      del self._inside[-len(modules) :]


def _is_same(module: nn.Module, other: nn.Module) -> bool:
  """Whether a module is another, or what a transform makes of it inside.

  `nn.remat` and others call a copy, which has the same place and name.
  """
  if module is other:
    return True
  if module.scope is None or other.scope is None:
    return False
  related = issubclass(type(other), type(module))
  return related and (module.path, module.name) == (other.path, other.name)


@dataclasses.dataclass(frozen=True, eq=False)
class _Block:
  """A `with` block, and what undoes it."""

  owner: Interceptor
  stack: contextlib.ExitStack


class _Same:
  """An object as a key: equal to itself alone."""

  def __init__(self, it: object):
    self.it = it

  def __eq__(self, other: object) -> bool:
    return isinstance(other, _Same) and self.it is other.it

  def __hash__(self) -> int:
    return id(self.it)


class _Local(threading.local):
  """What one thread has entered."""

  def __init__(self):
    self.blocks: list[_Block] = []
    self.replaced: weakref.WeakKeyDictionary[ModuleInterceptor, _Replaced] = (
      weakref.WeakKeyDictionary()
    )


_LOCAL = _Local()
# Part of the key of all that is compiled: a trace made inside of a block holds
# what was intercepted.
_ENTERED = jax.make_user_context(default_value=())
