"""Seconds and memory of a training step of Gemma 3 270M, with peers.

Command: `python benchmarks/train.py --published-python PYTHON`, where PYTHON
has the published package; `--transformers-python`, if this one has no torch.
Hardware: a CPU, Linux, 24 GiB. Metric: the best step of all rounds; and the
most memory that is resident in a process that trains.

Weights are random, the optimizer is AdamW, adapters have rank 8 and are on all
linear maps of the layers. Sides take turns, each in a process of its own and
alone, because together they do not fit in memory. Ours is `gm.training` with
`remat='full'` and `scan_layers=True`, unless a row says otherwise; the others
train as their users are told to.

Measured on two cores (Xeon, AVX-512 and AMX) with JAX 0.10.2, torch 2.13 and
transformers 5; the published package 3.3.0 with JAX 0.7.2, which it needs, and
which is slow in bfloat16. One round; ours in the bfloat16 rows of full training
and in the second of float32 from a run of its own; the published LoRA was ended
after ten minutes:

| row | s | transformers | published | GiB | transformers | published |
|---|---|---|---|---|---|---|
| full, bfloat16, 4 x 512 | 12.7 | 18.6 | 57.5 | 3.94 | 11.15 | 16.25 |
| full, bfloat16, 1 x 2048 | 16.8 | 22.1 | 65.3 | 3.74 | 11.21 | 17.89 |
| full, float32, 4 x 512 | 20.1 | 46.0 | 26.9 | 5.84 | 14.64 | 12.15 |
| full, float32, 1 x 2048 | 20.1 | 43.3 | 32.9 | 5.91 | 14.82 | 13.87 |
| LoRA, bfloat16, 4 x 512 | 10.5 | 18.4 | over 100 | 2.25 | 10.70 | 14.6 |
| LoRA, bfloat16, 1 x 2048 | 10.9 | 19.2 | | 2.02 | 10.99 | |
"""

from collections.abc import Callable
from collections.abc import Sequence
import functools
import json
import time
from typing import Any

import numpy as np
import peers

STEPS = 3  # Of one process, behind one that compiles.
ROWS = [
  {'dtype': 'bfloat16', 'batch': 4, 'length': 512, 'lora': False},
  {'dtype': 'bfloat16', 'batch': 1, 'length': 2048, 'lora': False},
  {'dtype': 'float32', 'batch': 4, 'length': 512, 'lora': False},
  {'dtype': 'float32', 'batch': 1, 'length': 2048, 'lora': False},
  {'dtype': 'bfloat16', 'batch': 4, 'length': 512, 'lora': True},
  {'dtype': 'bfloat16', 'batch': 1, 'length': 2048, 'lora': True},
]
SMOKE = [
  {'dtype': 'float32', 'batch': 2, 'length': 64, 'lora': lora, 'smoke': True}
  for lora in (False, True)
]
RANK, RATE = 8, 1e-4


def main(argv: Sequence[str] | None = None) -> None:
  """Prints a table in Markdown."""
  args = peers.arguments(__doc__).parse_args(argv)
  if args.side:
    side, row = args.side[0], json.loads(args.side[1])
    print(json.dumps(measured(SETUP[side](row))))
    return
  found = peers.pythons(args)
  rows = SMOKE if args.smoke else [r for r in ROWS if args.rows in name(r)]
  sides = [side for side in peers.SIDES if side in found]
  titles = [f'{side}, s' for side in sides] + [f'{side}, GiB' for side in sides]
  print(
    f'\n| row | {" | ".join(titles)} |\n' + '|---' * (len(titles) + 1) + '|'
  )
  for row in rows:
    results: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(1 if args.smoke else args.rounds):
      for side in sides:
        results[side].append(
          measured(SETUP[side](row))
          if args.smoke
          else peers.run_once(__file__, side, found[side], json.dumps(row))
        )
    best = [min(x['seconds'] for x in results[side]) for side in sides]
    peak = [max(x['peak'] for x in results[side]) for side in sides]
    cells = [f'{s:.2f}' for s in best] + [f'{p / 2**30:.2f}' for p in peak]
    print(f'| {name(row)} | {" | ".join(cells)} |', flush=True)


def name(row: dict[str, Any]) -> str:
  """What a row is called."""
  what = 'LoRA' if row['lora'] else 'full'
  return f'{what}, {row["dtype"]}, {row["batch"]} x {row["length"]}'


