"""The state and the step: what is trained, with what, on which loss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cases
from gemma import gm
from gemma import peft
import run_training

CASE = cases.NAMED['gemma1_mqa']
ROWS, LENGTH = 8, 12


def with_lora(params):
  lora = peft.init_lora(params, rank=2, rng=jax.random.key(0), targets='attn')
  return peft.merge_params(params, lora)


def copied(params):
  return jax.tree.map(jnp.copy, params)


@functools.cache
def loss_of_case():
  return gm.losses.NextToken(CASE.model)


def batch():
  return run_training.batch(CASE, ROWS, LENGTH)


def differences(a, b):
  return [
    float(abs(x - y).max())
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  ]


def test_frozen_parameters_have_no_place_in_the_optimizer():
  params = with_lora(CASE.params)
  state = gm.training.init_state(params, optax.adam(0.1), trainable='lora')
  shapes = {x.shape for x in jax.tree.leaves(state.opt_state) if x.ndim}
  assert shapes == {x.shape for x in jax.tree.leaves(state.params)}
  frozen = {x.shape for x in jax.tree.leaves(state.frozen)}
  assert not shapes & frozen and (300, 32) in frozen
  # Both moments of each adapter, and the count of steps.
  assert len(jax.tree.leaves(state.opt_state)) == 1 + 2 * len(
    jax.tree.leaves(state.params)
  )
  back = gm.training.model_params(state)
  assert jax.tree.structure(back) == jax.tree.structure(params)
  jax.tree.map(np.testing.assert_array_equal, back, params)


def test_patterns_choose_by_path():
  state = gm.training.init_state(
    CASE.params, optax.sgd(0.1), trainable=['final_norm', r'layer_[01]/mlp']
  )
  assert state.params.keys() == {'final_norm', 'layer_0', 'layer_1'}
  assert state.params['layer_1'].keys() == {'mlp'}
  assert 'mlp' not in state.frozen['layer_0']
  assert 'mlp' in state.frozen['layer_2']


def test_all_is_trained_by_default():
  state = gm.training.init_state(CASE.params, optax.sgd(0.1))
  assert state.frozen == {}
  assert int(state.step) == 0 and state.dtypes is None


@pytest.mark.parametrize(
  'trainable, message',
  [
    ('lora', r"'lora' matches none of .* Make adapters first: peft.init_lora"),
    (['mlp', 'layer_99'], "'layer_99' matches none of"),
    ([], 'Nothing to train'),
  ],
)
def test_patterns_that_choose_nothing(trainable, message):
  with pytest.raises(ValueError, match=message):
    gm.training.init_state(CASE.params, optax.sgd(1), trainable=trainable)


def test_integers_are_not_trained():
  params = peft.quantize(CASE.params, method='INT8')
  with pytest.raises(ValueError, match='is int8, and integers have no'):
    gm.training.init_state(params, optax.sgd(0.1))


def test_adapters_on_integers_learn():
  params = with_lora(peft.quantize(CASE.params, method='INT8'))
  optimizer = optax.adam(1e-2)
  state = gm.training.init_state(params, optimizer, trainable='lora')
  step = gm.training.make_step(loss_of_case(), optimizer)
  losses = []
  for _ in range(6):
    state, metrics = step(state, batch())
    losses.append(float(metrics['loss']))
  assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize(
  'trainable, counts',
  [
    (None, (1, 2)),
    ('lora', (1, 4)),
    pytest.param(None, (1, 4), marks=cases.EXHAUSTIVE),
    pytest.param('lora', (1, 2), marks=cases.EXHAUSTIVE),
  ],
)
def test_parts_of_a_batch_are_the_batch(trainable, counts):
  """Rows have from 1 to all of their tokens in the loss."""
  optimizer = optax.sgd(0.1)
  results = []
  for accumulate in counts:
    params = with_lora(copied(CASE.params))
    state = gm.training.init_state(params, optimizer, trainable=trainable)
    step = gm.training.make_step(
      loss_of_case(), optimizer, accumulate=accumulate
    )
    results.append(step(state, batch()))
  whole, metrics = results[0]
  assert float(metrics['tokens']) == batch()['loss_mask'].sum()
  for state, parts in results[1:]:
    assert max(differences(parts, metrics)) < 1e-5
    assert max(differences(state.params, whole.params)) < 1e-5


def test_a_step_is_what_optax_would_do():
  loss = loss_of_case()
  optimizer = optax.sgd(0.1, momentum=0.9)  # Adam divides noise by noise.

  @jax.jit
  def plain(params, state):
    value, grads = jax.value_and_grad(
      lambda params: loss(params, batch(), None).value
    )(params)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value

  params, opt_state = CASE.params, optimizer.init(CASE.params)
  state = gm.training.init_state(copied(CASE.params), optimizer)
  step = gm.training.make_step(loss, optimizer)
  for _ in range(3):
    params, opt_state, value = plain(params, opt_state)
    state, metrics = step(state, batch())
    np.testing.assert_allclose(metrics['loss'], value, rtol=1e-6)
  assert max(differences(state.params, params)) < 1e-5
  assert int(state.step) == 3


def test_master_weights_keep_small_updates():
  """A step of 1e-5 is nothing beside a bfloat16 of 1, and a hundred are not."""
  seen = []

  def loss(params, batch, rng):
    del batch, rng
    seen.append(params['w'].dtype)
    return gm.losses.Mean(params['w'].sum().astype('float32'), jnp.float32(1))

  optimizer = optax.sgd(1e-4)
  step = gm.training.make_step(loss, optimizer)
  for master, expected in ((None, 1.0), ('float32', 0.99)):
    state = gm.training.init_state(
      {'w': jnp.ones(3, 'bfloat16')}, optimizer, master_dtype=master
    )
    for _ in range(100):
      state, _ = step(state, jnp.zeros(1))
    np.testing.assert_allclose(state.params['w'], expected, rtol=1e-5)
    out = gm.training.model_params(state)['w']
    assert out.dtype == 'bfloat16'
    assert float(out[0]) == float(jnp.bfloat16(expected))
  assert {x.name for x in seen} == {'bfloat16'}


def test_master_weights_of_a_model():
  """The model is given what it had, leaf by leaf; the optimizer float32."""
  params = with_lora(jax.tree.map(lambda x: x.astype('bfloat16'), CASE.params))
  optimizer = optax.adam(1e-3)
  state = gm.training.init_state(params, optimizer, master_dtype='float32')
  dtypes = {x.dtype.name for x in jax.tree.leaves(state.params)}
  dtypes |= {x.dtype.name for x in jax.tree.leaves(state.opt_state) if x.ndim}
  assert dtypes == {'float32'}
  seen = gm.training.model_params(state)
  jax.tree.map(np.testing.assert_array_equal, seen, params)
  assert jax.tree.map(lambda x: x.dtype, seen) == jax.tree.map(
    lambda x: x.dtype, params
  )
  step = gm.training.make_step(loss_of_case(), optimizer, accumulate=2)
  state, _ = step(state, batch())
  assert {x.dtype.name for x in jax.tree.leaves(state.params)} == {'float32'}


def test_memory_is_given_away_of_what_is_trained_only():
  params = with_lora(copied(CASE.params))
  key = jax.random.key(3)
  optimizer = optax.adam(1e-3)
  state = gm.training.init_state(params, optimizer, trainable='lora', rng=key)
  before, state = (
    state,
    gm.training.make_step(loss_of_case(), optimizer)(state, batch())[0],
  )
  assert all(x.is_deleted() for x in jax.tree.leaves(before.params))
  assert all(
    x.is_deleted() for x in jax.tree.leaves(before.opt_state) if x.ndim
  )
  assert not any(x.is_deleted() for x in jax.tree.leaves(state.frozen))
  assert state.frozen['final_norm']['scale'] is params['final_norm']['scale']
  assert not key.is_deleted()


def noisy(params, batch, rng):
  noise = jax.random.normal(rng, batch.shape)
  return gm.losses.Mean(
    ((params['w'] - batch - noise) ** 2).sum(), jnp.float32(batch.size)
  )


def test_randomness_follows_from_the_key_and_the_step():
  optimizer = optax.sgd(0.0)
  step = gm.training.make_step(noisy, optimizer, accumulate=2)

  def losses(rng, first=0):
    state = gm.training.init_state({'w': jnp.zeros(())}, optimizer, rng=rng)
    state = state.replace(step=jnp.int32(first))
    out = []
    for _ in range(first, 4):
      state, metrics = step(state, jnp.zeros(8))
      out.append(float(metrics['loss']))
    return out

  whole = losses(7)
  assert len({*whole}) == 4
  assert losses(7, first=2) == whole[2:]
  assert losses(jax.random.key(7)) == whole
  assert losses(8) != whole


def test_what_is_not_finite_raises_and_changes_nothing():
  def loss(params, batch, rng):
    del rng
    return gm.losses.Mean((params['w'] * batch).sum(), jnp.float32(2))

  optimizer = optax.adam(0.1)
  state = gm.training.init_state({'w': jnp.ones(2)}, optimizer)
  step = gm.training.make_step(loss, optimizer)
  state, _ = step(state, jnp.ones(2))
  w = np.asarray(state.params['w'])
  state, metrics = step(state, jnp.array([1.0, jnp.nan]))
  assert not np.isfinite(metrics['loss'])
  np.testing.assert_array_equal(state.params['w'], w)
  with pytest.raises(ValueError, match=r'Step 2: loss=nan, gradient norm=nan'):
    step(state, jnp.ones(2))
  state, _ = step(state, jnp.ones(2))  # One may go on without the batch.
  assert np.isfinite(state.params['w']).all()


def test_an_update_that_is_not_finite_changes_nothing():
  """Loss and gradients are; a moment of 0 divides 0."""

  def loss(params, batch, rng):
    errors = (params['used'] + 0 * params['idle'] - batch) ** 2
    return gm.losses.Mean(errors.sum(), jnp.float32(errors.size))

  optimizer = optax.adam(0.1, eps=0.0)
  params = {'idle': jnp.ones(2), 'used': jnp.ones(2)}
  state = gm.training.init_state(params, optimizer)
  step = gm.training.make_step(loss, optimizer)
  state, metrics = step(state, jnp.zeros(2))
  assert np.isfinite(metrics['grad_norm'])
  assert not np.isfinite(metrics['update_norm'])
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.opt_state))
  np.testing.assert_array_equal(state.params['used'], 1)
  with pytest.raises(
    ValueError, match=r'update norm=nan. .* concerned is idle'
  ):
    step(state, jnp.zeros(2))


def test_a_loss_of_no_token_raises():
  optimizer = optax.adamw(0.1)  # Its decay needs no gradient.
  state = gm.training.init_state(copied(CASE.params), optimizer)
  step = gm.training.make_step(loss_of_case(), optimizer)
  empty = batch() | {'loss_mask': np.zeros((ROWS, LENGTH), bool)}
  state, _ = step(state, empty)
  with pytest.raises(ValueError, match=r'Step 1: the loss is of no token'):
    step(state, batch())
  assert max(differences(state.params, CASE.params)) == 0


def test_the_rate_is_told_where_it_is_known():
  schedule = optax.linear_schedule(1.0, 0.0, 4)
  params = {'w': jnp.zeros(())}
  for optimizer, expected in (
    (optax.sgd(schedule), None),
    (optax.inject_hyperparams(optax.sgd)(schedule), [1.0, 0.75]),
    (gm.training.adamw(1.0, steps=100, warmup=0.02), [0.5, 0.75]),
  ):
    state = gm.training.init_state(copied(params), optimizer)
    step = gm.training.make_step(noisy, optimizer)
    rates = []
    for _ in range(2):
      state, metrics = step(state, jnp.zeros(2))
      rates.append(metrics.get('learning_rate'))
    assert rates == (expected or [None, None])


def test_adamw_ends_at_zero():
  optimizer = gm.training.adamw(1e-2, steps=10)
  state = gm.training.init_state({'w': jnp.zeros(2, 'bfloat16')}, optimizer)
  step = gm.training.make_step(noisy, optimizer)
  rates = []
  for _ in range(11):
    state, metrics = step(state, jnp.zeros(2))
    rates.append(float(metrics['learning_rate']))
  assert rates[0] == rates[1] == pytest.approx(1e-2)
  assert rates == sorted(rates, reverse=True) and rates[-1] == 0
  assert rates[-2] > 0


@pytest.mark.parametrize(
  'accumulate, message',
  [(0, 'accumulate=0'), (3, r"batch\['input'\] has shape \(8, 12\), which")],
)
def test_parts_that_do_not_fit(accumulate, message):
  optimizer = optax.sgd(0.1)
  state = gm.training.init_state(copied(CASE.params), optimizer)
  with pytest.raises(ValueError, match=message):
    step = gm.training.make_step(
      loss_of_case(), optimizer, accumulate=accumulate
    )
    step(state, batch())


def test_evaluation_is_the_mean_of_all_tokens():
  state = gm.training.init_state(CASE.params, optax.adam(0.1))
  evaluate = gm.training.make_eval(loss_of_case())
  whole = evaluate(state, [batch()])
  parts = [
    {name: x[rows] for name, x in batch().items()}
    for rows in (slice(0, 2), slice(2, 8))
  ]
  assert evaluate(state, parts) == pytest.approx(whole, abs=1e-6)
  with pytest.raises(ValueError, match='No token to evaluate'):
    evaluate(state, [])


def test_one_program_for_all_steps():
  """And for states of the same shapes."""
  traces = []

  def loss(params, batch, rng):
    traces.append(1)
    return noisy(params, batch, rng)

  optimizer = gm.training.adamw(0.1, steps=9)
  step = gm.training.make_step(loss, optimizer)
  for seed in (1, 2):
    state = gm.training.init_state({'w': jnp.zeros(())}, optimizer, rng=seed)
    for _ in range(3):
      state, _ = step(state, np.zeros(8, np.float32))
  assert len(traces) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
  'spec, accumulate',
  [
    ((), 2),
    (('d',), 1),
    pytest.param((), 1, marks=cases.EXHAUSTIVE),
    pytest.param(('d',), 2, marks=cases.EXHAUSTIVE),
  ],
  ids=str,
)
def test_shards_stay_where_they_are(spec, accumulate):
  """Weights in whole or in parts on four devices, rows on all of them."""
  mesh = jax.sharding.Mesh(np.array(jax.devices()), 'd')

  def place(x):
    fits = spec and x.ndim and x.shape[0] % 4 == 0
    part = jax.sharding.PartitionSpec(*(spec if fits else ()))
    return jax.device_put(x, jax.sharding.NamedSharding(mesh, part))

  rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('d'))
  optimizer = optax.adam(1e-2)
  one = gm.training.init_state(copied(CASE.params), optimizer)
  state = gm.training.init_state(
    jax.tree.map(place, copied(CASE.params)), optimizer
  )
  before = jax.tree.map(lambda x: x.sharding, state)
  step = gm.training.make_step(loss_of_case(), optimizer, accumulate=accumulate)
  for _ in range(2):
    state, metrics = step(state, jax.device_put(batch(), rows))
    one, expected = step(one, batch())
    np.testing.assert_allclose(metrics['loss'], expected['loss'], rtol=1e-5)
  for name in ('params', 'opt_state'):
    after = jax.tree.leaves(getattr(state, name))
    for x, sharding in zip(
      after, jax.tree.leaves(getattr(before, name)), strict=True
    ):
      assert x.ndim == 0 or x.sharding.is_equivalent_to(sharding, x.ndim)
