"""What saves memory or time changes no loss."""

import jax
import numpy as np
import optax
import pytest

import cases
from gemma import gm

LENGTHS = 9, 4, 11, 7
TOLERANCE = 1e-5


def rows_of(case):
  """One example in each row, padded."""
  rows = case.prompts(*(n + 1 for n in LENGTHS))
  batch = {
    'input': np.zeros((len(rows), max(LENGTHS)), np.int32),
    'target': np.zeros((len(rows), max(LENGTHS)), np.int32),
  }
  for i, row in enumerate(rows):
    batch['input'][i, : len(row) - 1] = row[:-1]
    batch['target'][i, : len(row) - 1] = row[1:]
  return batch | {'loss_mask': batch['target'] != 0}


def packed(batch):
  """Two examples in each row, side by side."""
  out = {}
  for name, x in batch.items():
    pairs = [
      np.concatenate([x[i, :m], x[i + 1, :n]])
      for i, (m, n) in ((0, LENGTHS[:2]), (2, LENGTHS[2:]))
    ]
    length = max(map(len, pairs))
    out[name] = np.stack([np.pad(x, (0, length - len(x))) for x in pairs])
  ids = [[1] * m + [2] * n for m, n in (LENGTHS[:2], LENGTHS[2:])]
  length = out['input'].shape[1]
  out['segment_ids'] = np.array([x + [0] * (length - len(x)) for x in ids])
  return out


def loss_of(case, batch, accumulate=1, **fields):
  """Of a step of training, and of the one behind it."""
  model = case.model.clone(**fields)
  params = jax.tree.map(lambda x: x.copy(), case.params)
  if model.scan_layers:
    params = gm.nn.stack_layers(params, case.config)
  optimizer = optax.sgd(0.1)
  step = gm.training.make_step(
    gm.losses.NextToken(model), optimizer, accumulate=accumulate
  )
  state = gm.training.init_state(params, optimizer)
  losses = []
  for _ in range(2):
    state, metrics = step(state, batch)
    losses.append(float(metrics['loss']))
  return losses


@pytest.fixture(scope='module')
def plain():
  """Losses of each case, computed once."""
  found = {}

  def get(case):
    if case not in found:
      found[case] = loss_of(case, rows_of(case))
    return found[case]

  return get


WAYS = {
  'dots': {'remat': 'dots'},
  'full, scanned': {'remat': 'full', 'scan_layers': True},
  'scanned': {'scan_layers': True},
  'accumulated': {'accumulate': 2},
  'packed': {},
}


# Each way on one model, each model in one way; the gradients of scanned layers
# and of those computed again are compared in `test_scan.py`.
PAIRS = {
  ('gemma2_by_head_dim', 'accumulated'),
  ('gemma2_by_head_dim', 'packed'),
  ('gemma3_gqa', 'full, scanned'),
  ('gemma3n', 'dots'),
  ('gemma3_gqa', 'scanned'),
  ('gemma4_experts', 'accumulated'),
}
NAMES = 'gemma2_by_head_dim', 'gemma3_gqa', 'gemma3n', 'gemma4_experts'
ALL = [
  pytest.param(
    name, way, marks=[] if (name, way) in PAIRS else cases.EXHAUSTIVE
  )
  for name in NAMES
  for way in WAYS
]


@pytest.mark.slow
@pytest.mark.parametrize('name, way', ALL)
def test_losses_are_those_of_the_plain_step(name, way, plain):
  case = cases.NAMED[name]
  batch = rows_of(case)
  if way == 'packed':
    batch = packed(batch)
  losses = loss_of(case, batch, **WAYS[way])
  expected = plain(case)
  assert abs(losses[0] - expected[0]) < TOLERANCE
  # Of the step behind it, the gradients are tested too.
  assert abs(losses[1] - expected[1]) < 10 * TOLERANCE
