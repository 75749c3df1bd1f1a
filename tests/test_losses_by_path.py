"""Losses that find their inputs by paths, with and without Kauldron."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cases
from gemma import gm

RNG = np.random.RandomState(0)
CLOSE = {'rtol': 1e-5, 'atol': 1e-5}
PATHS = {
  'tokens': 'batch.targets',
  'sequence_mask': 'batch.mask',
  'policy_logits': 'preds.policy.logits',
  'anchor_logits': 'preds.anchor.logits',
}


def inputs(*batch, length=6, vocab=9):
  """Targets, their mask, and logits of two models."""
  shape = *batch, length
  logits = jnp.asarray(RNG.normal(0, 2, (2, *shape, vocab)), jnp.float32)
  return {
    'tokens': RNG.randint(0, vocab, shape),
    'sequence_mask': RNG.rand(*shape) < 0.6,
    'policy_logits': logits[0],
    'anchor_logits': logits[1],
  }


def sums(given, name):
  """Log-probabilities of sequences in float64."""
  logits = np.asarray(given[name], np.float64)
  logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  each = np.take_along_axis(logprobs, given['tokens'][..., None], -1)[..., 0]
  return (each * given['sequence_mask']).sum(-1)


def trailing(given):
  """Targets and mask with a last axis."""
  more = ('tokens', 'sequence_mask')
  return given | {name: given[name][..., None] for name in more}


def of_pairs(loss, given):
  """What a loss of pairs has to be."""
  delta = sums(given, 'policy_logits') - sums(given, 'anchor_logits')
  gap = delta[..., 0] - delta[..., 1]
  if isinstance(loss, gm.losses.IpoLoss):
    return (gap - 1 / (2 * loss.tau)) ** 2
  e = loss.label_smoothing
  right = 1 / (1 + np.exp(-loss.tau * gap))
  return -(1 - e) * np.log(right) - e * np.log(1 - right)


@pytest.mark.parametrize(
  'loss',
  [
    gm.losses.DpoLoss(**PATHS),
    gm.losses.DpoLoss(**PATHS, tau=0.5, label_smoothing=0.2),
    gm.losses.IpoLoss(**PATHS, tau=0.3),
  ],
)
@pytest.mark.parametrize('batch', [(), (4,), (2, 3)])
def test_pairs(loss, batch):
  given = inputs(*batch, 2)
  got = loss.get_values(**given)
  assert got.shape == (*batch, 1) and got.dtype == jnp.float32
  np.testing.assert_allclose(got[..., 0], of_pairs(loss, given), **CLOSE)
  np.testing.assert_array_equal(got, loss.get_values(**trailing(given)))
  np.testing.assert_allclose(loss(**given), got.mean(), rtol=1e-6)


def test_npo():
  given = inputs(4)
  delta = sums(given, 'policy_logits') - sums(given, 'anchor_logits')
  loss = gm.losses.NpoLoss(**PATHS, tau=0.4)
  got = loss.get_values(**given)
  assert got.shape == (4, 1)
  np.testing.assert_allclose(
    got[:, 0], np.log(1 + np.exp(0.4 * delta)), **CLOSE
  )
  np.testing.assert_array_equal(got, loss.get_values(**trailing(given)))


def test_simpo():
  given = inputs(4, 2)
  del given['anchor_logits']
  paths = {k: v for k, v in PATHS.items() if k in given}
  loss = gm.losses.SimpoLoss(**paths, tau=2.5, margin=0.3, label_smoothing=0.1)
  mean = sums(given, 'policy_logits') / given['sequence_mask'].sum(-1)
  right = 1 / (1 + np.exp(0.3 - 2.5 * (mean[:, 0] - mean[:, 1])))
  got = loss.get_values(**given)
  expected = -0.9 * np.log(right) - 0.1 * np.log(1 - right)
  np.testing.assert_allclose(got, expected[:, None], **CLOSE)
  np.testing.assert_array_equal(got, loss.get_values(**trailing(given)))


def test_equal_models_and_defaults():
  """Published: tau 0.1 and 1, log 2 to begin with."""
  for loss, batch, tau in [
    (gm.losses.DpoLoss(**PATHS), (3, 2), 0.1),
    (gm.losses.NpoLoss(**PATHS), (3,), 1.0),
  ]:
    given = inputs(*batch)
    given['anchor_logits'] = given['policy_logits']
    np.testing.assert_allclose(loss(**given), np.log(2), rtol=1e-6)
    assert loss.tau == tau


def test_anchor_that_was_computed_before():
  given = inputs(4, 2)
  expected = gm.losses.DpoLoss(**PATHS).get_values(**given)
  loss = gm.losses.DpoLoss(
    **PATHS | {'anchor_logits': None}, anchor_logprobs='batch.anchor_logprobs'
  )
  before = gm.losses.sequence_logprobs(
    given.pop('anchor_logits'), given['tokens'], given['sequence_mask']
  )
  got = loss.get_values(**given, anchor_logprobs=np.asarray(before))
  np.testing.assert_allclose(got, expected, rtol=1e-6)
  with pytest.raises(ValueError, match='one of `anchor_logits` and'):
    loss.get_values(**given)


def test_schedules():
  """Tau, label smoothing and weight may depend on the step."""
  given = inputs(4, 2)
  loss = gm.losses.DpoLoss(
    **PATHS,
    tau=optax.linear_schedule(0.1, 0.5, 100),
    label_smoothing=lambda step: 0.2 * (step > 10),
    weight=optax.constant_schedule(3.0),
  )
  for step, tau, smoothing in [(0, 0.1, 0.0), (50, 0.3, 0.2), (200, 0.5, 0.2)]:
    fixed = gm.losses.DpoLoss(**PATHS, tau=tau, label_smoothing=smoothing)
    got = jax.jit(lambda step: loss(**given, step=step))(step)
    np.testing.assert_allclose(got, 3 * fixed(**given), rtol=1e-5)
  with pytest.raises(ValueError, match='`tau` is a schedule: pass `step=`'):
    loss(**given)


@pytest.mark.parametrize('field', ['tau', 'margin', 'label_smoothing'])
def test_schedules_of_simpo(field):
  given = inputs(4, 2)
  given.pop('anchor_logits')
  paths = {k: v for k, v in PATHS.items() if k in given}
  fixed = gm.losses.SimpoLoss(**paths, **{field: 0.3})
  loss = gm.losses.SimpoLoss(**paths, **{field: lambda step: 0.1 * step})
  np.testing.assert_allclose(loss(**given, step=3), fixed(**given), rtol=1e-6)


# Tokens.


@pytest.mark.parametrize('last', [False, True])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_cross_entropy(last, dtype):
  """As Kauldron's, but always in float32 inside."""
  logits = jnp.asarray(RNG.normal(0, 3, (2, 5, 11)), dtype)
  labels, mask = RNG.randint(0, 11, (2, 5)), RNG.rand(2, 5) < 0.6
  each = optax.softmax_cross_entropy_with_integer_labels(
    logits.astype(jnp.float32), labels
  )
  if last:
    labels, mask, each = labels[..., None], mask[..., None], each[..., None]
  loss = gm.losses.CrossEntropy(labels='batch.target', logits='preds.logits')
  got = loss.get_values(logits=logits, labels=labels)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, each, rtol=1e-5)
  mean = np.asarray(each)[mask].mean()
  np.testing.assert_allclose(
    loss(logits=logits, labels=labels, mask=mask), mean, rtol=1e-5
  )


