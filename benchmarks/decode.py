"""Milliseconds per decoded token of Gemma 3 270M, next to others.

Command: `python benchmarks/decode.py --published-python PYTHON`, where PYTHON
has the published package; `--transformers-python`, if this one has no torch.
Hardware: a CPU, Linux. Metric: milliseconds of one step of the whole batch, the
least of all rounds; what a call costs in any case is not in it.

Weights are random. Ours is one `while_loop` of greedy steps over a cache that
is full but for the new tokens, and the sampler itself, whole and streamed, from
a prompt of 64. `transformers` (sdpa, `DynamicCache`) is measured with as full a
cache and with 64 tokens. What the published package takes depends on its cache
and not on what is in it: its prompt has 64 tokens. The floor is the time to
read the weights and the smallest cache once.

On 2 cores of a virtual machine, JAX 0.10.2, transformers 5.23, the published
package 3.3.0 on JAX 0.7.2; milliseconds. What it takes at a cache of 512 was
lost in the noise of its calls, which convert all weights first.

| row | ours | sampler | streamed | transformers | with 64 | published |
|---|---|---|---|---|---|---|
| bfloat16, batch 1, cache 512 | 28.9 | 27.0 | 30.2 | 34.7 | 34.0 | |
| bfloat16, batch 1, cache 4096 | 25.6 | 25.5 | 28.7 | 44.7 | 31.5 | 61.8 |
| bfloat16, batch 1, cache 32768 | 41.3 | 26.3 | 29.3 | 134.8 | 31.9 | 439.3 |
| bfloat16, batch 8, cache 4096 | 59.5 | 40.7 | 44.3 | 146.1 | 48.7 | 528.7 |
| float32, batch 1, cache 4096 | 35.4 | 33.4 | 37.8 | 80.8 | 77.2 | 88.7 |

| row | weights | cache | head | sampling | temporary MiB |
|---|---|---|---|---|---|
| bfloat16, batch 1, cache 512 | 10.8 | 0.0 | 13.3 | 1.1 | 2 |
| bfloat16, batch 1, cache 4096 | 10.5 | 0.0 | 12.4 | 1.0 | 2 |
| bfloat16, batch 1, cache 32768 | 10.1 | 11.8 | 12.5 | 1.1 | 2 |
| bfloat16, batch 8, cache 4096 | 17.8 | 14.9 | 17.6 | 4.3 | 8 |
| float32, batch 1, cache 4096 | 12.3 | 0.0 | 18.0 | 1.1 | 1 |
"""

import collections
from collections.abc import Callable
from collections.abc import Sequence
import json
from typing import Any

import peers

STEPS = 16
ROWS = [
  {'dtype': 'bfloat16', 'batch': 1, 'cache': 512},
  {'dtype': 'bfloat16', 'batch': 1, 'cache': 4096},
  {'dtype': 'bfloat16', 'batch': 1, 'cache': 32_768},
  {'dtype': 'bfloat16', 'batch': 8, 'cache': 4096},
  {'dtype': 'float32', 'batch': 1, 'cache': 4096},
]
# Of the shortest cache that is measured anyway.
SMOKE = [
  {'dtype': 'float32', 'batch': 1, 'cache': 3 * STEPS, 'smoke': True}
]


def main(argv: Sequence[str] | None = None) -> None:
  """Prints two tables in Markdown."""
  parser = peers.arguments(__doc__)
  args = parser.parse_args(argv)
  if args.side:
    side, row = args.side[0], json.loads(args.side[1])
    peers.serve(lambda: SETUP[side](row))
    return
  found = peers.pythons(args)
  rows = SMOKE if args.smoke else [r for r in ROWS if args.rows in name(r)]
  speed = float('nan')
  if not args.smoke:
    speed = peers.bandwidth()
    print(f'\nMemory is read at {speed / 1e9:.1f} GB/s.\n')
  print(
    '| row | ours | sampler | streamed | transformers | with 64 | published '
    '| floor | / transformers | / published | / floor |\n' + '|---' * 11 + '|'
  )
  splits = []
  for row in rows:
    results = peers.compare(
      __file__, found, row, args.rounds, SETUP, best=lambda rounds: rounds[-1]
    )
    print(line(row, results, speed), flush=True)
    ours = results['ours']
    splits.append(
      f'| {name(row)} | '
      + ' | '.join(f'{ours[k]:.1f}' for k in PARTS)
      + f' | {ours["temp"] / 2**20:.0f} |'
    )
  print('\nOurs, in parts:\n')
  print(f'| row | {" | ".join(PARTS)} | temporary MiB |')
  print('|---' * (len(PARTS) + 2) + '|')
  print('\n'.join(splits))


