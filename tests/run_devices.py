"""Saves the state of a run on eight devices, and loads it on one.

Each is a fork of this process, which has imported JAX and not used it.

Usage: python run_devices.py FOLDER
"""

import os
import sys

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax

from gemma import gm
import run_states

FLAG = '--xla_force_host_platform_device_count'


def main(folder: str) -> None:
  for count, use in ((8, save), (1, load)):
    if (child := os.fork()) == 0:
      try:
        flags = os.environ.get('XLA_FLAGS', '')
        os.environ['XLA_FLAGS'] = f'{flags} {FLAG}={count}'
        use(folder, count)
        os._exit(0)
      finally:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    if os.waitpid(child, 0)[1]:
      sys.exit(f'{use.__name__} failed.')


def save(folder, count):
  gm.ckpts.RunCheckpoints(folder).save(1, state(3, count))


def load(folder, count):
  resumed = gm.ckpts.RunCheckpoints(folder).resume(state(0, count)).state
  run_states.assert_same(resumed, state(3, count))


def state(seed, count):
  """A state on all devices, of which there are so many."""
  assert len(jax.devices()) == count
  shape, spec = ((4, 2), ('a', 'b')) if count == 8 else ((1, 1), ())
  wide = run_states.sharding(shape, 'ab', spec)
  keys = run_states.sharding(shape, 'ab', spec and 'a')
  return run_states.sharded(seed, wide, keys)


if __name__ == '__main__':
  main(*sys.argv[1:])
