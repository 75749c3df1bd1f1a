"""What `from gemma import gm` costs beyond importing JAX and Flax.

Command: `python benchmarks/import_time.py`. Hardware: any. Metric: median
seconds of ten processes, of the whole and of JAX and Flax alone, in turn.
"""

import argparse
from collections.abc import Sequence
import statistics
import subprocess
import sys
import time

BASE = 'import jax, flax.linen'
OURS = (
  f'{BASE}; from gemma import gm; gm.nn.Gemma3_4B; gm.text.Sampler; '
  'gm.text.ChatSampler; gm.ckpts.load_params; gm.from_pretrained'
)
RUNS = 10


def main(argv: Sequence[str] | None = None) -> None:
  """Prints the medians and their difference."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
  parser.add_argument('--runs', type=int, default=RUNS)
  args = parser.parse_args(argv)
  times: dict[str, list[float]] = {BASE: [], OURS: []}
  for _ in range(args.runs + 1):
    for code, seconds in times.items():
      start = time.monotonic()
      subprocess.run([sys.executable, '-c', code], check=True)
      seconds.append(time.monotonic() - start)
  # The first run fills the file cache.
  base, ours = (statistics.median(s[1:]) for s in times.values())
  print(f'jax and flax {base:.2f} s, with gemma {ours:.2f} s')
  print(f'gemma {ours - base:.2f} s')


if __name__ == '__main__':
  main()
