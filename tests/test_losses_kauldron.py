"""A Kauldron trainer takes these losses as its own. Needs Kauldron."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cases
from gemma import gm

pytestmark = pytest.mark.kauldron
pytest.importorskip('kauldron')

CASE = cases.NAMED['gemma1_mqa']
DPO = {
  'tokens': 'batch.targets',
  'sequence_mask': 'batch.mask',
  'policy_logits': 'preds.policy.logits',
  'anchor_logits': 'preds.anchor.logits',
}


@pytest.fixture(scope='module')
def kd():
  from kauldron import kd

  return kd


def context(kd, **preds):
  rng = np.random.RandomState(0)
  logits = jnp.asarray(rng.normal(0, 2, (2, 3, 2, 5, 9)), jnp.float32)
  batch = {
    'targets': jnp.asarray(rng.randint(0, 9, (3, 2, 5))),
    'mask': jnp.asarray(rng.rand(3, 2, 5) < 0.6),
  }
  both = gm.nn.AnchoredPolicyOutput(
    *(gm.nn.Output(logits=x, cache=None, hidden_states=None) for x in logits)
  )
  return kd.train.Context(step=jnp.array(7), batch=batch, preds=both)


def test_is_a_loss_of_kauldron(kd):
  """`isinstance` says so, and dashboards plot it."""
  from kauldron.utils.kdash import dashboard_utils

  losses = {'dpo': gm.losses.DpoLoss(**DPO), 'npo': gm.losses.NpoLoss(**DPO)}
  for loss in losses.values():
    assert isinstance(loss, kd.losses.Loss)
  plots = dashboard_utils.MetricDashboards(collection='train', losses=losses)
  assert 'losses/dpo' in str(plots.normalize())


def test_are_transforms_of_kauldron(kd):
  load = gm.ckpts.LoadCheckpoint('/checkpoints/mine')
  for transform in (
    load, gm.ckpts.SkipLoRA(load), gm.ckpts.AnchoredPolicyLoader(policy=load)
  ):  # fmt: skip
    assert isinstance(transform, kd.ckpts.InitTransform)


def test_state_from_context(kd):
  """A state of Kauldron, which adds up."""
  given = context(kd)
  loss = gm.losses.DpoLoss(**DPO, weight=2.0, tau=lambda step: 0.1 * step)
  state = loss.get_state_from_context(given)
  assert isinstance(state, kd.losses.Loss.State)
  expected = gm.losses.DpoLoss(**DPO, tau=0.7).get_values(
    tokens=given.batch['targets'],
    sequence_mask=given.batch['mask'],
    policy_logits=given.preds.policy.logits,
    anchor_logits=given.preds.anchor.logits,
  )
  value = 2 * expected.mean()
  np.testing.assert_allclose(state.compute(), value, rtol=1e-6)
  np.testing.assert_allclose(state.merge(state).compute(), value, rtol=1e-6)
  np.testing.assert_allclose(loss(context=given), value, rtol=1e-6)
  total, states = jax.jit(
    lambda given: kd.losses.compute_losses({'a': loss, 'b': loss}, given)
  )(given)
  np.testing.assert_allclose(total, 2 * value, rtol=1e-6)
  assert sorted(states) == ['a', 'b']


def test_paths_that_lead_nowhere(kd):
  with pytest.raises(ValueError, match='required keys'):
    gm.losses.DpoLoss().get_state_from_context(context(kd))
  with pytest.raises(KeyError, match='policy_logits'):
    paths = DPO | {'policy_logits': 'preds.nobody'}
    gm.losses.DpoLoss(**paths).get_state_from_context(context(kd))


@pytest.mark.parametrize('last', [(), (1,)])
def test_cross_entropy_is_that_of_kauldron(kd, last):
  """The same paths, weight and mask give the same number."""
  rng = np.random.RandomState(0)
  logits = jnp.asarray(rng.normal(0, 2, (3, 5, 9)), jnp.float32)
  batch = {
    'target': jnp.asarray(rng.randint(0, 9, (3, 5, 1))),
    'loss_mask': jnp.asarray(rng.rand(3, 5, 1) < 0.6),
  }
  paths = {
    'logits': 'preds.logits',
    'labels': 'batch.target',
    'mask': 'batch.loss_mask',
    'weight': 0.5,
  }
  given = kd.train.Context(step=0, batch=batch, preds={'logits': logits})
  expected = kd.losses.SoftmaxCrossEntropyWithIntLabels(**paths)(context=given)
  batch = {k: v.reshape(3, 5, *last) for k, v in batch.items()}
  given = given.replace(batch=batch)
  got = gm.losses.CrossEntropy(**paths)(context=given)
  np.testing.assert_allclose(got, expected, rtol=1e-6)


def trainer(kd, tmp_path, model, loss, batch, **fields):
  """A real one, on one batch over and over."""
  return kd.train.Trainer(
    seed=0,
    workdir=tmp_path,
    model=model,
    train_ds=kd.data.InMemoryPipeline(
      loader=lambda: batch,
      batch_size=len(next(iter(batch.values()))),
      shuffle=False,
    ),
    train_losses={'loss': loss},
    num_train_steps=3,
    log_metrics_every=1,
    optimizer=optax.adam(1e-2),
    **fields,
  )


@pytest.mark.slow
def test_trainer_with_anchor(kd, tmp_path):
  """Both models are filled, and only one is trained."""
  gm.ckpts.save_params(CASE.params, tmp_path / 'm')
  tokens = CASE.tokens(8, 7).reshape(4, 2, 7)
  batch = {
    'tokens': tokens[..., :-1],
    'targets': tokens[..., 1:],
    'mask': np.ones((4, 2, 6), bool),
  }
  run = trainer(
    kd,
    tmp_path / 'run',
    gm.nn.AnchoredPolicy(policy=CASE.model.clone(tokens='batch.tokens')),
    gm.losses.DpoLoss(**DPO),
    batch,
    init_transform=gm.ckpts.AnchoredPolicyLoader(
      policy=gm.ckpts.LoadCheckpoint(tmp_path / 'm')
    ),
  )
  state, aux = run.train()
  anchor = state.params['anchor']
  for x, y in zip(*map(jax.tree.leaves, (anchor, CASE.params)), strict=True):
    np.testing.assert_array_equal(x, y)
  start = gm.losses.WinRate(CASE.model)
  assert start(state.params['policy'], batch).value == 1
  assert aux.compute().loss_values['losses/loss'] < np.log(2)


@pytest.mark.slow
def test_trainer_without_logits(kd, tmp_path):
  """The linear loss is that of the logits, and trains."""
  tokens = CASE.tokens(4, 7)
  batch = {
    'input': tokens[:, :-1],
    'target': tokens[:, 1:, None],
    'loss_mask': np.ones((4, 6, 1), bool),
  }
  paths = {'labels': 'batch.target', 'mask': 'batch.loss_mask'}
  plain = CASE.model.clone(tokens='batch.input')
  hidden = plain.clone(return_hidden_states=True)
  dense = gm.losses.CrossEntropy(**paths, logits='preds.logits')
  linear = gm.losses.LinearCrossEntropy(**paths, softcap=None)
  found = []
  for model, loss in ((plain, dense), (hidden, linear)):
    run = trainer(kd, tmp_path / f'{len(found)}', model, loss, batch)
    _, aux = run.train()
    found.append(aux.compute().loss_values['losses/loss'])
  np.testing.assert_allclose(found[0], found[1], rtol=1e-4)
