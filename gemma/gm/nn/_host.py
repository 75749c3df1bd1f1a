"""What can stay in host memory while a model runs on a device."""

from collections.abc import Mapping
from typing import Any

import jax

from gemma.gm.nn import _per_layer

_PINNED = 'pinned_host'


def host_tables(params: Mapping[str, Any]) -> dict[str, Any]:
  """Where parameters go so that the per-layer tables take no device memory.

  The tables of Gemma 3n and of Gemma 4 E2B and E4B are the largest part of
  their weights, and a token needs one row. The host picks it, and the row alone
  goes to the device. Needs JAX 0.10.

  ```python
  params = gm.ckpts.load_params(path, sharding=gm.nn.host_tables)
  params = jax.device_put(params, gm.nn.host_tables(params))  # Or later.
  ```

  Args:
    params: Arrays or shapes, NESTED. What has a sharding keeps it, but for the
      kind of memory of the tables; what has none goes to the first device.

  Returns:
    A sharding for each.
  """

  def place(path: tuple[Any, ...], x: Any) -> jax.sharding.Sharding:
    sharding = getattr(x, 'sharding', None)
    if sharding is None:
      sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    names = ''.join(entry.key for entry in path)
    table = any(name in names for name in _per_layer.TABLES)
    return sharding.with_memory_kind(_PINNED) if table else sharding

  return jax.tree_util.tree_map_with_path(place, params)
