"""What evaluators are made of, without Kauldron."""

import json
import subprocess
import sys
import types

import numpy as np
import pytest

from gemma import gm
from gemma.gm.evals import _prompts
from gemma.gm.evals import _texts

TASK = {
  'in_prompt': 'q',
  'in_response': 'a',
  'out_input': 'prompt',
  'out_target': 'answer',
  'out_target_mask': 'mask',
  'tokenizer': gm.text.Gemma3TinyTokenizer(),
  'max_length': None,
}


def pipeline(*transforms, **fields):
  """As the evaluator sees those of Kauldron."""
  return types.SimpleNamespace(transforms=transforms, **fields)


def test_kauldron_is_asked_for():
  code = """
import sys
sys.modules['kauldron'] = None
from gemma import gm
gm.evals
gm.evals.SamplerEvaluator
"""
  command = [sys.executable, '-c', code]
  out = subprocess.run(command, capture_output=True, text=True, check=False)
  assert "pip install 'gemma[train]'" in out.stderr.splitlines()[-1]
  assert 'ImportError' in out.stderr


@pytest.mark.parametrize(
  'value, expected',
  [
    ('a', 'a'),
    (b'a', 'a'),
    (np.array('a'), 'a'),
    (np.array(b'a', object), 'a'),
    (['a', b'b'], ['a', 'b']),
    (np.array(['a', 'bc']), ['a', 'bc']),
    (np.array([['a'], ['b']], object), ['a', 'b']),
  ],
)
def test_texts_of_any_pipeline(value, expected):
  assert _texts.read(value) == expected


def test_what_is_no_text():
  with pytest.raises(ValueError, match='7 is not a text.*sampling=True'):
    _texts.read(np.array([7]))


def test_samples_are_lines_of_json(tmp_path):
  path = tmp_path / 'new' / 'samples.jsonl'
  batches = [
    {'prompt': 'eins', 'answer': 'zwölf\n'},
    {'prompt': ['a', 'b'], 'answer': ['1', '2']},
  ]
  for _ in range(2):  # The second takes the place of the first.
    _texts.save(path, batches)
  lines = path.read_text().splitlines()
  assert [json.loads(line)['answer'] for line in lines] == ['zwölf\n', '1', '2']


def test_where_prompts_are():
  task = gm.data.Seq2SeqTask(**TASK, sampling=True)
  found = _prompts.find(pipeline(task))
  assert (found.prompt, found.target) == ('batch.prompt', 'batch.answer')
  assert found.tokenizer is task.tokenizer
  named = types.SimpleNamespace(transforms={'task': task})
  assert _prompts.find(named) == found
  assert _prompts.find(pipeline(datasets=[named, pipeline(task)])) == found


def test_where_no_prompts_are():
  task = gm.data.Seq2SeqTask(**TASK, sampling=True)
  other = gm.data.Seq2SeqTask(**TASK | {'out_input': 'text'}, sampling=True)
  with pytest.raises(ValueError, match='0 places of prompts'):
    _prompts.find(pipeline())
  with pytest.raises(ValueError, match='2 places of prompts.*batch.text'):
    _prompts.find(pipeline(datasets=[pipeline(task), pipeline(other)]))
  with pytest.raises(ValueError, match='set sampling=True'):
    _prompts.find(pipeline(gm.data.Seq2SeqTask(**TASK)))
