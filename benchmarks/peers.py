"""What the benchmarks that compare this library with others have in common.

Each library is a side: a process of its own, with its own Python. All sides of
a row are started, then asked for one measurement in turn, so that whatever else
the machine does falls on all of them.
"""

import argparse
from collections.abc import Callable
from collections.abc import Mapping
from concurrent import futures
import ctypes
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

import numpy as np

SIDES = ('ours', 'transformers', 'published')
ROUNDS = 5
REPEATS = 2  # Of each length in one measurement; the quickest counts.
LAYERS, WINDOW, KV_WIDTH, VOCAB = 18, 512, 256, 262_144  # Of Gemma 3 270M.
WEIGHTS = 268_098_176
GLOBAL = [i % 6 == 5 for i in range(LAYERS)]
Measure = Callable[[], Mapping[str, float]]


def arguments(doc: str | None) -> argparse.ArgumentParser:
  """The options that all comparisons have."""
  parser = argparse.ArgumentParser(description=(doc or '').split('\n', 1)[0])
  parser.add_argument('--transformers-python', default=sys.executable)
  parser.add_argument('--published-python', default='')
  parser.add_argument('--rounds', type=int, default=ROUNDS)
  parser.add_argument('--rows', default='', help='Only rows with this in them.')
  parser.add_argument(
    '--smoke', action='store_true', help='A tiny model, without peers.'
  )
  parser.add_argument('--side', nargs=2, help=argparse.SUPPRESS)
  return parser


def pythons(args: argparse.Namespace) -> dict[str, str]:
  """The Python of each side that is there; says which are not."""
  found = {'ours': sys.executable}
  peers = {
    'transformers': (args.transformers_python, 'import torch, transformers'),
    'published': (args.published_python, 'import kauldron'),
  }
  for side, (python, code) in peers.items():
    if args.smoke or not python:
      print(f'{side}: left out.')
    elif subprocess.run(
      [python, '-c', code], check=False, capture_output=True, env=clean_env()
    ).returncode:
      print(f'{side}: left out, {python} does not have it.')
    else:
      found[side] = python
  return found


def clean_env() -> dict[str, str]:
  """The environment without our own sources, for the other libraries."""
  return {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}


def our_env() -> dict[str, str]:
  """The environment in which this checkout is what `import gemma` finds."""
  root = str(pathlib.Path(__file__).parents[1])
  return {**os.environ, 'PYTHONPATH': root}


