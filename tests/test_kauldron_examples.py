"""Each published example trains, with a tiny model and rows made here.

Nothing of a config is changed but for what `examples/smoke.py` swaps, and that
the bundled model has fewer layers.
"""

import importlib
import pathlib
import sys

import numpy as np
import pytest

import scripts
import small_tiny

pytestmark = pytest.mark.kauldron
pytest.importorskip('kauldron')

ROOT = pathlib.Path(__file__).parents[1]
# Example, its rows, steps, and which share of its first loss may be left.
EXAMPLES = {
  'seq2seq': ('translations', 4, 0.8),
  'sharding': ('translations', 8, 0.8),  # One for each device.
  'lora': ('translations', 24, 0.97),  # Adapters begin at zero.
  'multimodal': ('pictures', 4, 0.8),
  'classification': ('sentences', 4, 0.9),
  'dpo': ('preferences', 4, 0.95),
  'npo': ('questions', 4, 0.8),
}


@pytest.fixture(scope='module')
def smoke():
  """The module that the examples share."""
  return scripts.load('examples/smoke.py')


@pytest.fixture(scope='module')
def small(smoke, tmp_path_factory):
  """Makes the small config of an example."""
  folder = tmp_path_factory.mktemp('weights') / 'small'
  small_tiny.save(folder)

  def make(name):
    rows, steps, _ = EXAMPLES[name]
    config = importlib.import_module(name).get_config()
    config = smoke.tiny(config, rows=rows, steps=steps)
    return small_tiny.cut(config, folder)

  return make


def check(name, values):
  _, steps, share = EXAMPLES[name]
  losses = values['train/losses/total']
  assert len(losses) == steps + 1
  assert np.all(np.isfinite(losses))
  assert losses[-1] < share * losses[0]


@pytest.mark.parametrize('name', ['lora', 'classification', 'dpo', 'npo'])
def test_example_learns(smoke, small, name, tmp_path):
  cfg = small(name)
  cfg.evals = {}
  run = smoke.train(cfg, tmp_path)
  check(name, run.values)
  if name in ('dpo', 'npo'):  # Both begin as the same model: ln 2.
    assert run.values['train/losses/total'][0] == pytest.approx(
      0.6931, abs=2e-3
    )


@pytest.mark.mesh
def test_weights_are_divided_among_devices(smoke, small, tmp_path):
  """As `sharding.py` asks, for weights of any size."""
  cfg = small('sharding')
  cfg.evals = {}
  cfg.sharding.params.min_size_to_shard_mb = 0
  run = smoke.train(cfg, tmp_path)
  check('sharding', run.values)
  table = run.params['embedder']['input_embedding']
  assert table.addressable_shards[0].data.size * 8 == table.size


def test_evaluators(smoke, small, tmp_path):
  run = smoke.train(small('seq2seq'), tmp_path)
  check('seq2seq', run.values)
  [test] = run.values['test/losses/xentropy']
  assert test < run.values['train/losses/xentropy'][0]
  [file] = (tmp_path / 'sampling').glob('*.jsonl')
  assert file.name == 'samples_00000004.jsonl'
  assert len(file.read_text().splitlines()) == 1


def test_pictures(smoke, small, tmp_path):
  cfg = small('multimodal')
  del cfg.evals['test']
  run = smoke.train(cfg, tmp_path)
  check('multimodal', run.values)
  [file] = (tmp_path / 'sampling').glob('*.jsonl')
  lines = file.read_text().splitlines()
  assert len(lines) == 3
  assert all('<start_of_image>' in line for line in lines)


@pytest.mark.filterwarnings('ignore:.*load_module')  # Of ml_collections.
def test_command_of_the_examples(tmp_path, monkeypatch):
  """The command in their headers finds a config and everything it names."""
  from kauldron import konfig
  from kauldron import main

  monkeypatch.chdir(ROOT)
  command = ['main', '--cfg=examples/seq2seq.py', f'--cfg.workdir={tmp_path}']
  monkeypatch.setattr(sys, 'argv', command)
  main._flags_parser(command)
  trainer = konfig.resolve(main._CONFIG.value)
  assert type(trainer.model).__name__ == 'Gemma3_4B'
  assert str(trainer.workdir) == str(tmp_path)
  assert trainer.num_train_steps == 10_000
