"""The form of a loss that a Kauldron trainer calls, without Kauldron.

A trainer finds the inputs of a loss by their paths in its context
(`preds.logits`, `batch.target`) and asks for a state that it can add to others.
Kauldron is imported when it asks, and not before.
"""

import abc
from collections.abc import Callable
import dataclasses
import sys
from typing import Any
from typing import Literal
from typing import TypeAlias

import jax
import jax.numpy as jnp

from gemma.gm.losses import _axes
from gemma.gm.losses import _mean
from gemma.gm.losses import _preference
from gemma.gm.math import _numbers
from gemma.gm.nn import _transformer

Schedule: TypeAlias = Callable[[Any], _preference.Scalar]  # Of the step.


def key(default: str | None = _transformer.REQUIRED) -> Any:
  """A field that is the path of an input; None leaves the input out."""
  return dataclasses.field(default=default, metadata={'key': True})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss(abc.ABC):
  """A loss whose inputs are found by paths, for `kd.train.Trainer`.

  Subclasses have a field `name: str = gm.losses.key()` for each input, and
  `get_values(*, name, ..., step=None)`. A loss is a `kd.losses.Loss` too if
  `kauldron` was imported before it was made.

  ```python
  >>> import dataclasses
  >>> import jax.numpy as jnp
  >>> from gemma import gm
  >>> @dataclasses.dataclass(frozen=True, kw_only=True)
  ... class Square(gm.losses.Loss):
  ...   x: str = gm.losses.key()
  ...   def get_values(self, *, x, step=None):
  ...     return x**2
  >>> loss = Square(x='preds.x', weight=10.0)
  >>> loss(x=jnp.array([1.0, 3.0]))
  Array(50., dtype=float32)

  ```

  Attributes:
    step: Path of the step, for schedules.
    mask: Path of a mask of the values, if there is one.
    weight: Factor of this loss, a number or a function of the step.
    normalize_by: What the sum is divided by: `mask`, the number of values that
      count, or `values`, the number of all.
  """

  step: str = key('step')
  mask: str | None = key(None)
  weight: float | Schedule = 1.0
  normalize_by: Literal['mask', 'values'] = 'mask'

  def __new__(cls, *args: Any, **kwargs: Any) -> 'Loss':
    del args, kwargs
    if sys.modules.get('kauldron'):  # Its dashboards want its own class.
      _kauldron().losses.Loss.register(Loss)
    return super().__new__(cls)

  def __post_init__(self):
    _numbers.finite(**fixed(weight=self.weight))
    if self.normalize_by not in ('mask', 'values'):
      raise ValueError(
        f"normalize_by={self.normalize_by!r}. Give 'mask' or 'values'."
      )

  @abc.abstractmethod
  def get_values(self, *args: Any, **kwargs: Any) -> jax.Array:
    """Losses before they are masked, weighted and added up."""

  def __kontext_keys__(self) -> dict[str, str | None]:
    """The path of each input."""
    return {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(self)
      if field.metadata.get('key')
    }

  def __metric_names__(self) -> None:
    """None: the loss is one number. For Kauldron's dashboards."""
    return None

  def get_weight(self, step: Any = None) -> jax.Array:
    """The weight at a step."""
    return jnp.asarray(at('weight', self.weight, step), jnp.float32)

  def get_mean(
    self, *, mask: Any = None, step: Any = None, **inputs: Any
  ) -> _mean.Mean:
    """The weighted sum of the values, and how many there are.

    Args:
      mask: Which values count, in their shape, or with a last axis more or
        less. Numbers are weights.
      step: The step, if there are schedules.
      **inputs: What `get_values` takes.
    """
    values = self.get_values(step=step, **inputs)
    if mask is not None:
      mask = _axes.match(mask, values.shape)
    total, count = _mean.Mean.of(values, mask)
    if self.normalize_by == 'values':
      count = jnp.float32(values.size)
    return _mean.Mean(total * self.get_weight(step), count)

  def get_state(self, **inputs: Any) -> Any:
    """What `get_mean` returns, as a state of Kauldron.

    Raises:
      ImportError: If Kauldron is not installed.
    """
    mean = self.get_mean(**inputs)
    state = _kauldron().losses.Loss.State
    return state(value=mean.total, count=mean.count)

  def get_state_from_context(self, context: Any) -> Any:
    """The state for a trainer's context.

    Raises:
      ImportError: If Kauldron is not installed.
      KeyError: If a path leads nowhere.
      ValueError: If a path that is needed was not given.
    """
    kontext = _kauldron().kontext
    return self.get_state(**kontext.resolve_from_keyed_obj(context, self))

  def __call__(self, *, context: Any = None, **inputs: Any) -> jax.Array:
    """The loss, a number, of a trainer's context or of inputs.

    Raises:
      TypeError: If both are given.
    """
    if context is None:
      return self.get_mean(**inputs).value
    if inputs:
      raise TypeError(f'Give `context` or {sorted(inputs)}, not both.')
    return self.get_state_from_context(context).compute()


def at(
  name: str, value: _preference.Scalar | Schedule, step: Any
) -> _preference.Scalar:
  """A number, or what a schedule says at a step.

  Raises:
    ValueError: If it is a schedule, but no step was given.
  """
  if not callable(value):
    return value
  if step is None:
    raise ValueError(f'`{name}` is a schedule: pass `step=`.')
  return value(step)


def fixed(**fields: Any) -> dict[str, Any]:
  """Those that are numbers; what a schedule says is known at a step only."""
  return {name: x for name, x in fields.items() if not callable(x)}


def _kauldron() -> Any:
  try:
    from kauldron import kd
  except ImportError as error:
    raise ImportError(
      'Losses give their state to Kauldron, which is not installed: '
      "pip install 'gemma[train]'. Without it, call the loss itself, "
      '`loss(...)` or `loss.get_mean(...)`.'
    ) from error
  return kd
