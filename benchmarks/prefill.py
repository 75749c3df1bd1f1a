"""Tokens per second and memory of a prompt through Gemma 3 270M, with peers.

Command: `python benchmarks/prefill.py --published-python PYTHON`, where PYTHON
has the published package; `--transformers-python`, if this one has no torch.
Hardware: a CPU, Linux. Metric: the prompt's tokens per second, with a cache and
the logits of the last token, the best of all rounds; and the most memory that a
call has resident above what was there before, the cache included.

Weights are random. Ours goes in chunks of 1024, as the sampler does;
`transformers` (sdpa) and the published package take the prompt whole.

On 2 cores of a virtual machine, JAX 0.10.2, transformers 5.23, the published
package 3.3.0 on JAX 0.7.2, in one run; tokens per second, and MiB.

| row | ours | transformers | published | ours | transformers | published |
|---|---|---|---|---|---|---|
| bfloat16, 512 tokens | 1,613 | 1,214 | 149 | 48 | 23 | 417 |
| bfloat16, 2048 tokens | 1,430 | 673 | 238 | 103 | 103 | 624 |
| bfloat16, 8192 tokens | 1,132 | 247 | 143 | 153 | 558 | 3,301 |
| float32, 512 tokens | 1,164 | 557 | 817 | 51 | 45 | 347 |
"""

from collections.abc import Callable
from collections.abc import Sequence
import json
import time
from typing import Any

import peers

CHUNK = 1024
ROWS = [
  {'dtype': dtype, 'length': length}
  for dtype in ('bfloat16', 'float32')
  for length in (512, 2048, 8192)
]
SMOKE = [{'dtype': 'float32', 'length': 128, 'smoke': True}]


def main(argv: Sequence[str] | None = None) -> None:
  """Prints a table in Markdown."""
  parser = peers.arguments(__doc__)
  args = parser.parse_args(argv)
  if args.side:
    side, row = args.side[0], json.loads(args.side[1])
    peers.serve(lambda: SETUP[side](row))
    return
  found = peers.pythons(args)
  rows = SMOKE if args.smoke else [r for r in ROWS if args.rows in name(r)]
  print(
    '\n| row | ours | transformers | published | / transformers | / published '
    '| ours MiB | temporary | transformers MiB | published MiB |\n'
    + '|---' * 10
    + '|'
  )
  for row in rows:
    results = peers.compare(__file__, found, row, args.rounds, SETUP)
    print(line(row, results), flush=True)


def name(row: dict[str, Any]) -> str:
  """What a row is called."""
  return f'{row["dtype"]}, {row["length"]} tokens'


def line(row: dict[str, Any], results: dict[str, dict[str, float]]) -> str:
  """One row of the table."""

  def value(side, key):
    return results.get(side, {}).get(key)

  def show(number, scale=1.0):
    return '' if number is None else f'{number / scale:,.0f}'

  seconds = [value(side, 'seconds') for side in peers.SIDES]
  speeds = [None if s is None else row['length'] / s for s in seconds]

  def ratio(other):
    return '' if other is None else f'{speeds[0] / other:.2f}'

  cells = [
    *map(show, speeds),
    *map(ratio, speeds[1:]),
    show(value('ours', 'peak'), 2**20),
    show(value('ours', 'temp'), 2**20),
    show(value('transformers', 'peak'), 2**20),
    show(value('published', 'peak'), 2**20),
  ]
  return f'| {name(row)} | {" | ".join(cells)} |'


def timed(run: Callable[[], Any]) -> dict[str, float]:
  """Seconds of a call, and its memory."""
  before = peers.restart_peak()
  start = time.perf_counter()
  run()
  seconds = time.perf_counter() - start
  return {'seconds': seconds, 'peak': float(peers.peak() - before)}


def ours(row: dict[str, Any]) -> Callable[[], dict[str, float]]:
  """Chunk after chunk into a cache whose memory is reused."""
  import jax
  import jax.numpy as jnp

  length, (model, params) = row['length'], peers.our_model(row)
  tokens = jnp.asarray(
    peers.prompt(1, length, min(200_000, model.config.num_embed))
  )

  def chunk(params, tokens, cache):
    out = model.apply(
      {'params': params}, tokens, cache=cache, return_last_only=True
    )
    return out.cache, out.logits

  def empty():
    return model.init_cache(
      batch_size=1, dtype=row['dtype'], cache_length=length
    )

  # Lengths that are longer are multiples of it: there is one shape.
  chunk = jax.jit(chunk, donate_argnums=2).lower(
    params, tokens[:, :CHUNK], empty()
  )
  compiled = chunk.compile()

  def run():
    cache = empty()
    for i in range(0, length, CHUNK):
      cache, logits = compiled(params, tokens[:, i : i + CHUNK], cache)
    jax.block_until_ready(logits)

  temp = compiled.memory_analysis().temp_size_in_bytes
  return lambda: {**timed(run), 'temp': float(temp)}


def with_transformers(row: dict[str, Any]) -> Callable[[], dict[str, float]]:
  """The whole prompt at once."""
  import torch

  model = peers.torch_model(row['dtype'])
  tokens = torch.from_numpy(peers.prompt(1, row['length'])).long()

  def run():
    with torch.inference_mode():
      model(input_ids=tokens, use_cache=True, logits_to_keep=1)

  return lambda: timed(run)


def published(row: dict[str, Any]) -> Callable[[], dict[str, float]]:
  """The whole prompt at once."""
  import jax

  *_, prefill = peers.published_state(row, row['length'] + 64)

  def run():
    jax.block_until_ready(prefill(1, row['length']).cache)

  return lambda: timed(run)


SETUP = {
  'ours': ours,
  'transformers': with_transformers,
  'published': published,
}


if __name__ == '__main__':
  main()