PARTS = ('weights', 'cache', 'head', 'sampling')


def name(row: dict[str, Any]) -> str:
  """What a row is called."""
  return f'{row["dtype"]}, batch {row["batch"]}, cache {row["cache"]}'


def line(
  row: dict[str, Any], results: dict[str, dict[str, float]], speed: float
) -> str:
  """One row of the table."""
  numbers = peers.WEIGHTS + peers.cache_elements(row['batch'], row['cache'])
  width = 2 if row['dtype'] == 'bfloat16' else 4
  floor = None if row.get('smoke') else numbers * width / speed * 1e3
  ours = results['ours']
  full = results.get('transformers', {}).get('full')
  short = results.get('transformers', {}).get('short')
  old = results.get('published', {}).get('loop')

  def show(value):
    return '' if value is None else f'{value:.1f}'

  def ratio(other):
    return '' if other is None else f'{ours["loop"] / other:.2f}'

  cells = [
    *(show(ours[k]) for k in ('loop', 'sampler', 'stream')),
    *map(show, (full, short, old, floor)),
    *map(ratio, (full, old, floor)),
  ]
  return f'| {name(row)} | {" | ".join(cells)} |'


def ours(row: dict[str, Any]) -> Callable[[], dict[str, float]]:
  """Our loop, its parts, and the sampler."""
  import jax
  import jax.numpy as jnp

  from gemma import gm

  batch, (model, params) = row['batch'], peers.our_model(row)
  timers = new_timers()
  loop = jax.jit(greedy(model), donate_argnums=1)
  width, rows = model.config.embed_dim, model.config.num_embed

  def full(length):
    """A cache with room for the steps of all calls, and otherwise full."""
    cache = model.init_cache(
      batch_size=batch, dtype=row['dtype'], cache_length=length
    )
    room = max(length - 2 * STEPS, 0)
    return cache.replace(length=jnp.full(batch, room, jnp.int32))

  def decode(length):
    def run(count):
      token = jnp.full(batch, 5, jnp.int32)
      jax.block_until_ready(loop(params, caches.pop(), token, count))

    # Made before the clock starts.
    calls = 2 * peers.REPEATS
    caches = [jax.block_until_ready(full(length)) for _ in range(calls)]
    return timers[length](run)

  def head(params, x, count):
    def step(_, x):
      logits = model.apply(
        {'params': params}, x, method=lambda m, x: m.embedder.decode(x)
      )
      return x + logits[:, :width].astype(x.dtype)

    return jax.lax.fori_loop(0, count, step, x)

  def pick(logits, count):
    def step(_, logits):
      best = jnp.argmax(logits, axis=-1)
      return logits.at[:, 0].set(best.astype(logits.dtype))

    return jax.lax.fori_loop(0, count, step, logits)

  head, pick = jax.jit(head), jax.jit(pick, donate_argnums=0)
  x = jnp.ones((batch, width), row['dtype'])
  temp = loop.lower(params, full(row['cache']), jnp.zeros(batch, jnp.int32), 1)
  temp = temp.compile().memory_analysis().temp_size_in_bytes

  bundled = gm.from_pretrained(gm.ckpts.CheckpointPath.GEMMA3_TINY_IT)
  sampler = gm.text.Sampler(
    model=model, params=params, tokenizer=bundled.tokenizer
  )
  prompts = peers.prompt(batch, 64, min(rows, 2000)).tolist()

  def sample(count, stream=False):
    out = sampler.sample(prompts, max_new_tokens=count, stream=stream, rng=0)
    for _ in out if stream else ():
      pass

  def measure() -> dict[str, float]:
    small, whole = decode(3 * STEPS), decode(row['cache'])
    parts = {
      'head': timers['head'](
        lambda n: jax.block_until_ready(head(params, x, n))
      ),
      'sampling': timers['sampling'](
        lambda n: jax.block_until_ready(pick(jnp.zeros((batch, rows)), n))
      ),
    }
    return {
      'loop': whole,
      'cache': max(whole - small, 0),
      'weights': max(small - sum(parts.values()), 0),
      **parts,
      'sampler': timers['sampler'](sample),
      'stream': timers['stream'](lambda n: sample(n, True)),
      'temp': float(temp),
    }

  return measure


