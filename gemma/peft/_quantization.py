"""Weights as small integers, with one scale for each output channel."""

from collections.abc import Mapping
import enum
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from gemma.peft import _weights


class QuantizationMethod(enum.StrEnum):
  """How weights are rounded. A lookup by value ignores case."""

  NONE = 'none'
  INT4 = 'int4'
  INT8 = 'int8'
  Q4_0 = 'q4_0'
  Q4_0_TRANSPOSE = 'q4_0_transpose'
  SFP8 = 'sfp8'

  @classmethod
  def _missing_(cls, value: object) -> 'QuantizationMethod | None':
    named = {method.value: method for method in cls}
    return named.get(str(value).lower())


# Integer dtype of a method, and the largest number that it uses.
_INTEGERS = {
  QuantizationMethod.INT4: (jnp.int4, 7),
  QuantizationMethod.INT8: (jnp.int8, 127),
}


def integers_of(
  method: QuantizationMethod | str,
) -> tuple[Any, int]:
  """The integer dtype of a method, and the largest number that it uses.

  Raises:
    ValueError: If there is no such method, or it has no stored form.
  """
  try:
    return _INTEGERS[QuantizationMethod(method)]
  except ValueError:
    known = [str(known) for known in QuantizationMethod]
    raise ValueError(f'No method {method!r}. There are {known}.') from None
  except KeyError:
    raise ValueError(
      f'Method {str(method)!r} is not yet supported for stored weights, only '
      f'for simulation. Use one of {[str(m) for m in _INTEGERS]}.'
    ) from None


def quantize(
  params: Mapping[str, Any],
  *,
  method: QuantizationMethod | str,
  checkpoint_kernel_key: str = 'w',
  in_place_keys: bool = False,
) -> dict[str, Any]:
  """Replaces the weights of linear maps by integers and scales.

  A weight becomes `{'kernel': integers, 'scale': ...}` and stands for
  `kernel / scale`, with a scale in the dtype of the weight for each output
  channel, from the largest weight in it; no data is needed. Embedding tables
  stay as they are, routers, and what reads images and audio: these are small,
  and what they decide is sensitive. Models of `gm.nn` compute with the result
  as it is.

  ```python
  >>> import jax.numpy as jnp
  >>> from gemma import peft
  >>> params = {'q_einsum': {'w': jnp.ones((2, 8, 4))}}
  >>> ints = peft.quantize(params, method='int8')['q_einsum']['_IntEinsum_0']
  >>> ints['kernel'].dtype, ints['scale'].shape
  (dtype('int8'), (2, 1, 4))

  ```

  Args:
    params: Nested dicts.
    method: `INT8` or `INT4`; `NONE` changes nothing.
    checkpoint_kernel_key: What a module calls its weight: `kernel` for Flax's
      own layers.
    in_place_keys: Whether to put `kernel` and `scale` where the weight was, and
      not into a dict of their own.

  Raises:
    ValueError: If the method has no stored form, or it cannot be told which
      axes of a weight are summed over.
  """
  if _is_none(method):
    return dict(params)
  integers_of(method)
  flat = traverse_util.flatten_dict(params, keep_empty_nodes=True)
  text = _weights.without_media(params)
  for weight in _weights.roundable(text, checkpoint_kernel_key):
    kernel, scale = quantize_array(flat.pop(weight.path), weight.summed, method)
    where = weight.path[:-1] if in_place_keys else weight.stand_in('IntEinsum')
    flat[(*where, 'kernel')], flat[(*where, 'scale')] = kernel, scale
  return traverse_util.unflatten_dict(flat)


def quantize_array(
  x: Any, summed: tuple[int, ...], method: QuantizationMethod | str
) -> tuple[Any, Any]:
  """Integers of one weight, and the scale of each of its channels.

  Args:
    x: The weight, of NumPy or of JAX; so are the results.
    summed: Its axes that are summed over when it is applied.
    method: `INT8` or `INT4`.

  Returns:
    The integers, and the scales, in which the `summed` axes are 1.
  """
  dtype, most = integers_of(method)
  xp = jnp if isinstance(x, jax.Array) else np
  wide = x.astype(np.float32)
  largest = xp.max(xp.abs(wide), axis=summed, keepdims=True)
  tiny = largest < most / np.finfo(np.float32).max
  scale = most / xp.where(tiny, most, largest)
  scale = scale.astype(x.dtype)  # Rounded first: the integers are made for it.
  wide = xp.rint(wide * scale.astype(np.float32))
  return xp.clip(wide, -most - 1, most).astype(np.int8).astype(dtype), scale


def _is_none(method: QuantizationMethod | str) -> bool:
  return str(method).lower() == QuantizationMethod.NONE