def test_cross_entropy_of_a_label():
  """Classification: logits of the last token, and one label a row."""
  loss = gm.losses.CrossEntropy(labels='batch.label', logits='preds.logits')
  got = loss.get_values(logits=jnp.zeros((3, 7)), labels=np.ones((3, 1), int))
  np.testing.assert_allclose(got, np.full((3, 1), np.log(7)), rtol=1e-6)


@pytest.mark.parametrize('name', ['gemma1_mqa', 'gemma2_by_head_dim'])
def test_linear_cross_entropy(name):
  """The dense loss, of a model with a soft cap and without."""
  case = cases.NAMED[name]
  tokens = case.tokens(2, 9)
  labels, mask = tokens[:, 1:, None], RNG.rand(2, 8, 1) < 0.5
  out = case.apply(jnp.asarray(tokens[:, :-1]), return_hidden_states=True)
  options = {'z_loss': 0.01, 'label_smoothing': 0.1}
  dense = gm.losses.CrossEntropy(
    logits='preds.logits', labels='batch.target', **options
  )
  linear = gm.losses.LinearCrossEntropy(
    labels='batch.target', softcap=case.config.final_logit_softcap, **options
  )
  got = linear.get_values(
    hidden=out.hidden_states, embedder=case.params['embedder'], labels=labels
  )
  expected = dense.get_values(logits=out.logits, labels=labels)
  assert got.shape == expected.shape == labels.shape
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
  value = linear(
    hidden=out.hidden_states,
    embedder=case.params['embedder'],
    labels=labels,
    mask=mask,
  )
  np.testing.assert_allclose(
    value, dense(logits=out.logits, labels=labels, mask=mask), rtol=1e-5
  )


