"""Kills a run of training, many times, and compares it with one that went on.

Each life is a fork of this process, which has imported JAX and not used it. A
life goes on where the one before was killed, until it is killed too.

Usage: python run_training.py FOLDER few|all
"""

import csv
import os
import pathlib
import signal
import sys

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import jax.numpy as jnp
import numpy as np

import cases
from gemma import gm
from gemma import peft

CASE = cases.NAMED['gemma1_mqa']
STEPS, SAVE_EVERY, ROWS, LENGTH = 8, 2, 4, 12
# Steps at which a life ends: before one, after one, while its state is saved.
ALL = (1, 'before'), (3, 'after'), (4, 'save'), (4, 'after'), (7, 'before')
DEATHS = {
  'few': {'lora': (ALL[0], ALL[2]), 'full': (ALL[1], ALL[3], ALL[4])},
  'all': {'lora': ALL, 'full': ALL},
}


def batch(case, rows, length, seed=0):
  """Random tokens; of row i, i + 1 are in the loss."""
  rng = np.random.default_rng(seed)
  tokens = rng.integers(1, 280, (rows, length + 1)).astype(np.int32)
  learned = np.arange(length) <= np.arange(rows)[:, None]
  return {
    'input': tokens[:, :-1],
    'target': tokens[:, 1:],
    'loss_mask': learned,
  }


def run(folder, kind, death=(None, None)):
  """Trains to the end, or to death."""
  optimizer = gm.training.adamw(1e-2, steps=STEPS)
  params = CASE.params
  if kind == 'lora':
    lora = peft.init_lora(params, rank=2, rng=jax.random.key(1))
    params = peft.merge_params(params, lora)
  else:
    params = jax.tree.map(lambda x: x.astype('bfloat16'), params)
  state = gm.training.init_state(
    params,
    optimizer,
    trainable='lora' if kind == 'lora' else None,
    master_dtype='float32',
    rng=5,
  )
  step = gm.training.make_step(loss, optimizer, accumulate=2)
  rows = batch(CASE, 5 * ROWS, LENGTH)  # An epoch is five steps.
  examples = [{name: x[i] for name, x in rows.items()} for i in range(5 * ROWS)]
  batches = gm.data.Batches(examples, batch_size=ROWS, shuffle=True, seed=2)
  with gm.training.Run(
    folder, state, batches, steps=STEPS, save_every=SAVE_EVERY, progress=False
  ) as run:
    for rows in run:
      if death == (run.step, 'before'):
        os.kill(os.getpid(), signal.SIGKILL)
      if death == (run.step, 'save'):
        os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
      run.state, metrics = step(run.state, rows)
      run.log(metrics)
      if death == (run.step, 'after'):
        os.kill(os.getpid(), signal.SIGKILL)


def loss(params, rows, rng):
  """Of rows some of whose tokens are others: as random as dropout."""
  drop, other = jax.random.split(rng)
  shape = rows['input'].shape
  tokens = jnp.where(
    jax.random.bernoulli(drop, 0.2, shape),
    jax.random.randint(other, shape, 1, 280),
    rows['input'],
  )
  model = gm.nn.Transformer(config=CASE.config)
  return gm.losses.NextToken(model)(params, rows | {'input': tokens}, None)


def live(folder, kind, death):
  """In a process of its own. Returns the signal that ended it, or 0."""
  child = os.fork()
  if child == 0:
    try:
      run(folder, kind, death)
      os._exit(0)
    finally:
      sys.excepthook(*sys.exc_info())
      os._exit(1)
  return os.waitpid(child, 0)[1]


def logged(folder):
  """All of the table but the times."""
  with (folder / 'metrics.csv').open() as file:
    rows = [*csv.DictReader(file)]
  return [{k: x for k, x in row.items() if k != 'seconds'} for row in rows]


def main():
  folder, deaths = pathlib.Path(sys.argv[1]), DEATHS[sys.argv[2]]
  for kind in deaths:
    compare(folder / kind, kind, deaths[kind])


def compare(folder, kind, deaths):
  """A run with deaths and one without."""
  whole, killed = folder / 'whole', folder / 'killed'
  assert live(whole, kind, None) == 0
  for death in deaths:
    assert live(killed, kind, death) == signal.SIGKILL, death
  assert live(killed, kind, None) == 0
  expected, rows = logged(whole), logged(killed)
  assert rows == expected, f'{rows}\n{expected}'
  assert len({row['loss'] for row in rows}) == STEPS, rows
  state = f'checkpoints/step_{STEPS:08}/shards-0.bin'
  assert (killed / state).read_bytes() == (whole / state).read_bytes()
  print(f'{kind}: {len(deaths)} deaths, losses', *[r['loss'] for r in rows])


if __name__ == '__main__':
  main()
