"""Kills a run while it saves, many times, and looks at what it leaves.

Each life is a fork of this process, which has imported JAX and not used it. A
life resumes, checks every bit of what it got, says so, and then saves in a
loop until it is killed.

Usage: python run_killed.py FOLDER LIVES
"""

import os
import pathlib
import random
import signal
import sys
import time
import warnings

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import jax.numpy as jnp
import numpy as np

from gemma import gm


def state_at(step):
  return {
    'w': np.full((50, 50), step, np.float32),
    'x': jnp.full((3, 4), step, jnp.bfloat16),
    'key': jax.random.key(step),
    'step': step,
  }


def live(folder, say):
  """Never returns, except by an exception: then the life says nothing."""
  warnings.simplefilter('error')
  ckpts = gm.ckpts.RunCheckpoints(folder, keep=2)
  state, step, data = ckpts.resume(like=state_at(0))
  expected = state_at(step)
  state['key'], expected['key'] = map(
    jax.random.key_data, (state['key'], expected['key'])
  )
  for name, x in expected.items():
    np.testing.assert_array_equal(x, state[name])
  assert data == (step or None)
  os.write(say, step.to_bytes(8, 'little'))
  while True:
    step += 1
    ckpts.save(step, state_at(step), data=step)


def main():
  folder, lives = pathlib.Path(sys.argv[1]), int(sys.argv[2])
  rng, reached, leftovers = random.Random(0), 0, 0
  for life in range(lives):
    listen, say = os.pipe()
    child = os.fork()
    if child == 0:
      try:
        live(folder, say)
      except BaseException as e:
        print(f'life {life}: {e!r}', file=sys.stderr, flush=True)
      finally:
        os._exit(1)
    os.close(say)
    step = int.from_bytes(os.read(listen, 8), 'little')
    os.close(listen)
    time.sleep(rng.uniform(0.0, 0.06))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, f'life {life} failed'
    assert step >= reached, f'resumed at {step}, and {reached} was complete'
    names = [path.name for path in folder.iterdir()]
    steps = sorted(int(n[5:]) for n in names if n.startswith('step_'))
    reached = max(steps, default=0)
    left = [n for n in names if n.startswith(('.saving-', '.deleting-'))]
    leftovers += bool(left)
  ckpts = gm.ckpts.RunCheckpoints(folder, keep=2)
  ckpts.save(reached + 1, state_at(reached + 1))
  names = sorted(path.name for path in folder.iterdir())
  steps = [f'step_{step:08}' for step in ckpts.steps]
  assert names == ['.lock', *steps] and len(steps) == 2, names
  # Something was there to be cleaned, and a run came far.
  assert leftovers >= lives // 10, leftovers
  assert reached >= lives // 20, reached
  print(f'{lives} lives, {leftovers} killed in a save, step {reached}')


if __name__ == '__main__':
  main()
