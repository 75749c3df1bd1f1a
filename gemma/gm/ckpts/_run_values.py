"""Python values as JSON and back, with their types.

JSON has no bytes, tuples, arrays or keys that are numbers, and the position of
a data iterator has all of them. Numbers, text, None and lists are themselves;
anything else is an object with one key, which names the type.
"""

import base64
from typing import Any

import numpy as np

_PLAIN = (type(None), bool, int, float, str)


def encode(x: Any, where: str) -> Any:
  """What `json.dumps` takes, and `decode` reads.

  Args:
    x: Numbers, text, bytes, None, NumPy arrays, and lists, tuples and dicts of
      these.
    where: What to call `x` in an error.

  Raises:
    TypeError: If a part of `x` is of another type.
  """
  kind = type(x)
  if kind in _PLAIN:
    return x
  if kind is list:
    return [encode(v, f'{where}[{i}]') for i, v in enumerate(x)]
  if kind is tuple:
    return {'tuple': encode(list(x), where)}
  if kind is dict:
    return {'dict': encode([[k, v] for k, v in x.items()], where)}
  if kind is bytes:
    return {'bytes': base64.b64encode(x).decode()}
  if isinstance(x, np.ndarray | np.generic):
    tag = 'array' if isinstance(x, np.ndarray) else 'scalar'
    name, text = dtype_name(x.dtype, where), base64.b64encode(x.tobytes())
    return {tag: [name, list(x.shape), text.decode()]}
  raise TypeError(
    f'{where} is a {kind.__module__}.{kind.__qualname__}, which cannot be '
    'saved. Give numbers, text, bytes, None, NumPy arrays, and lists, tuples '
    'and dicts of these; np.asarray() makes an array of a jax.Array.'
  )


def decode(x: Any) -> Any:
  """The inverse of `encode`."""
  if isinstance(x, list):
    return [decode(v) for v in x]
  if not isinstance(x, dict):
    return x
  ((tag, value),) = x.items()
  if tag == 'tuple':
    return tuple(decode(value))
  if tag == 'dict':
    return {k: v for k, v in decode(value)}
  if tag == 'bytes':
    return base64.b64decode(value)
  dtype, shape, text = value
  raw = np.frombuffer(bytearray(base64.b64decode(text)), np.uint8)
  array = raw.view(np.dtype(dtype)).reshape(shape)
  return array if tag == 'array' else array[()]


def dtype_name(dtype: np.dtype, where: str) -> str:
  """The name that `np.dtype` finds this type by.

  Raises:
    TypeError: If there is none, as for objects, records and foreign byte order.
  """
  try:
    if np.dtype(dtype.name) == dtype and not dtype.hasobject:
      return dtype.name
  except TypeError:
    pass
  raise TypeError(
    f'{where} is an array of {dtype!r}, which cannot be saved. Convert it to '
    'numbers in the byte order of this machine.'
  )