def measured(step: Callable[[], float]) -> dict[str, float]:
  """The quickest step, and the peak of all but the first one."""
  losses = [step()]
  peers.restart_peak()
  seconds = []
  for _ in range(STEPS):
    start = time.perf_counter()
    losses.append(step())
    seconds.append(time.perf_counter() - start)
  if not np.all(np.isfinite(losses)) or losses[-1] >= losses[0]:
    raise ValueError(f'It does not learn: {losses}.')
  return {'seconds': min(seconds), 'peak': float(peers.peak())}


def tokens_of(row: dict[str, Any], vocab: int = 200_000) -> np.ndarray:
  """The same rows in each step, one token longer than what goes in."""
  return peers.prompt(row['batch'], row['length'] + 1, vocab)


def ours(row: dict[str, Any]) -> Callable[[], float]:
  """The step of `gm.training`."""
  import jax
  import jax.numpy as jnp
  import optax

  from gemma import gm
  from gemma import peft

  model, params = peers.our_model(row)
  if row['lora']:
    lora = peft.init_lora(
      params, rank=RANK, rng=jax.random.key(0), targets='^layer_'
    )
    lora = jax.tree.map(lambda x: x.astype(row['dtype']), lora)
    params = peft.merge_params(params, lora)
  model = model.clone(remat='full', scan_layers=True)
  params = jax.jit(
    lambda params: gm.nn.stack_layers(params, model.config), donate_argnums=0
  )(params)
  optimizer = optax.adamw(RATE)
  state = gm.training.init_state(
    params, optimizer, trainable='lora' if row['lora'] else None
  )
  step = gm.training.make_step(gm.losses.NextToken(model), optimizer)
  ids = jnp.asarray(tokens_of(row, min(200_000, model.config.num_embed)))
  batch = {
    'input': ids[:, :-1],
    'target': ids[:, 1:],
    'loss_mask': jnp.ones_like(ids[:, 1:], bool),
  }
  states = [state]
  del params, state

  def run() -> float:
    state, metrics = step(states.pop(), batch)
    states.append(state)
    return float(metrics['loss'])

  return run


def with_transformers(row: dict[str, Any]) -> Callable[[], float]:
  """`labels=`, and the optimizer of torch."""
  import torch

  model = peers.torch_model(row['dtype']).train()
  if row['lora']:
    import peft

    names = [
      'q_proj',
      'k_proj',
      'v_proj',
      'o_proj',
      'gate_proj',
      'up_proj',
      'down_proj',
    ]
    config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=names)
    model = peft.get_peft_model(model, config)
  weights = [x for x in model.parameters() if x.requires_grad]
  optimizer = torch.optim.AdamW(weights, lr=RATE)
  ids = torch.from_numpy(tokens_of(row)).long()

  def run() -> float:
    out = model(input_ids=ids[:, :-1], labels=ids[:, :-1], use_cache=False)
    out.loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(out.loss)

  return run


def published(row: dict[str, Any]) -> Callable[[], float]:
  """The model and the loss of the published examples, donated."""
  import jax
  import jax.numpy as jnp
  from kauldron import kd
  import optax

  from gemma import gm

  dtype = jnp.dtype(row['dtype'])
  model = gm.nn.Gemma3_270M(dtype=dtype, tokens='batch.input')
  optimizer = optax.adamw(RATE)
  if row['lora']:
    model = gm.nn.LoRA(rank=RANK, model=model, dtype=dtype)
    optimizer = kd.optim.partial_updates(
      optimizer, mask=kd.optim.select('lora')
    )
  params = peers.flax_params(model, row['dtype'])
  state = jax.jit(optimizer.init)(params)
  ids = jnp.asarray(tokens_of(row))

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, state):
    def loss(params):
      logits = model.apply({'params': params}, ids[:, :-1]).logits
      losses = optax.softmax_cross_entropy_with_integer_labels(
        logits, ids[:, 1:]
      )
      return losses.mean()

    value, grads = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value

  states = [(params, state)]
  del params, state

  def run() -> float:
    params, state, loss = step(*states.pop())
    states.append((params, state))
    return float(loss)

  return run


SETUP = {
  'ours': ours,
  'transformers': with_transformers,
  'published': published,
}


if __name__ == '__main__':
  main()
