"""Saves, or loads and compares, the state of a run on the devices there are.

Usage: python run_devices.py save|load FOLDER
"""

import os
import sys

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax

from gemma import gm
import run_states


def main(verb: str, folder: str) -> None:
  count = len(jax.devices())
  shape, spec = ((4, 2), ('a', 'b')) if count == 8 else ((1, 1), ())
  wide = run_states.sharding(shape, 'ab', spec)
  keys = run_states.sharding(shape, 'ab', spec and 'a')
  state = run_states.sharded(3, wide, keys)
  ckpts = gm.ckpts.RunCheckpoints(folder)
  if verb == 'save':
    ckpts.save(1, state)
  else:
    like = run_states.sharded(0, wide, keys)
    run_states.assert_same(ckpts.resume(like).state, state)


if __name__ == '__main__':
  main(*sys.argv[1:])
