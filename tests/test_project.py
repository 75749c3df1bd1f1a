"""Products with weights: the same numbers and gradients as plain einsums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gemma.gm.math import _project

EQN = 'BLD,CFD->CBLF'


def inputs(rows, width, dtype):
  """Activations of `rows` rows, and a weight of two branches."""
  rng = np.random.RandomState(0)
  x = rng.normal(size=(rows, 1, 64))
  w = rng.normal(size=(2, width, 64))
  return jnp.asarray(x, dtype), jnp.asarray(w, dtype)


def plain(x, w):
  x, w = x.astype(jnp.float32), w.astype(jnp.float32)
  return jnp.einsum(EQN, x, w)


@pytest.mark.parametrize('rows', [1, 3, 8, 20])
@pytest.mark.parametrize('width', [16, 512])
@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float32])
def test_product_whatever_the_rows(rows, width, dtype):
  x, w = inputs(rows, width, dtype)
  out = _project.project(EQN, x, w, jnp.float32)
  np.testing.assert_allclose(out, plain(x, w), atol=1e-4)
  assert _project.project(EQN, x, w, dtype).dtype == dtype


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float32])
def test_gradients_of_both_sides_and_of_one(dtype):
  x, w = inputs(3, 16, dtype)

  def loss(product, x, w):
    return jnp.sum(jnp.square(product(x, w).astype(jnp.float32)))

  def ours(x, w):
    return _project.project(EQN, x, w, jnp.float32)

  expected = jax.grad(loss, argnums=(1, 2))(plain, x, w)
  both = jax.grad(loss, argnums=(1, 2))(ours, x, w)
  alone = [jax.grad(loss, argnums=i)(ours, x, w) for i in (1, 2)]
  for a, b, c in zip(expected, both, alone, strict=True):
    assert b.dtype == dtype
    scale = np.abs(a).max()
    np.testing.assert_allclose(b, a, atol=1e-2 * scale)
    np.testing.assert_array_equal(b, c)


def test_forward_mode():
  x, w = inputs(2, 16, jnp.float32)
  _, expected = jax.jvp(plain, (x, w), (x, w))
  _, tangent = jax.jvp(
    lambda x, w: _project.project(EQN, x, w, jnp.float32), (x, w), (x, w)
  )
  np.testing.assert_allclose(tangent, expected, atol=1e-4)


def test_a_frozen_weight_has_no_product_of_its_own():
  """One product forward and one back; a zero tangent costs nothing."""
  x, w = inputs(2, 16, jnp.float32)

  def loss(x):
    return jnp.sum(_project.project(EQN, x, w, jnp.float32))

  text = str(jax.make_jaxpr(jax.grad(loss))(x))
  assert text.count('dot_general[') == 2
