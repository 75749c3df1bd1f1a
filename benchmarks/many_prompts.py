"""Many prompts through a few slots, against one batch after the other.

The lengths of the answers have a long tail (log-normal), as those of real
traffic: in a fixed batch, all rows wait for the longest. Both sides sample the
same tokens, with the same compiled loop; compilation is done before.

  python benchmarks/many_prompts.py [--prompts 1000] [--slots 16] [--smoke]

1,000 prompts, 16 slots, answers of 2 to 400 tokens (mean 41), the bundled model
in bfloat16, 2 cores, JAX 0.10.2:

  in turns    16.8 s   2,415 tokens/s   one decode loop is compiled
  in batches  43.4 s     937 tokens/s
  ratio 2.58
"""

import argparse
from collections.abc import Sequence
import time

import numpy as np

from gemma import gm
from gemma.gm.text import _decode


def main(argv: Sequence[str] | None = None) -> None:
  """Prints seconds and tokens per second of both."""
  args = _arguments(argv)
  rng = np.random.default_rng(0)
  limits = np.exp(rng.normal(3.3, 1.0, args.prompts)).astype(int)
  limits = np.clip(limits, 2, 400).tolist()
  tiny = gm.from_pretrained(gm.ckpts.CheckpointPath.GEMMA3_TINY_IT)
  prompts = [
    rng.integers(300, 2000, rng.integers(4, 60)).tolist() for _ in limits
  ]
  sampler = gm.text.Sampler(
    model=tiny.model,
    params=tiny.params,
    tokenizer=tiny.tokenizer,
    sampling=gm.text.RandomSampling(),
    # Answers end where their length says, not where the model likes.
    forbidden_tokens=[
      tiny.tokenizer.special_tokens.EOS,
      tiny.tokenizer.special_tokens.END_OF_TURN,
    ],
    max_batch_size=args.slots,
  )

  def in_turns() -> list[str]:
    return sampler.sample(prompts, max_new_tokens=limits, rng=0, progress=False)

  def in_batches() -> list[str]:
    texts = []
    for i in range(0, len(prompts), args.slots):
      part = slice(i, i + args.slots)
      texts += sampler.sample(
        prompts[part], max_new_tokens=limits[part], rng=0, progress=False
      )
    return texts

  print(f'{args.prompts} prompts, mean answer {np.mean(limits):.0f} tokens')
  seconds = {}
  for name, run in (('in turns', in_turns), ('in batches', in_batches)):
    run()
    print(f'{name}: {_decode.decode._cache_size()} decode loops compiled')
    start = time.perf_counter()
    run()
    seconds[name] = time.perf_counter() - start
    rate = sum(limits) / seconds[name]
    print(f'{name:12} {seconds[name]:6.1f} s {rate:8,.0f} tokens/s')
  ratio = seconds['in batches'] / seconds['in turns']
  print(f'ratio {ratio:.2f}')


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--prompts', type=int, default=1000)
  parser.add_argument('--slots', type=int, default=16)
  parser.add_argument('--smoke', action='store_true', help='A small run.')
  args = parser.parse_args(argv)
  if args.smoke:
    args.prompts, args.slots = 8, 2
  return args


if __name__ == '__main__':
  main()
