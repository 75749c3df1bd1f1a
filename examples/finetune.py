"""Fine-tunes a model on conversations, with LoRA or in full.

Task: sentences as JSON (`extraction.py`), a kind of task that the bundled model
was not trained on, beside as many of its old instructions, so that it does not
forget them.

Command, from a checkout of the repository:

  python examples/finetune.py --out /tmp/json

Hardware: 2 CPU cores, no accelerator. Time: TIME. Metric: CLAIM

With `--data` and `--eval-data`, files with a conversation in each line, it
learns anything else: `{"messages": [{"role": "user", "content": ...},
{"role": "assistant", "content": ...}]}`. The same command goes on after any
interruption. `--smoke` takes a minute. `gemma finetune` does the same.
"""

import argparse
import itertools
import json
import pathlib

import jax
import numpy as np

import extraction
from gemma import gm
from gemma import peft

RANK, ROWS, LENGTH, SEED = 8, 32, 96, 0
NEW, OLD, TESTS = 2000, 2000, 200


def read(path: str) -> list[dict[str, object]]:
  """The conversations of a file."""
  return [json.loads(x) for x in pathlib.Path(path).read_text().splitlines()]


def made(tokenizer: gm.text.Tokenizer) -> tuple[list, list]:
  """Conversations to train on, and others to test with."""
  rng = np.random.default_rng(SEED)
  new = extraction.examples(rng, NEW, held_out=False)
  old = itertools.islice(extraction.old_skills(rng, tokenizer), OLD)
  return [*new, *old], extraction.examples(rng, TESTS, held_out=True)


def main() -> None:
  """Trains, tests and saves."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--out', required=True, help='Folder of the run.')
  parser.add_argument('--model', default=gm.ckpts.CheckpointPath.GEMMA3_TINY_IT)
  parser.add_argument('--data', help='Conversations, one in each line.')
  parser.add_argument('--eval-data', help='Others, to test with.')
  parser.add_argument('--full', action='store_true', help='Not only adapters.')
  parser.add_argument('--rate', type=float, default=1e-2)
  parser.add_argument('--steps', type=int, default=300)
  parser.add_argument('--accumulate', type=int, default=1)
  parser.add_argument('--smoke', action='store_true', help='Only try it out.')
  args = parser.parse_args()
  steps, tests = (4, 4) if args.smoke else (args.steps, None)

  model, params, tokenizer = gm.from_pretrained(args.model, text_only=True)
  data, held_out = made(tokenizer)
  if args.data:
    data, held_out = read(args.data), read(args.eval_data)
  task = gm.data.ChatTask(tokenizer=tokenizer, max_length=LENGTH)
  options = {'batch_size': ROWS, 'transforms': task}
  batches = gm.data.Batches(data, shuffle=True, seed=SEED, **options)
  tests = gm.data.Batches(held_out, epochs=1, **options)

  if not args.full:
    lora = peft.init_lora(
      params, rank=RANK, rng=jax.random.key(SEED), targets=['attn', 'mlp']
    )
    params = peft.merge_params(params, lora)
  optimizer = gm.training.adamw(args.rate, steps=steps)
  state = gm.training.init_state(
    params,
    optimizer,
    trainable=None if args.full else 'lora',
    master_dtype='float32',
  )
  loss = gm.losses.NextToken(model)
  step = gm.training.make_step(loss, optimizer, accumulate=args.accumulate)
  evaluate = gm.training.make_eval(loss)
