"""The loop: where it goes on, what it writes, what it refuses."""

import csv
import io
import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gemma import gm
from gemma.gm.training import _progress

HERE = pathlib.Path(__file__).parent
OPTIMIZER = optax.sgd(0.1)


def loss(params, batch, rng):
  noise = jax.random.normal(rng, batch.shape)
  errors = (params['w'] + params['fixed'] - batch - noise) ** 2
  return gm.losses.Mean(errors.sum(), jnp.float32(errors.size))


STEP = gm.training.make_step(loss, OPTIMIZER)


def new_state(fixed=0.0):
  params = {'w': jnp.zeros(4), 'fixed': jnp.full(4, fixed)}
  return gm.training.init_state(params, OPTIMIZER, trainable='w')


class Numbers:
  """Batch n is full of n; as `gm.data.Batches`, it can go on anywhere."""

  def __init__(self, count=100):
    """As many as that."""
    self.position = {'next': 0}
    self._count = count

  def seek(self, position):
    self.position = position

  def __iter__(self):
    while (n := self.position['next']) < self._count:
      self.position = {'next': n + 1}
      yield np.full(4, n, np.float32)


def make_run(folder, batches=None, **options):
  options = {'steps': 6, 'save_every': 2, 'progress': False} | options
  return gm.training.Run(folder, new_state(), batches or Numbers(), **options)


class Interrupted(Exception):
  """As by Ctrl-C."""


def train(run, stop_at=None):
  with run:
    for batch in run:
      run.state, metrics = STEP(run.state, batch)
      run.log(metrics)
      if run.step == stop_at:
        raise Interrupted
  return run


def table(folder):
  with (folder / 'metrics.csv').open() as file:
    return [*csv.DictReader(file)]


def losses(folder):
  return [row['loss'] for row in table(folder)]


def test_a_loop_leaves_all_that_one_wants(tmp_path):
  run = train(make_run(tmp_path / 'a'))
  assert {path.name for path in (tmp_path / 'a').iterdir()} == {
    'checkpoints', 'curves.svg', 'metrics.csv', 'run.json',
  }  # fmt: skip
  assert run.step == 6 == int(run.state.step)
  rows = table(tmp_path / 'a')
  assert [*rows[0]] == [
    *('step', 'seconds', 'loss', 'grad_norm', 'update_norm', 'tokens')
  ]
  assert [row['step'] for row in rows] == [*'123456']
  assert [np.float32(row['loss']) for row in rows] == [
    np.float32(row['loss']) for row in run.rows
  ]
  seconds = [float(row['seconds']) for row in rows]
  assert seconds == sorted(seconds)
  ckpts = gm.ckpts.RunCheckpoints(tmp_path / 'a' / 'checkpoints')
  assert ckpts.steps == (4, 6)


@pytest.mark.parametrize('stop_at', [1, 2, 3, 5, 6])
@pytest.mark.parametrize('batches', [Numbers, lambda: [*Numbers()]])
def test_goes_on_where_it_was_interrupted(stop_at, batches, tmp_path):
  """Batches that know where they are, and a list that does not."""
  train(make_run(tmp_path / 'a', batches()))
  with pytest.raises(Interrupted):
    train(make_run(tmp_path / 'b', batches()), stop_at)
  run = train(make_run(tmp_path / 'b', batches()))
  assert losses(tmp_path / 'a') == losses(tmp_path / 'b')
  assert [row['step'] for row in table(tmp_path / 'b')] == [*'123456']
  assert run.step == 6


def test_a_run_that_is_done_is_left_alone(tmp_path):
  train(make_run(tmp_path))
  before = losses(tmp_path)
  run = make_run(tmp_path)
  with run:
    assert [*run] == []
  assert losses(tmp_path) == before
  assert int(run.state.step) == 6
  longer = train(make_run(tmp_path, steps=8))
  assert losses(tmp_path)[:6] == before and longer.step == 8


def test_rows_that_come_again_are_taken_out(tmp_path):
  """Those after the checkpoint, and one that was cut short."""
  with pytest.raises(Interrupted):
    train(make_run(tmp_path, steps=9), stop_at=5)
  file = tmp_path / 'metrics.csv'
  with file.open('a') as out:
    out.write('5,0.1,1.5,1,4\n6,0.2,1')
  run = make_run(tmp_path)
  with run:
    assert run.step == 4 == len(run.rows)
    assert [row['step'] for row in table(tmp_path)] == [*'1234']


