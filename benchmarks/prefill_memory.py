"""Memory of a long prefill of Gemma 3 270M, and of its attention alone.

Command: `python benchmarks/prefill_memory.py`. Hardware: any; a few minutes on
2 cores. Metric: temporary bytes of the compiled program (weights, inputs and
cache not counted), and the peak resident memory of a process that runs it.

Each row is a process of its own, so that peaks do not mix.
"""

import argparse
from collections.abc import Callable
from collections.abc import Sequence
import json
import resource
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp

from gemma import gm

LENGTHS = (2048, 4096, 8192, 16_384)
PROGRAMS = ('model', 'chunked', 'naive')
_HEADS, _KV_HEADS, _HEAD_DIM = 4, 1, 256  # Of Gemma 3 270M.


def main(argv: Sequence[str] | None = None) -> None:
  """Prints a table in Markdown."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
  parser.add_argument('--lengths', type=int, nargs='+', default=LENGTHS)
  parser.add_argument('--one', nargs=2, metavar=('PROGRAM', 'LENGTH'))
  parser.add_argument(
    '--smoke', action='store_true', help='The bundled model, in this process.'
  )
  args = parser.parse_args(argv)
  if args.one:
    print(json.dumps(measure(args.one[0], int(args.one[1]))))
    return
  print('| program | tokens | temporary MiB | peak RSS MiB | tokens/s |')
  print('|---|---|---|---|---|')
  for program in PROGRAMS:
    for length in args.lengths:
      row = (
        measure(program, length, gm.nn.Gemma3_Tiny(text_only=True))
        if args.smoke
        else measure_apart(program, length)
      )
      print(
        f'| {program} | {length:,} | {row["temp"] / 2**20:,.0f} '
        f'| {row["rss"] / 2**20:,.0f} | {length / row["seconds"]:,.0f} |',
        flush=True,
      )


def measure_apart(program: str, length: int) -> dict[str, float]:
  """The measurement of a process of its own."""
  command = [sys.executable, __file__, '--one', program, str(length)]
  out = subprocess.run(command, check=True, capture_output=True, text=True)
  return json.loads(out.stdout)


def measure(
  program: str, length: int, model: gm.nn.Transformer | None = None
) -> dict[str, float]:
  """Compiles one program, runs it twice, times the second run."""
  function, inputs = (
    model_prefill(model or gm.nn.Gemma3_270M(), length)
    if program == 'model'
    else attention(program, length)
  )
  compiled = jax.jit(function).lower(*inputs).compile()
  jax.block_until_ready(compiled(*inputs))
  start = time.monotonic()
  jax.block_until_ready(compiled(*inputs))
  return {
    'seconds': time.monotonic() - start,
    'temp': compiled.memory_analysis().temp_size_in_bytes,
    'rss': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
  }


def model_prefill(
  model: gm.nn.Transformer, length: int
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
  """The whole model, one shot, through a cache, in bfloat16."""
  tokens = jnp.ones((1, length), jnp.int32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), tokens[:, :1])
  params = jax.tree.map(lambda x: jnp.full(x.shape, 0.01, x.dtype), shapes)
  cache = model.init_cache(
    batch_size=1, dtype=jnp.bfloat16, cache_length=length
  )

  def prefill(params, tokens, cache):
    return model.apply(params, tokens, cache=cache, return_last_only=True)

  return prefill, (params, tokens, cache)


def attention(
  implementation: gm.math.Implementation, length: int
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
  """One global layer's attention."""
  q = jnp.ones((1, length, _HEADS, _HEAD_DIM), jnp.bfloat16)
  kv = jnp.ones((1, length, _KV_HEADS, _HEAD_DIM), jnp.bfloat16)
  index = jnp.arange(length)[None]

  def attend(q, kv, index):
    mask = gm.math.Mask(q_index=index, k_index=index)
    return gm.math.attend(
      q, kv, kv, mask=mask, scale=1 / 16, implementation=implementation
    )

  return attend, (q, kv, index)


if __name__ == '__main__':
  main()
