"""Several processes as one program, on pods and on hosts with GPUs."""

import logging
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

_log = logging.getLogger(__name__)


def initialize(
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  **kwargs: Any,
) -> None:
  """Joins this process with the others, before anything else is done with JAX.

  On Cloud TPU, Slurm and Open MPI nothing has to be given: JAX finds the others
  by itself; for a process that is on its own, say `num_processes=1`. All
  processes then run the same program; `jax.devices()` has the devices of
  all of them, and every preset and mesh is over these.

  ```python
  >>> from gemma import gm
  >>> gm.sharding.initialize(num_processes=1)

  ```

  Args:
    coordinator_address: `host:port` of process 0.
    num_processes: How many there are.
    process_id: Which of them this is.
    **kwargs: See `jax.distributed.initialize`.

  Raises:
    ValueError: If some of the first three are given and others not.
    RuntimeError: If JAX has been used already.
  """
  given = coordinator_address, num_processes, process_id
  if num_processes == 1:
    return
  if any(x is None for x in given) and any(x is not None for x in given):
    raise ValueError(
      f'{coordinator_address=}, {num_processes=}, {process_id=}: give all '
      'three, or none of them where JAX can find them itself.'
    )
  jax.distributed.initialize(*given, **kwargs)
  _log.info(
    'Process %d of %d, with %d of %d devices.',
    jax.process_index(),
    jax.process_count(),
    jax.local_device_count(),
    jax.device_count(),
  )


def of_first(number: int) -> int:
  """What process 0 has: all of them call this, and wait for it."""
  if jax.process_count() == 1:
    return number
  return int(multihost_utils.broadcast_one_to_all(np.int32(number)))