def test_more_may_be_logged_now_and_then(tmp_path):
  with make_run(tmp_path) as run:
    for batch in run:
      run.state, metrics = STEP(run.state, batch)
      run.log(metrics)
      if run.step % 3 == 0:
        run.log({'held_out_loss': run.step / 8})
  rows = table(tmp_path)
  assert [row['held_out_loss'] for row in rows] == [
    '',
    '',
    '0.375',
    '',
    '',
    '0.75',
  ]
  assert float(rows[1]['loss']) == pytest.approx(run.rows[1]['loss'])
  again = make_run(tmp_path)
  with again:
    assert 'held_out_loss' not in again.rows[1]
    assert again.rows[2]['held_out_loss'] == 0.375


def test_breaking_off_saves_what_is_done(tmp_path):
  with make_run(tmp_path) as run:
    for batch in run:
      run.state, metrics = STEP(run.state, batch)
      run.log(metrics)
      if run.step == 3:
        break
  assert len(table(tmp_path)) == 3
  train(make_run(tmp_path))
  train(make_run(tmp_path / 'whole'))
  assert losses(tmp_path) == losses(tmp_path / 'whole')


def test_breaking_off_before_a_step_saves_no_half(tmp_path):
  with make_run(tmp_path) as run:
    for batch in run:
      if run.step == 4:
        break
      run.state, metrics = STEP(run.state, batch)
      run.log(metrics)
  train(make_run(tmp_path))
  train(make_run(tmp_path / 'whole'))
  assert losses(tmp_path) == losses(tmp_path / 'whole')


def test_until_there_are_no_batches(tmp_path):
  run = train(make_run(tmp_path, Numbers(5), steps=None))
  assert run.step == 5 == len(table(tmp_path))
  checkpoints = gm.ckpts.RunCheckpoints(tmp_path / 'checkpoints')
  assert checkpoints.steps == (4, 5)
  with pytest.raises(ValueError, match='ended after 5 of 6 steps. Let it'):
    train(make_run(tmp_path / 'b', Numbers(5)))


def test_another_run_is_refused(tmp_path):
  config = {'rate': 0.1, 'files': ('a', 'b'), 'old': 1}
  train(make_run(tmp_path, config=config))
  train(make_run(tmp_path, config=config, steps=8))
  other = {'rate': 0.2, 'files': ['a', 'b'], 'new': None}
  before = (tmp_path / 'metrics.csv').read_text()
  with pytest.raises(ValueError, match='has another run') as error:
    train(make_run(tmp_path, config=other))
  for line in (
    'rate: 0.1 there, 0.2 here',
    'old: 1 there, nothing here',
    'new: nothing there, null here',
  ):
    assert line in str(error.value)
  assert 'files' not in str(error.value)
  run = make_run(tmp_path, config=config)
  run.state = new_state(fixed=1.0)
  with pytest.raises(ValueError, match='the parameters that are frozen'):
    train(run)
  assert (tmp_path / 'metrics.csv').read_text() == before


def test_another_state_is_refused(tmp_path):
  train(make_run(tmp_path))
  run = make_run(tmp_path)
  params = {'w': jnp.zeros(5), 'fixed': jnp.zeros(4)}
  run.state = gm.training.init_state(params, OPTIMIZER, trainable='w')
  with pytest.raises(ValueError, match=r'float32\[4\] in the checkpoint'):
    train(run)


def test_a_folder_has_one_run(tmp_path):
  in_use = pytest.raises(RuntimeError, match='in use by process')
  with make_run(tmp_path), in_use:
    train(make_run(tmp_path))
  train(make_run(tmp_path))


def test_a_folder_that_one_cannot_go_on_in_is_left(tmp_path):
  class Lost(Numbers):
    def seek(self, position):
      raise ValueError('no such place')

  train(make_run(tmp_path))
  run = make_run(tmp_path, Lost(), steps=8)
  with pytest.raises(ValueError, match='no such place'):
    train(run)
  train(make_run(tmp_path, steps=8))


def test_a_state_that_is_not_assigned_is_noticed(tmp_path):
  not_done = pytest.raises(ValueError, match='done 0 steps, and the loop 2.')
  with not_done, make_run(tmp_path) as run:
    for _ in run:
      run.log({'loss': 1.0})


