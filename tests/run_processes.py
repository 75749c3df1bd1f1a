"""Two processes that train and sample as one program, in several lives.

The lives are forks of this process, which has imported JAX and not used it.
Prints as JSON how each life ended and, for each process, its results.

Usage: python run_processes.py FOLDER
"""

import dataclasses
import json
import os
import pathlib
import signal
import socket
import sys
import time

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import numpy as np
import optax

import cases
from gemma import gm

CASE = cases.GEMMA3
STEPS, SAVE_EVERY = 8, 2
# Before which step a signal comes.
KILLED_AT, TOLD_AT = 5, 7
LONG = 500  # Times the steps, so that all processes learn of a SIGTERM.


def main(folder: str) -> None:
  root = pathlib.Path(folder)
  ends = {
    'whole': lives(root / 'whole'),
    'killed': lives(root / 'run', KILLED_AT, signal.SIGKILL),
    'told': lives(root / 'run', TOLD_AT, signal.SIGTERM),
  }
  print(json.dumps(ends))


def lives(folder, at=None, how=None):
  """Both processes to their ends: exit codes, and what each wrote."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  files = [folder.with_name(f'{folder.name}-{i}.json') for i in range(2)]
  children = []
  for i, file in enumerate(files):
    file.unlink(missing_ok=True)
    if (child := os.fork()) == 0:
      death = (at, how) if i else (None, None)
      live(port, i, folder, file, death, told=how == signal.SIGTERM)
    children.append(child)
  codes = [os.waitpid(children[1], 0)[1]]
  if how == signal.SIGKILL:  # The other one would wait for it.
    os.kill(children[0], signal.SIGKILL)
  codes.insert(0, os.waitpid(children[0], 0)[1])
  return {
    'codes': [os.waitstatus_to_exitcode(code) for code in codes],
    'results': [json.loads(x.read_text()) for x in files if x.exists()],
  }


def live(port, process, folder, file, death, *, told):
  """The life of one process. Never returns."""
  code = 1
  try:
    gm.sharding.initialize(f'localhost:{port}', 2, process)
    run(folder, file, death, told=told)
    code = 0
  except SystemExit as e:
    code = e.code
  except BaseException:
    sys.excepthook(*sys.exc_info())
  finally:
    sys.stderr.flush()
    os._exit(code)


def run(folder, file, death=(None, None), *, told=False):
  """Trains on all devices there are, samples, and writes what came of it."""
  rules = gm.sharding.FSDP_TENSOR.on(gm.sharding.make_mesh(fsdp=2, tensor=2))
  # The tests go on with the weights, whose memory a step gives away.
  params = jax.tree.map(jax.numpy.copy, CASE.params)
  params = jax.device_put(params, rules(params))
  optimizer = optax.adamw(1e-3)
  state = gm.training.init_state(params, optimizer)
  step = gm.training.make_step(gm.losses.NextToken(CASE.model), optimizer)
  # The losses of the first steps do not depend on their number.
  repeats = LONG if told else 1
  batches = [batch_of(i) for i in range(STEPS)] * repeats
  training = gm.training.Run(
    folder,
    state,
    batches,
    steps=len(batches),
    save_every=SAVE_EVERY,
    progress=False,
  )
  results = {}
  try:
    with training:
      for batch in training:
        if training.step == death[0]:
          os.kill(os.getpid(), death[1])
        training.state, metrics = step(training.state, batch)
        training.log(metrics)
    params = gm.training.model_params(training.state)
    results |= samples(dataclasses.replace(CASE.sampler(), params=params))
  finally:
    losses = [float(row['loss']).hex() for row in training.rows]
    file.write_text(json.dumps(results | {'losses': losses}))
  return results | {'losses': losses}


def samples(sampler):
  """Answers to two prompts, whole and as streams."""
  prompts = CASE.prompts(6, 3)
  text = sampler.sample(prompts)
  if jax.process_index():
    time.monotonic = lambda: 0.0  # Clocks differ; this one stands still.
  pieces = [*sampler.sample(prompts, stream=True)]
  return {
    'text': text,
    'streamed': [''.join(x) for x in zip(*pieces, strict=True)],
  }


def batch_of(step: int) -> dict[str, np.ndarray]:
  """The part of a batch that this process has."""
  tokens = np.random.RandomState(step).randint(3, 280, (8, 13)).astype('int32')
  rows = 8 // jax.process_count()
  first = jax.process_index() * rows
  tokens = tokens[first : first + rows]
  return {
    'input': tokens[:, :-1],
    'target': tokens[:, 1:],
    'loss_mask': np.ones_like(tokens[:, 1:], bool),
  }


if __name__ == '__main__':
  main(*sys.argv[1:])