class Side:
  """One library in a process of its own, that measures when asked."""

  def __init__(self, side: str, python: str, script: str, row: Mapping):
    """Starts the process; `ready` waits for it."""
    self._process = subprocess.Popen(
      [python, script, '--side', side, json.dumps(row)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=None if side == 'ours' else subprocess.DEVNULL,
      text=True,
      env=our_env() if side == 'ours' else clean_env(),
    )
    self.ready = self._read()

  def measure(self) -> dict[str, float] | None:
    """One measurement; None if the process has died."""
    if self.ready is None:
      return None
    assert self._process.stdin is not None
    self._process.stdin.write('\n')
    self._process.stdin.flush()
    return self._read()

  def close(self) -> None:
    """Ends the process."""
    assert self._process.stdin is not None
    self._process.stdin.close()
    self._process.wait()

  def _read(self) -> dict[str, float] | None:
    assert self._process.stdout is not None
    for line in self._process.stdout:
      if line.startswith('{'):
        return json.loads(line)
    return None


class Here:
  """A side in this process, for a short run without peers."""

  def __init__(self, setup: Callable[[Any], Measure], row: Mapping):
    """Sets the side up."""
    self._measure = setup(row)

  def measure(self) -> Mapping[str, float]:
    """One measurement."""
    return self._measure()

  def close(self) -> None:
    """Does nothing: the process goes on."""


def run_once(
  script: str, side: str, python: str, argument: str, **env: str
) -> dict[str, float]:
  """What a side prints last, in a process that measures once."""
  base = our_env() if side == 'ours' else clean_env()
  command = [python, script, '--side', side, argument]
  out = subprocess.run(
    command, check=True, capture_output=True, text=True, env=base | env
  )
  return json.loads(out.stdout.splitlines()[-1])


def serve(setup: Callable[[], Measure]) -> None:
  """The other end of a `Side`: sets up, then one result per line of input."""
  measure = setup()
  measure()  # Compiles.
  print('{}', flush=True)
  for _ in sys.stdin:
    print(json.dumps(measure()), flush=True)


def compare(
  script: str,
  found: Mapping[str, str],
  row: Mapping[str, Any],
  rounds: int,
  setup: Mapping[str, Callable[[Any], Measure]],
  best: Callable[[list[float]], float] = min,
) -> dict[str, dict[str, float]]:
  """The best that each side measured, the sides taking turns.

  What else a machine does only ever adds to a time. Each side has a process of
  its own, unless the row is a smoke test.

  Args:
    script: The benchmark.
    found: The Python of each side.
    row: What to measure.
    rounds: Measurements of each side.
    setup: Makes the measurement of each side from the row.
    best: Chooses among rounds.
  """
  sides: dict[str, Side | Here] = {
    name: Here(setup[name], row)
    if row.get('smoke')
    else Side(name, python, script, row)
    for name, python in found.items()
  }
  results: dict[str, list[Mapping[str, float]]] = {name: [] for name in sides}
  for _ in range(rounds):
    for name, side in sides.items():
      if result := side.measure():
        results[name].append(result)
  for side in sides.values():
    side.close()
  return {
    name: {k: best([r[k] for r in each]) for k in each[0]}
    for name, each in results.items()
    if each
  }


class StepTimer:
  """Milliseconds of one step: what a call costs in any case falls out.

  The least of all rounds is kept of few and of many steps, and then one is
  taken from the other: the least of the differences would be noise.
  """

  def __init__(self, steps: int):
    """Times runs of a quarter of `steps`, and of so many more."""
    self._few, self._many = steps // 4, steps + steps // 4
    self._seconds = {self._few: float('inf'), self._many: float('inf')}

  def __call__(self, run: Callable[[int], Any]) -> float:
    """Times `run(count)` once more."""
    for count in (self._few, self._many) * REPEATS:
      start = time.perf_counter()
      run(count)
      seconds = time.perf_counter() - start
      self._seconds[count] = min(self._seconds[count], seconds)
    more = self._seconds[self._many] - self._seconds[self._few]
    return 1e3 * more / (self._many - self._few)


def bandwidth() -> float:
  """Bytes per second that two threads read from memory, best of six."""
  data = np.ones(1 << 27, np.uint64)
  halves = np.split(data, 2)
  best = float('inf')
  with futures.ThreadPoolExecutor(2) as pool:
    for _ in range(6):
      start = time.perf_counter()
      list(pool.map(np.max, halves))
      best = min(best, time.perf_counter() - start)
  return data.nbytes / best


def cache_elements(batch: int, length: int) -> int:
  """Numbers in the smallest cache of so many tokens."""
  slots = sum(length if g else min(length, WINDOW) for g in GLOBAL)
  return 2 * batch * slots * KV_WIDTH


def restart_peak() -> int:
  """Hands freed memory back, restarts the peak; bytes resident now (Linux)."""
  ctypes.CDLL('libc.so.6').malloc_trim(0)
  pathlib.Path('/proc/self/clear_refs').write_text('5')
  return _status('VmRSS')


def peak() -> int:
  """Most bytes resident since `restart_peak`."""
  return _status('VmHWM')


def _status(key: str) -> int:
  for line in pathlib.Path('/proc/self/status').read_text().splitlines():
    if line.startswith(key):
      return int(line.split()[1]) * 1024
  raise ValueError(f'No {key} in /proc/self/status.')


def noise(shape: tuple[int, ...]) -> np.ndarray:
  """Random numbers, repeated: speed does not depend on them."""
  block = np.random.default_rng(0).standard_normal(1 << 20, np.float32)
  return np.resize(0.02 * block, shape)


def prompt(batch: int, length: int, vocab: int = 200_000) -> np.ndarray:
  """Random ids that are no special tokens."""
  rng = np.random.default_rng(1)
  return rng.integers(10, vocab, (batch, length), dtype=np.int32)


def flax_params(model: Any, dtype: str) -> Any:
  """Random parameters of a Flax model, ours or the published one."""
  import jax
  import jax.numpy as jnp

  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), jnp.ones((1, 8), jnp.int32))
  )['params']

  def leaf(x):
    value = noise(x.shape) if len(x.shape) > 1 else np.zeros(x.shape)
    return jnp.asarray(value, dtype)

  return jax.block_until_ready(jax.tree.map(leaf, shapes))


def our_model(row: Mapping[str, Any]) -> tuple[Any, Any]:
  """Our model and its parameters."""
  from gemma import gm

  # Not the preset itself: that asks for the tokenizer of its version.
  config = gm.nn.Gemma3_270M().config
  if row.get('smoke'):  # Two layers with the vocabulary of the bundled model.
    config = gm.nn.Gemma3_Tiny(text_only=True).config
    kinds = config.attention_types[-2:]
    config = dataclasses.replace(config, attention_types=kinds)
  model = gm.nn.Transformer(config=config, dtype=row['dtype'])
  return model, flax_params(model, row['dtype'])


def torch_model(dtype: str) -> Any:
  """The same shapes in `transformers`."""
  import torch
  import transformers

  torch.manual_seed(0)
  kinds = ['full_attention' if g else 'sliding_attention' for g in GLOBAL]
  config = transformers.Gemma3TextConfig(
    vocab_size=VOCAB,
    hidden_size=640,
    intermediate_size=2048,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    num_key_value_heads=1,
    head_dim=KV_WIDTH,
    sliding_window=WINDOW,
    query_pre_attn_scalar=KV_WIDTH,
    layer_types=kinds,
  )
  config._attn_implementation = 'sdpa'
  model = transformers.Gemma3ForCausalLM(config)
  return model.to(getattr(torch, dtype)).eval()


def published_state(row: Mapping[str, Any], cache: int) -> tuple[Any, ...]:
  """Model, parameters and a function that fills a cache, as published."""
  from gemma.gm.utils import _types
  import jax
  import jax.numpy as jnp

  from gemma import gm
  from gemma.gm.text import _prefill

  model = gm.nn.Gemma3_270M(dtype=jnp.dtype(row['dtype']), tokens='batch.input')
  params = flax_params(model, row['dtype'])

  def prefill(batch: int, length: int) -> Any:
    tokens = jnp.asarray(prompt(batch, length))
    inputs = _types.Input(
      text=tokens, images=None, config=model.config.input_config
    )
    return _prefill.prefill(
      model=model,
      params=params,
      input=inputs,
      last_state=None,
      cache_length=cache,
      max_out_length=64,
      pad_length=None,
      rng=jax.random.key(0),
      sharding=None,
    )

  return model, params, prefill