# The base.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given(gm.losses.Loss):
  """The values it is given."""

  x: str = gm.losses.key()

  def get_values(self, *, x, step=None):
    return x


def test_masks():
  """In the shape of the values, with a last axis more or less, or broadcast."""
  x = jnp.asarray(RNG.rand(3, 4), jnp.float32)
  mask = np.arange(12).reshape(3, 4) % 3 > 0
  loss = Given(x='preds.x')
  mean = np.asarray(x)[mask].mean()
  for shape in [(3, 4), (3, 4, 1)]:
    got = loss(x=x, mask=mask.reshape(shape))
    np.testing.assert_allclose(got, mean, rtol=1e-6)
  got = loss(x=x[..., None], mask=mask)
  np.testing.assert_allclose(got, mean, rtol=1e-6)
  got = loss(x=x, mask=np.array([[True], [False], [True]]))
  np.testing.assert_allclose(got, x[::2].mean(), rtol=1e-6)
  weights = mask * 0.5  # Numbers are weights.
  np.testing.assert_allclose(loss(x=x, mask=weights), mean, rtol=1e-6)
  with pytest.raises(ValueError, match=r'mask has shape \(2, 4\)'):
    loss(x=x, mask=np.ones((2, 4)))


def test_nothing_counts():
  x = jnp.full((2, 3), jnp.nan)
  assert Given(x='preds.x')(x=x, mask=np.zeros((2, 3), bool)) == 0


def test_weight_and_normalize_by():
  x, mask = jnp.ones((2, 3)), np.array([[1, 0, 0], [1, 0, 0]], bool)
  assert Given(x='x', weight=2)(x=x, mask=mask) == 2
  half = Given(x='x', weight=lambda step: step / 4, normalize_by='values')
  np.testing.assert_allclose(half(x=x, mask=mask, step=2), 1 / 6, rtol=1e-6)
  assert half.get_mean(x=x, mask=mask, step=2) == (1, 6)


def test_keys():
  loss = gm.losses.DpoLoss(**PATHS)
  keys = loss.__kontext_keys__()
  assert keys == PATHS | {'step': 'step', 'mask': None, 'anchor_logprobs': None}
  assert gm.losses.NpoLoss().tokens == '__KEY_REQUIRED__'
  hidden = gm.losses.LinearCrossEntropy(labels='batch.target', softcap=None)
  assert hidden.__kontext_keys__() == {
    'hidden': 'preds.hidden_states',
    'embedder': 'params.embedder',
    'labels': 'batch.target',
    'mask': None,
    'step': 'step',
  }
  # A trainer compares losses, and finds them in trees.
  assert loss == gm.losses.DpoLoss(**PATHS) and hash(loss)
  assert jax.tree.leaves({'dpo': loss}) == [loss]


def test_without_kauldron(monkeypatch):
  monkeypatch.setitem(sys.modules, 'kauldron', None)
  loss = Given(x='preds.x')
  assert loss(x=jnp.ones(3)) == 1
  with pytest.raises(ImportError, match=r"pip install 'gemma\[train\]'"):
    loss.get_state(x=jnp.ones(3))
  with pytest.raises(ImportError, match='Kauldron'):
    loss.get_state_from_context({'preds': {'x': jnp.ones(3)}})
  with pytest.raises(TypeError, match=r"`context` or \['x'\], not both"):
    loss(context={}, x=jnp.ones(3))
