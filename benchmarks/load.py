"""Time and memory of loading a Hugging Face folder of 1 GB.

Command: `python benchmarks/load.py`, or with `--transformers-python`.
Hardware: a CPU, Linux, with the files in its cache. Metrics: seconds of the
first load of a process, after its imports; and by how much the memory of the
process grows at most, as a multiple of the folder's bytes. Medians over rounds.

The folder has the shapes of eight layers of Gemma 3 1B and random weights in
bfloat16, in four files. `transformers` maps files: without a look at every page
nothing is read, and the first forward pass does it.

On 2 cores of a virtual machine. There, memory that a process has not had before
is slow to come by, and a quarter of a second of it is in every row but those of
`transformers`. The peaks are exact.

| side | seconds | GB/s | peak / folder |
|---|---|---|---|
| ours | 0.63 | 1.6 | 1.02 |
| transformers | 0.09 | 11.0 | 0.02 |
| transformers, every page read | 0.10 | 10.7 | 1.01 |
| ours, int8 | 2.21 | 0.5 | 0.58 |
| ours, int4 | 1.39 | 0.7 | 0.74 |
| ours, float32 | 3.50 | 0.3 | 2.02 |
"""

from collections.abc import Sequence
import dataclasses
import json
import pathlib
import statistics
import tempfile
import time
from typing import Any

import peers

LAYERS = 8
SHARD_BYTES = 300 * 10**6
SIDES: dict[str, tuple[str, dict[str, Any]]] = {
  'ours': ('ours', {}),
  'transformers': ('transformers', {}),
  'transformers, every page read': ('transformers', {'touch': True}),
  'ours, int8': ('ours', {'quantize': 'int8'}),
  'ours, int4': ('ours', {'quantize': 'int4'}),
  'ours, float32': ('ours', {'dtype': 'float32'}),
}


def main(argv: Sequence[str] | None = None) -> None:
  """Prints a table in Markdown."""
  parser = peers.arguments(__doc__)
  args = parser.parse_args(argv)
  if args.side:
    side, row = args.side[0], json.loads(args.side[1])
    print(json.dumps(LOAD[side](**row)))
    return
  found = peers.pythons(args)
  found.pop('published', None)  # It reads no such folder.
  with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch, 'model')
    save(folder, args.smoke)
    size = sum(file.stat().st_size for file in folder.glob('*.safetensors'))
    sides = {
      label: (side, options)
      for label, (side, options) in SIDES.items()
      if side in found
    }
    results: dict[str, list] = {label: [] for label in sides}
    for _ in range(args.rounds):
      for label, (side, options) in sides.items():
        row = {'folder': str(folder), **options}
        results[label].append(
          LOAD[side](**row)
          if args.smoke
          else peers.run_once(__file__, side, found[side], json.dumps(row))
        )
  print(f'\n{size / 2**20:,.0f} MiB.\n')
  print('| side | seconds | GB/s | peak / folder |\n' + '|---' * 4 + '|')
  for label, rounds in results.items():
    seconds = statistics.median(r['seconds'] for r in rounds)
    peak = statistics.median(r['peak'] for r in rounds) / size
    speed = size / seconds / 1e9
    print(f'| {label} | {seconds:.2f} | {speed:.1f} | {peak:.2f} |')


def save(folder: pathlib.Path, smoke: bool) -> None:
  """Writes the model."""
  from gemma import gm

  if smoke:
    tiny = gm.from_pretrained(gm.ckpts.CheckpointPath.GEMMA3_TINY_IT)
    gm.ckpts.save_hf(folder, model=tiny.model, params=tiny.params)
    return
  config = gm.nn.Gemma3_1B().config
  kinds = config.attention_types[:LAYERS]
  config = dataclasses.replace(config, attention_types=kinds)
  model = gm.nn.Transformer(config=config)
  gm.ckpts.save_hf(
    folder,
    model=model,
    params=peers.flax_params(model, 'bfloat16'),
    max_shard_bytes=SHARD_BYTES,
  )


def report(before: int, start: float) -> dict[str, float]:
  """The measurement, when all is loaded."""
  seconds = time.perf_counter() - start
  return {'seconds': seconds, 'peak': peers.peak() - before}


def ours(folder: str, **options: Any) -> dict[str, float]:
  """The parameters, ready on the device."""
  import jax

  from gemma import gm

  gm.ckpts.load_params(gm.ckpts.CheckpointPath.GEMMA3_TINY_IT)  # Imports.
  before, begin = peers.restart_peak(), time.perf_counter()
  params = gm.ckpts.load_params(folder, **options)
  jax.block_until_ready(params)
  return report(before, begin)


def with_transformers(folder: str, touch: bool = False) -> dict[str, float]:
  """The model as `from_pretrained` leaves it, or with its pages in memory."""
  import transformers
  from transformers.models.gemma3 import modeling_gemma3

  del modeling_gemma3  # Only to import it.
  before, begin = peers.restart_peak(), time.perf_counter()
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype='auto'
  )
  for param in model.parameters() if touch else ():
    param.detach().reshape(-1)[::2048].float().sum()
  return report(before, begin)


LOAD = {'ours': ours, 'transformers': with_transformers}


if __name__ == '__main__':
  main()
