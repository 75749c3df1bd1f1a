"""Each published example trains, with the bundled model and rows made here.

Nothing of a config is changed but for what `examples/smoke.py` swaps.
"""

import importlib
import importlib.util
import json
import pathlib
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = pytest.mark.kauldron
pytest.importorskip('kauldron')

STEPS = 4
# Example, its rows, and the highest share of its first loss that is left.
EXAMPLES = {
  'seq2seq': ('translations', 0.8),
  'sharding': ('translations', 0.8),
  'lora': ('translations', 0.99),
  'multimodal': ('pictures', 0.9),
  'classification': ('sentences', 0.9),
  'dpo': ('preferences', 0.95),
  'npo': ('questions', 0.8),
}
WITH_EVALS = ('seq2seq', 'multimodal')


@pytest.fixture(scope='module')
def smoke():
  """The module that the examples share."""
  sys.path.insert(0, str(ROOT / 'examples'))
  yield importlib.import_module('smoke')
  sys.path.remove(str(ROOT / 'examples'))


@pytest.mark.parametrize('name', EXAMPLES)
def test_example_learns(smoke, name, tmp_path):
  rows, share = EXAMPLES[name]
  config = importlib.import_module(name).get_config()
  cfg = smoke.tiny(config, rows=rows, steps=STEPS)
  if name not in WITH_EVALS:
    cfg.evals = {}
  smoke.train(cfg, tmp_path)
  losses = smoke.logged(tmp_path)['losses/total']
  assert len(losses) == STEPS + 1
  assert np.all(np.isfinite(losses))
  assert losses[-1] < share * losses[0]
