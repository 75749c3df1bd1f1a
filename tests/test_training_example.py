"""The example of fine-tuning teaches something, in a short time."""

import csv
import json
import os
import pathlib
import subprocess
import sys

import pytest

from gemma import gm

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def run(*args):
  """What the example prints."""
  command = [sys.executable, ROOT / 'examples' / 'finetune.py', *args]
  # Programs that run fast rather than compile fast, as those of other tests.
  env = os.environ | {'XLA_FLAGS': ''}
  out = subprocess.run(
    command, capture_output=True, text=True, check=False, env=env
  )
  assert out.returncode == 0, out.stdout + out.stderr
  return out.stdout


def test_a_new_skill_in_a_few_steps(tiny, tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(ROOT / 'examples')
  import extraction

  train, test = extraction.write(tmp_path / 'data', tiny.tokenizer)
  test.write_text('\n'.join(test.read_text().splitlines()[:24]))
  out = run(
    '--out', tmp_path, '--steps', '40', '--data', train, '--eval-data', test
  )  # fmt: skip
  with (tmp_path / 'metrics.csv').open() as file:
    losses = [float(row['loss']) for row in csv.DictReader(file)]
  assert len(losses) == 40
  assert losses[-1] < 0.1 * losses[0]
  right, of, count, *_ = out.split()
  assert of == 'of' and int(right) > 0.1 * int(count)
  lora = gm.ckpts.load_adapter(tmp_path / 'adapter', model=gm.nn.Gemma3_Tiny())
  assert 'layer_5' in lora and 'vision_encoder' not in lora


def test_in_full_with_data_of_ones_own(tmp_path):
  file = tmp_path / 'data.jsonl'
  line = json.dumps({'prompt': 'Which?', 'completion': 'blue'})
  file.write_text(f'{line}\n' * 200)
  out = run(
    '--out', tmp_path / 'run', '--full', '--smoke', '--data', file,
    '--eval-data', file, '--accumulate', '2', '--rate', '1e-3',
  )  # fmt: skip
  assert ' of 4 answers exactly right' in out
  model, _, tokenizer = gm.from_pretrained(tmp_path / 'run' / 'model')
  assert model.config == gm.nn.Gemma3_Tiny().config
  assert tokenizer.encode('<end_of_turn>') == [106]
