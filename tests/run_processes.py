"""One of several processes that train and sample as one program.

Usage: python run_processes.py PORT COUNT PROCESS FOLDER [KILL_AT]
"""

import json
import os
import signal
import sys
import time

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import numpy as np
import optax

from gemma import gm

STEPS = 20


def main(port: str, count: str, process: str, folder: str, *rest: str) -> None:
  gm.sharding.initialize(f'localhost:{port}', int(count), int(process))
  kill_at, how = (int(rest[0]), rest[1]) if rest else (None, '')
  tiny = gm.from_pretrained(gm.ckpts.CheckpointPath.GEMMA3_TINY_IT)
  rules = gm.sharding.FSDP_TENSOR.on(gm.sharding.make_mesh(fsdp=2, tensor=2))
  params = jax.device_put(tiny.params, rules(tiny.params))
  optimizer = optax.adamw(1e-3)
  state = gm.training.init_state(params, optimizer)
  step = gm.training.make_step(gm.losses.NextToken(tiny.model), optimizer)
  rows = 8 // jax.process_count()
  batches = [batch_of(i, rows) for i in range(STEPS)]
  with gm.training.Run(
    folder, state, batches, steps=STEPS, save_every=4, progress=False
  ) as run:
    for batch in run:
      if run.step == kill_at and jax.process_index() == jax.process_count() - 1:
        os.kill(os.getpid(), getattr(signal, how))
      run.state, metrics = step(run.state, batch)
      run.log(metrics)
  sampler = gm.text.Sampler(
    model=tiny.model,
    params=gm.training.model_params(run.state),
    tokenizer=tiny.tokenizer,
    cache_length=64,
    max_out_length=8,
    pad_length=16,
  )
  text = sampler.sample(['ROMEO:', 'What is', 'A'])
  if jax.process_index():
    time.monotonic = lambda: 0.0  # Clocks differ; this one stands still.
  pieces = [*sampler.sample('ROMEO:', stream=True)]
  losses = [float(row['loss']).hex() for row in run.rows]
  print(json.dumps({'losses': losses, 'text': text, 'pieces': pieces}))


def batch_of(step: int, rows: int) -> dict[str, np.ndarray]:
  """The part of a batch that this process has."""
  tokens = np.random.RandomState(step).randint(3, 2000, (8, 33)).astype('int32')
  first = jax.process_index() * rows
  tokens = tokens[first : first + rows]
  return {
    'input': tokens[:, :-1],
    'target': tokens[:, 1:],
    'loss_mask': np.ones_like(tokens[:, 1:], bool),
  }


if __name__ == '__main__':
  main(*sys.argv[1:])