def new_timers() -> dict[Any, peers.StepTimer]:
  """One for each thing that is measured."""
  return collections.defaultdict(lambda: peers.StepTimer(STEPS))


def greedy(model: Any) -> Callable[..., Any]:
  """A loop of greedy steps, as a sampler runs it."""
  import jax
  import jax.numpy as jnp

  def loop(params, cache, token, count):
    def step(carry):
      i, token, cache = carry
      out = model.apply(
        {'params': params}, token[:, None], cache=cache, return_last_only=True
      )
      # Not 0, which is padding.
      token = 1 + jnp.argmax(out.logits[:, 1:], axis=-1).astype(jnp.int32)
      return i + 1, token, out.cache

    return jax.lax.while_loop(lambda c: c[0] < count, step, (0, token, cache))

  return loop


def with_transformers(row: dict[str, Any]) -> Callable[[], dict[str, float]]:
  """Greedy steps of `transformers` with a full cache and with 64 tokens."""
  import torch
  import transformers

  model = peers.torch_model(row['dtype'])
  dtype, timers = getattr(torch, row['dtype']), new_timers()

  def decode(length):
    cache = transformers.DynamicCache(config=model.config)
    kv = torch.randn(row['batch'], 1, length, peers.KV_WIDTH).to(dtype)
    for i in range(peers.LAYERS):
      cache.update(kv.clone(), kv.clone(), i)
    token = torch.full((row['batch'], 1), 5)

    def run(count):
      nonlocal token
      for _ in range(count):
        out = model(input_ids=token, past_key_values=cache, logits_to_keep=1)
        token = out.logits[:, -1].argmax(-1, keepdim=True)

    with torch.inference_mode():
      run(2)
      return timers[length](run)

  length = row['cache'] - 2 * STEPS
  return lambda: {'full': decode(length), 'short': decode(64)}


def published(row: dict[str, Any]) -> Callable[[], dict[str, float]]:
  """The loop of the published package."""
  import jax
  import jax.numpy as jnp

  from gemma import gm
  from gemma.gm.text import _sampler_loop
  from gemma.gm.text import _sampling

  model, params, prefill = peers.published_state(row, row['cache'])
  state = jax.block_until_ready(prefill(row['batch'], 64))
  tokenizer = gm.text.Gemma3Tokenizer
  loop = _sampler_loop.SamplerLoop(
    model=model,
    end_tokens=(-1,),
    forbidden_tokens=tokenizer.FORBIDDEN_TOKENS,
    sampling=_sampling.Greedy(),
    cache_length=row['cache'],
    special_tokens=tokenizer.special_tokens,
  )

  def run(count):
    out = loop.sample(
      params=params, init_state=state, max_new_tokens=jnp.asarray(count)
    )
    jax.block_until_ready(out.predicted_tokens)

  timer = peers.StepTimer(STEPS)
  return lambda: {'loop': timer(run)}


SETUP = {
  'ours': ours,
  'transformers': with_transformers,
  'published': published,
}


if __name__ == '__main__':
  main()
