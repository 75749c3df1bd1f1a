"""`gemma finetune`, and what `gemma chat` makes of it."""

import csv
import io
import json
import shutil

import jax
import numpy as np
import pytest

from gemma import gm
from gemma.cli import main

ANSWER = 'blue'
SMALL = '--steps', '12', '--batch-size', '4', '--length', '24', '--seed', '3'


def run(capsys, *args):
  status = main([str(arg) for arg in args])
  out = capsys.readouterr()
  return status, out.out, out.err


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  """Questions to each of which the answer is the same."""
  file = tmp_path_factory.mktemp('data') / 'train.jsonl'
  questions = ['Which one?', 'And now?', 'Who?', 'What is it?', 'Why?', 'How?']
  lines = [
    json.dumps({'prompt': question, 'completion': ANSWER})
    for question in questions
  ]
  file.write_text('\n'.join(lines) + '\n\n')
  return file


def chat(capsys, monkeypatch, *args):
  monkeypatch.setattr('sys.stdin', io.StringIO('And now?\n'))
  status, out, err = run(capsys, 'chat', *args, '--max-new-tokens', 8)
  assert status == 0, err
  return out.removeprefix('> And now?\n').strip()


@pytest.mark.slow
def test_an_adapter_that_chats(capsys, monkeypatch, data, tmp_path):
  out = tmp_path / 'run'
  status, text, err = run(
    capsys, 'finetune', 'Gemma3_Tiny', data, '--out', out, *SMALL,
    '--learning-rate', 0.02, '--rank', 4, '--eval-data', data,
    '--save-every', 5, '--pack',
  )  # fmt: skip
  assert status == 0, err
  assert 'step 12/12  loss 0.' in err
  answers, path = text.splitlines()
  assert path == str(out / 'adapter')
  assert answers.endswith(', 6 of 6 answers exactly right')
  with (out / 'metrics.csv').open() as file:
    rows = [*csv.DictReader(file)]
  told = [row['step'] for row in rows if row['held_out_loss']]
  assert told == ['5', '10', '12']
  assert answers.startswith(
    f'held-out loss {float(rows[-1]["held_out_loss"]):.4f}'
  )
  assert (out / 'curves.svg').exists()
  lora = gm.ckpts.load_adapter(path, model=gm.nn.Gemma3_Tiny())
  b = lora['layer_0']['attn']['q_einsum']['_LoRAEinsum_0']['lora']['b']
  assert b.shape[0] == 4
  assert chat(capsys, monkeypatch, '--adapter', path) == ANSWER


@pytest.mark.slow
def test_a_model_that_chats(capsys, monkeypatch, data, tiny, tmp_path):
  out = tmp_path / 'run'
  status, text, err = run(
    capsys, 'finetune', tiny.path, data, '--out', out, *SMALL, '--full',
    '--learning-rate', 0.003, '--accumulate', 2, '--remat', 'full',
  )  # fmt: skip
  assert status == 0, err
  assert text == f'{out / "model"}\n'
  assert chat(capsys, monkeypatch, out / 'model') == ANSWER
  _, params, _ = gm.from_pretrained(out / 'model')
  same = jax.tree.map(np.array_equal, params, tiny.params)
  assert all(jax.tree.leaves(same['vision_encoder']))
  assert not same['embedder']['input_embedding']
  assert params['layer_0']['mlp']['linear'].dtype == 'bfloat16'


@pytest.mark.slow
def test_the_same_command_goes_on(capsys, data, tmp_path):
  """After it was done, without its last checkpoints and its result."""
  out = tmp_path / 'run'
  command = (
    'finetune', 'Gemma3_Tiny', data, '--out', out, '--steps', 4,
    '--batch-size', 2, '--length', 24, '--save-every', 2, '--quantize', 'int8',
  )  # fmt: skip
  assert run(capsys, *command)[0] == 0
  expected = (out / 'adapter' / 'adapter_model.safetensors').read_bytes()
  status, _, err = run(capsys, *command)
  assert status == 2 and 'adapter exists: that run is done' in err
  shutil.rmtree(out / 'adapter')
  shutil.rmtree(out / 'checkpoints' / 'step_00000004')
  status, _, err = run(capsys, *command)
  assert status == 0 and 'step 3/4' in err and 'step 2/4' not in err
  again = (out / 'adapter' / 'adapter_model.safetensors').read_bytes()
  assert again == expected
  shutil.rmtree(out / 'adapter')
  status, _, err = run(capsys, *command, '--rank', 3)
  assert status == 2 and 'rank: 8 there, 3 here' in err


@pytest.mark.parametrize(
  'lines, args, message',
  [
    ('', (), 'has 0 examples'),
    ('{"messages": []\n', (), 'data.jsonl:1 is no JSON'),
    ('{"text": "a"}\n', (), 'finds no conversation'),
    ('{"prompt": "a", "completion": "b"}\n', ('--length', 4), 'Raise max_'),
    ('{"prompt": "a", "completion": "b"}\n', ('--steps', 0), 'steps=0'),
    (None, (), 'No such file'),
  ],
)
def test_errors_are_one_line(lines, args, message, capsys, tmp_path):
  file = tmp_path / 'data.jsonl'
  if lines is not None:
    file.write_text(lines)
  status, _, err = run(
    capsys, 'finetune', 'Gemma3_Tiny', file, '--out', tmp_path / 'out', *args
  )
  assert status == 2
  assert err.startswith('gemma: ') and message in err
