"""Losses of answers against their papers' equations in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gemma import gm

RNG = np.random.RandomState(0)
POLICY = RNG.normal(-20, 6, (3, 5, 2))
ANCHOR = POLICY + RNG.normal(0, 4, POLICY.shape)
CLOSE = {'rtol': 2e-5, 'atol': 2e-6}


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def f32(x):
  return jnp.asarray(x, jnp.float32)


def odds(policy):
  """Of chosen to rejected, against those of the anchor."""
  chosen = np.exp(policy[..., 0]) / np.exp(ANCHOR[..., 0])
  return chosen / (np.exp(policy[..., 1]) / np.exp(ANCHOR[..., 1]))


@pytest.mark.parametrize('tau', [0.1, 0.5])
@pytest.mark.parametrize('smoothing', [0.0, 0.3])
def test_dpo(tau, smoothing):
  right = odds(POLICY) ** tau / (1 + odds(POLICY) ** tau)
  expected = -(1 - smoothing) * np.log(right) - smoothing * np.log(1 - right)
  got = gm.losses.dpo(
    f32(POLICY), f32(ANCHOR), tau=tau, label_smoothing=smoothing
  )
  assert got.shape == (3, 5) and got.dtype == jnp.float32
  np.testing.assert_allclose(got, expected, **CLOSE)


def test_dpo_of_equal_models():
  got = gm.losses.dpo(f32(POLICY), f32(POLICY), label_smoothing=0.2)
  np.testing.assert_allclose(got, np.full((3, 5), np.log(2)), rtol=1e-6)


def test_dpo_gradient():
  """Weighted by how wrong the implicit rewards are (section 4)."""
  got = jax.grad(lambda x: gm.losses.dpo(x, f32(ANCHOR), tau=0.3).sum())(
    f32(POLICY)
  )
  wrong = sigmoid(-0.3 * np.log(odds(POLICY)))
  np.testing.assert_allclose(got[..., 0], -0.3 * wrong, **CLOSE)
  np.testing.assert_allclose(got[..., 1], 0.3 * wrong, **CLOSE)


def test_dpo_far_apart():
  """Log-probabilities of long answers are large: no overflow, no NaN."""
  policy, anchor = f32([[-4e4, 0.0], [0.0, -4e4]]), jnp.zeros((2, 2))
  losses, grads = jax.vmap(jax.value_and_grad(gm.losses.dpo))(policy, anchor)
  np.testing.assert_allclose(losses, [4e3, 0], atol=1e-3)
  assert np.isfinite(grads).all()


def test_ipo():
  got = gm.losses.ipo(f32(POLICY), f32(ANCHOR), tau=0.25)
  np.testing.assert_allclose(got, (np.log(odds(POLICY)) - 2) ** 2, **CLOSE)


def test_ipo_stops():
  """It is least where the gap is 1 / (2 tau)."""
  policy = f32([3.0, 1.0])
  loss = jax.value_and_grad(gm.losses.ipo)
  value, grad = loss(policy, jnp.zeros(2), tau=0.25)
  assert value == 0 and not grad.any()


def test_simpo():
  lengths = RNG.randint(1, 30, POLICY.shape)
  mean = POLICY / lengths
  right = sigmoid(2.5 * (mean[..., 0] - mean[..., 1]) - 0.7)
  got = gm.losses.simpo(f32(POLICY), jnp.asarray(lengths), tau=2.5, margin=0.7)
  np.testing.assert_allclose(got, -np.log(right), **CLOSE)
  got = gm.losses.simpo(
    f32(POLICY), jnp.asarray(lengths), tau=2.5, margin=0.7, label_smoothing=0.1
  )
  expected = -0.9 * np.log(right) - 0.1 * np.log(1 - right)
  np.testing.assert_allclose(got, expected, **CLOSE)


def test_simpo_of_nothing():
  """An answer that was cut off altogether makes no NaN."""
  loss = jax.value_and_grad(gm.losses.simpo)
  value, grad = loss(jnp.zeros(2), jnp.zeros(2, jnp.int32))
  assert np.isfinite(value) and np.isfinite(grad).all()


@pytest.mark.parametrize('tau', [0.1, 1.0])
def test_npo(tau):
  """Without the factor `2 / tau` of the paper."""
  policy, anchor = POLICY[..., 0], ANCHOR[..., 0]
  ratio = np.exp(policy) / np.exp(anchor)
  got = gm.losses.npo(f32(policy), f32(anchor), tau=tau)
  np.testing.assert_allclose(got, np.log(1 + ratio**tau), **CLOSE)


def test_npo_fades():
  """What is forgotten has no gradient left; plain ascent would go on."""
  slope = jax.grad(gm.losses.npo)
  assert abs(slope(f32(-60.0), f32(-10.0))) < 1e-20
  np.testing.assert_allclose(slope(f32(-10.0), f32(-10.0)), 0.5, rtol=1e-6)


def test_kto():
  policy, anchor = POLICY[..., 0], ANCHOR[..., 0]
  good = RNG.rand(3, 5) < 0.5
  reference = RNG.normal(0.8, 1, 7)
  z = max(0, reference.mean())
  gain = np.where(good, 1.5, 0.5) * (
    1 - sigmoid(0.2 * np.where(good, 1, -1) * (policy - anchor - z))
  )
  kto = jax.jit(gm.losses.kto)
  got = kto(
    f32(policy),
    f32(anchor),
    jnp.asarray(good),
    f32(reference),
    tau=0.2,
    desirable_weight=1.5,
    undesirable_weight=0.5,
  )
  np.testing.assert_allclose(got, gain, **CLOSE)


def test_kto_reference():
  """It is never below 0, and has no gradient."""
  zeros, good = jnp.zeros(2), jnp.array([True, False])

  def loss(reference):
    return gm.losses.kto(zeros, zeros, good, reference).sum()

  assert loss(f32([-5.0])) == loss(f32([0.0])) == 1
  assert not jax.grad(loss)(f32([2.0])).any()


def test_pairs_are_two():
  with pytest.raises(ValueError, match=r'axis of \(3,\) is not 2'):
    gm.losses.dpo(jnp.zeros(3), jnp.zeros(3))