def test_what_is_wrong_with_a_loss_is_raised_before_it_is_saved(tmp_path):
  batches = [np.zeros(4, np.float32)] * 3 + [np.full(4, np.nan, np.float32)]
  with pytest.raises(ValueError, match='Step 4: loss=nan'):
    train(make_run(tmp_path, batches, steps=4))
  assert gm.ckpts.RunCheckpoints(tmp_path / 'checkpoints').steps == (2,)
  assert len(table(tmp_path)) == 3


@pytest.mark.parametrize(
  'metrics, message',
  [
    ({'x': np.ones(3)}, r'x has shape \(3,\). Log single numbers'),
    ({'step': 3}, 'step is what a row says itself'),
  ],
)
def test_what_is_no_row(metrics, message, tmp_path):
  with make_run(tmp_path) as run, pytest.raises(ValueError, match=message):
    run.log(metrics)


def test_it_is_used_with_with(tmp_path):
  with pytest.raises(ValueError, match='Use it as `with'):
    next(iter(make_run(tmp_path)))


def test_lines_of_a_log(tmp_path, capsys):
  train(make_run(tmp_path, progress=True))
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 6
  assert lines[0].startswith('step 1/6  loss ') and lines[0].endswith(' GiB')
  assert ' tokens/s ' in lines[-1]


def test_bar_of_a_terminal(tmp_path, monkeypatch):
  monkeypatch.setenv('FORCE_COLOR', '1')
  monkeypatch.setenv('COLUMNS', '100')
  out = io.StringIO()
  monkeypatch.setattr('sys.stderr', out)
  train(make_run(tmp_path, progress=True))
  text = out.getvalue()
  assert '6/6' in text and 'loss ' in text and 'GiB' in text


def test_memory_is_that_of_this_process():
  status = pathlib.Path('/proc/self/status')
  if not status.exists():
    pytest.skip('not on Linux')
  (kilobytes,) = re.findall(r'VmRSS:\s+(\d+) kB', status.read_text())
  expected = 1024 * int(kilobytes)
  assert _progress.memory_in_use() == pytest.approx(expected, rel=0.05)


def rows_of(count):
  rng = np.random.default_rng(0)
  rows = []
  for n in range(1, count + 1):
    row = {'step': n, 'seconds': n, 'loss': 4 * n**-0.3 + rng.normal(0, 0.1)}
    row |= {'grad_norm': rng.uniform(0.5, 2), 'learning_rate': 1e-4 * n / count}
    row |= {'accuracy': n / count} if n % (count // 5) == 0 else {}
    row |= {'held_out_loss': 4 * n**-0.3} if n % (count // 5) == 0 else {}
    rows.append(row)
  return rows


@pytest.mark.parametrize('count', [5, 40, 5000])
def test_curves(count):
  svg = gm.training.draw_curves(rows_of(count))
  root = ET.fromstring(svg)
  texts = {x.text for x in root.iter('{http://www.w3.org/2000/svg}text')}
  assert {'loss', 'held out loss', 'accuracy', 'learning rate'} <= texts
  lines = [*root.iter('{http://www.w3.org/2000/svg}polyline')]
  for line in lines:
    points = [[*map(float, p.split(','))] for p in line.get('points').split()]
    assert len(points) <= 300
    xs, ys = np.transpose(points)
    assert (xs >= 0).all() and (xs <= 400).all() and (ys <= 230).all()
    assert (ys >= 0).all()
  assert svg._repr_svg_() == svg


@pytest.mark.parametrize(
  'rows',
  [
    [],
    [{'step': 1, 'loss': 2.0}],
    [{'step': n, 'loss': 0.0} for n in range(9)],
    [{'step': n, 'loss': -3.0} for n in range(9)],
    [{'step': n, 'loss': float('nan'), 'x': 1e-9 * n} for n in range(9)],
    [{'step': n, 'x': 1e9 * n} for n in range(9)],
  ],
  ids=str,
)
def test_curves_of_little(rows):
  ET.fromstring(gm.training.draw_curves(rows))


@pytest.mark.slow
@pytest.mark.parametrize(
  'deaths', ['few', pytest.param('all', marks=pytest.mark.exhaustive)]
)
def test_a_run_may_be_killed_at_any_step(deaths, tmp_path):
  """The losses and the state are those of a run without deaths, bit by bit."""
  command = [sys.executable, HERE / 'run_training.py', tmp_path, deaths]
  out = subprocess.run(command, capture_output=True, text=True, check=False)
  assert out.returncode == 0, out.stdout + out.stderr
