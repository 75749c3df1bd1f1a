"""From the start of a process to the first token that a reader sees.

Command: `python benchmarks/cold_start.py`, or with `--transformers-python`.
Hardware: a CPU, Linux, with the files in its cache. Metric: median over rounds
of the seconds from the start of the process, at 64 tokens of prompt.

The model has the shapes of Gemma 3 270M and random weights in bfloat16, in a
Hugging Face folder that `gm.ckpts.save_hf` writes first. `cold` compiles
everything; `warm` finds it in JAX's compilation cache.

On 2 cores of a virtual machine, JAX 0.10.2, torch 2.13:

| side | import | load | first token | peak MiB |
|---|---|---|---|---|
| ours, cold | 0.74 | 1.76 | 6.27 | 981 |
| ours, warm | 0.73 | 1.22 | 3.32 | 963 |
| transformers | 1.69 | 3.51 | 3.63 | 912 |
"""

from collections.abc import Sequence
import functools
import json
import os
import pathlib
import statistics
import tempfile

import peers

STAGES = ('import', 'load', 'first token', 'peak MiB')


def main(argv: Sequence[str] | None = None) -> None:
  """Prints a table in Markdown."""
  parser = peers.arguments(__doc__)
  args = parser.parse_args(argv)
  if args.side:
    START[args.side[0]](args.side[1])
    return
  found = peers.pythons(args)
  found.pop('published', None)  # It reads no such folder.
  with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch, 'model')
    save(folder, args.smoke)
    warm = {'JAX_COMPILATION_CACHE_DIR': str(pathlib.Path(scratch, 'cache'))}
    warm['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
    starts = [('ours, cold', 'ours', {}), ('ours, warm', 'ours', warm)]
    starts += [(s, s, {}) for s in found if s != 'ours']
    if args.smoke:  # Cold is the first of them, which fills the cache.
      del starts[0]
    once = functools.partial(peers.run_once, __file__)
    once('ours', found['ours'], str(folder), **warm)  # Fills the cache.
    results: dict[str, list] = {label: [] for label, *_ in starts}
    for _ in range(args.rounds):
      for label, side, env in starts:
        results[label].append(once(side, found[side], str(folder), **env))
  print(f'\n| side | {" | ".join(STAGES)} |\n' + '|---' * 5 + '|')
  for label, rounds in results.items():
    cells = [statistics.median(r[stage] for r in rounds) for stage in STAGES]
    print(f'| {label} | ' + ' | '.join(f'{cell:,.2f}' for cell in cells) + ' |')


def save(folder: pathlib.Path, smoke: bool) -> None:
  """Writes the model, with the tokenizer of the bundled one."""
  from gemma import gm

  tiny = gm.from_pretrained(gm.ckpts.CheckpointPath.GEMMA3_TINY_IT)
  model, params = tiny.model, tiny.params
  if not smoke:
    model = gm.nn.Gemma3_270M()
    params = peers.flax_params(model, 'bfloat16')
  gm.ckpts.save_hf(folder, model=model, params=params, tokenizer=tiny.tokenizer)


def since_start() -> float:
  """Seconds since this process was started (Linux)."""
  stat = pathlib.Path('/proc/self/stat').read_text()
  ticks = int(stat.rsplit(')', 1)[1].split()[19])
  up = float(pathlib.Path('/proc/uptime').read_text().split()[0])
  return up - ticks / os.sysconf('SC_CLK_TCK')


def report(imported: float, loaded: float) -> None:
  """Called at the first token."""
  stages = (imported, loaded, since_start(), peers.peak() / 2**20)
  print(json.dumps(dict(zip(STAGES, stages, strict=True))), flush=True)


def ours(folder: str) -> None:
  """Streams one token."""
  from gemma import gm

  _ = gm.text.Sampler, gm.from_pretrained
  imported = since_start()
  opened = gm.from_pretrained(folder)
  loaded = since_start()
  sampler = gm.text.Sampler(
    model=opened.model, params=opened.params, tokenizer=opened.tokenizer
  )
  ids = peers.prompt(1, 64, 2000)[0].tolist()
  for _ in sampler.sample(ids, max_new_tokens=32, stream=True, rng=0):
    report(imported, loaded)
    break


def with_transformers(folder: str) -> None:
  """Forward passes until there is one token."""
  import torch
  from transformers import AutoModelForCausalLM

  imported = since_start()
  model = AutoModelForCausalLM.from_pretrained(folder, dtype='auto')
  loaded = since_start()
  ids = torch.from_numpy(peers.prompt(1, 64, 2000)).long()
  with torch.inference_mode():
    model.generate(ids, max_new_tokens=1, do_sample=False)
  report(imported, loaded)


START = {'ours': ours, 'transformers': with_transformers}


if __name__ == '__main__':
  main()
