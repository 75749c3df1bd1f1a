"""Losses of tokens, and of whole batches, against dense float64 ones."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cases
from gemma import gm
from gemma import peft
from gemma.gm.nn import _shapes

CASE = cases.NAMED['gemma2_by_head_dim']  # It has a soft cap.
CLOSE = {'rtol': 1e-5, 'atol': 1e-5}
ROWS, LENGTH = 4, 10  # As many rows as two pairs of answers have.


def batch(case=CASE, seed=0):
  """Tokens with padding behind, of which some count."""
  tokens = case.tokens(ROWS, LENGTH + 1)
  tokens[1, 7:] = 0
  target = tokens[:, 1:]
  mask = np.random.RandomState(seed).rand(*target.shape) < 0.6
  return {
    'input': tokens[:, :-1],
    'target': target,
    'loss_mask': mask & (target != 0),
  }


def pairs(case=CASE, seed=0):
  """Two pairs of answers, `[2, 2, L]`."""
  rng = np.random.RandomState(seed)
  tokens = rng.randint(1, 290, (2, 2, LENGTH + 1)).astype(np.int32)
  return {
    'tokens': tokens[..., :-1],
    'targets': tokens[..., 1:],
    'mask': rng.rand(2, 2, LENGTH) < 0.5,
  }


def logprobs_of(case, tokens, targets):
  """Of each target, in float64."""
  logits = np.asarray(case.apply(jnp.asarray(tokens)).logits, np.float64)
  logits -= logits.max(axis=-1, keepdims=True)
  logprobs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
  return np.take_along_axis(logprobs, targets[..., None], axis=-1)[..., 0]


def trailing(batch, *names):
  """The same with a last axis, as data tasks write it."""
  more = {name: np.expand_dims(batch[name], -1) for name in names}
  return batch | more


# Log-probabilities.


def test_sequence_logprobs():
  rng = np.random.RandomState(0)
  logits = rng.normal(0, 3, (2, 3, 5, 11))
  targets, mask = rng.randint(0, 11, (2, 3, 5)), rng.rand(2, 3, 5) < 0.5
  logprobs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
  each = np.take_along_axis(logprobs, targets[..., None], axis=-1)[..., 0]
  expected = (each * mask).sum(axis=-1)
  wide = jnp.asarray(logits, jnp.float32)
  got = gm.losses.sequence_logprobs(wide, targets, mask)
  np.testing.assert_allclose(got, expected, **CLOSE)
  same = gm.losses.sequence_logprobs(wide, targets[..., None], mask[..., None])
  np.testing.assert_array_equal(got, same)


def test_sequence_logprobs_of_bfloat16():
  """Sums are float32, whatever the logits are."""
  logits = jnp.zeros((1, 1000, 8), jnp.bfloat16)
  mask = np.ones((1, 1000), bool)
  got = gm.losses.sequence_logprobs(logits, np.zeros((1, 1000), int), mask)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, [-1000 * np.log(8)], rtol=1e-5)


def test_what_is_masked_may_be_anything():
  """Ids that are none, and logits of nothing."""
  logits = jnp.zeros((2, 4)).at[1].set(-jnp.inf)
  targets, mask = np.array([1, -100]), np.array([True, False])

  def loss(logits):
    return gm.losses.sequence_logprobs(logits, targets, mask)

  np.testing.assert_allclose(loss(logits), -np.log(4), rtol=1e-6)
  np.testing.assert_array_equal(jax.grad(loss)(jnp.zeros((2, 4)))[1], [0] * 4)


def test_token_logprobs():
  data = batch()
  each = logprobs_of(CASE, data['input'], data['target'])
  got = gm.losses.token_logprobs(
    CASE.model, CASE.params, data['input'], data['target'], data['loss_mask']
  )
  np.testing.assert_allclose(got, (each * data['loss_mask']).sum(-1), **CLOSE)
  pair = pairs()  # Any number of batch dims.
  each = logprobs_of(CASE, pair['tokens'], pair['targets'])
  got = gm.losses.token_logprobs(CASE.model, CASE.params, *pair.values())
  np.testing.assert_allclose(got, (each * pair['mask']).sum(-1), **CLOSE)


def test_shapes_that_disagree():
  data = batch()
  with pytest.raises(ValueError, match=r'`mask` has shape \(4, 9\)'):
    gm.losses.token_logprobs(
      CASE.model,
      CASE.params,
      data['input'],
      data['target'],
      data['loss_mask'][:, 1:],
    )


# The next token.


@pytest.mark.parametrize('name', ['gemma1_mqa', 'gemma2_by_head_dim'])
def test_next_token(name):
  case = cases.NAMED[name]
  data = batch(case)
  each = logprobs_of(case, data['input'], data['target'])
  mask = data['loss_mask']
  got = gm.losses.NextToken(case.model)(case.params, data, None)
  assert isinstance(got, gm.losses.Mean)
  assert got.count == mask.sum()
  np.testing.assert_allclose(got.total, -each[mask].sum(), rtol=1e-5)
  np.testing.assert_allclose(got.value, -each[mask].mean(), rtol=1e-5)
  same = gm.losses.NextToken(case.model)(
    case.params, trailing(data, 'target', 'loss_mask'), None
  )
  assert same == got


def test_next_token_options():
  data = batch()
  loss = gm.losses.NextToken(CASE.model, z_loss=0.1, label_smoothing=0.2)
  got = loss(CASE.params, data, jax.random.key(0))
  logits = CASE.apply(jnp.asarray(data['input'])).logits
  dense = gm.math.cross_entropy(
    logits, jnp.asarray(data['target']), z_loss=0.1, label_smoothing=0.2
  )
  expected = np.asarray(dense)[data['loss_mask']].mean()
  np.testing.assert_allclose(got.value, expected, rtol=1e-5)


def test_next_token_gradients():
  data = batch()
  mask = jnp.asarray(data['loss_mask'])

  def dense(params):
    out = CASE.model.apply({'params': params}, jnp.asarray(data['input']))
    losses = gm.math.cross_entropy(out.logits, jnp.asarray(data['target']))
    return jnp.where(mask, losses, 0).sum() / mask.sum()

  loss = gm.losses.NextToken(CASE.model)
  got = jax.jit(jax.grad(lambda p: loss(p, data, None).value))(CASE.params)
  expected = jax.jit(jax.grad(dense))(CASE.params)
  for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_parts_of_a_batch_add_up():
  data = batch(seed=1)
  loss = gm.losses.NextToken(CASE.model)
  whole = loss(CASE.params, data, None)
  parts = [
    loss(CASE.params, {k: v[i : i + 2] for k, v in data.items()}, None)
    for i in range(0, ROWS, 2)
  ]
  total = jax.tree.map(lambda *x: sum(x), *parts)
  np.testing.assert_allclose(total.value, whole.value, rtol=1e-6)
  assert len({int(part.count) for part in parts}) > 1


def test_rows_of_several_sequences():
  """Packed side by side, they lose what they lose apart."""
  tokens = CASE.tokens(2, 5)
  alone = {'input': tokens[:, :-1], 'target': tokens[:, 1:]}
  alone['loss_mask'] = np.ones_like(alone['target'], bool)
  packed = {k: v.reshape(1, -1) for k, v in alone.items()}
  packed['segment_ids'] = np.repeat([[1, 2]], 4, axis=1).astype(np.int32)
  loss = gm.losses.NextToken(CASE.model)
  got, expected = (loss(CASE.params, x, None) for x in (packed, alone))
  assert got.count == expected.count == 8
  np.testing.assert_allclose(got.total, expected.total, rtol=1e-5)


@pytest.mark.slow
def test_next_token_with_images():
  case = cases.VISION
  data = batch(case)
  data['input'] = data['input'] % 280 + 1
  data['input'][:, 2] = case.config.image_tokens.start
  loss = gm.losses.NextToken(case.model)
  means = [
    loss(case.params, data | {'images': images}, None).value
    for images in (case.images(ROWS, 1), 255 - case.images(ROWS, 1))
  ]
  assert np.isfinite(means).all() and means[0] != means[1]


@pytest.mark.parametrize(
  'method',
  [
    None,
    'dpo',
    pytest.param('ipo', marks=pytest.mark.slow),
    pytest.param('simpo', marks=pytest.mark.slow),
  ],
)
def test_nothing_counts(method):
  """The mean of nothing is 0, and so is its gradient."""
  if method is None:
    loss, data, mask = gm.losses.NextToken(CASE.model), batch(), 'loss_mask'
  else:
    loss, data, mask = gm.losses.Preference, pairs(), 'mask'
    loss = loss(CASE.model, method=method)
    data['anchor_logprobs'] = np.zeros((2, 2), np.float32)
  data[mask] = np.zeros_like(data[mask])

  def value(params):
    mean = loss(params, data, None)
    return mean.value, mean

  step = jax.jit(jax.value_and_grad(value, has_aux=True))
  (out, mean), grads = step(CASE.params)
  assert out == mean.total == mean.count == 0
  assert not any(x.any() for x in jax.tree.leaves(grads))


def test_batch_lacks_something():
  data = batch()
  del data['loss_mask']
  with pytest.raises(ValueError, match="'target'.*but no 'loss_mask'"):
    gm.losses.NextToken(CASE.model)(CASE.params, data, None)


# Ids outside of the table.


def changed(data, name, value):
  """A batch with another id at the last place that counts."""
  mask = data['loss_mask' if 'loss_mask' in data else 'mask']
  place = tuple(np.argwhere(mask)[-1])
  ids = np.array(data[name])
  ids[place] = value
  return data | {name: ids}, [*map(int, place)]


@pytest.mark.parametrize('value', [-1, -101, 10**6, CASE.config.num_embed])
@pytest.mark.parametrize('name', ['input', 'target', 'tokens', 'targets'])
def test_ids_outside_of_the_table(name, value):
  pair = name.endswith('s')
  loss = gm.losses.WinRate if pair else gm.losses.NextToken
  data, place = changed(pairs() if pair else batch(), name, value)
  with pytest.raises(ValueError, match=re.escape(f'{place} is {value}, but')):
    loss(CASE.model)(CASE.params, data)


def test_ids_outside_of_the_table_in_a_step_and_in_a_program():
  loss = gm.losses.NextToken(CASE.model)
  data, place = changed(batch(), 'target', 10**6)
  shown = re.escape(f"batch['target']{place} is 1000000")
  optimizer = optax.sgd(0.1)
  params = jax.tree.map(jnp.copy, CASE.params)
  state = gm.training.init_state(params, optimizer)
  with pytest.raises(ValueError, match=shown):
    gm.training.make_step(loss, optimizer)(state, data)
  with pytest.raises(ValueError, match=shown):
    gm.training.make_eval(loss)(state, [data])
  value = jax.jit(lambda data: loss(CASE.params, data).value)
  for name in ('target', 'input'):
    assert np.isnan(value(changed(batch(), name, 10**6)[0]))
  assert np.isfinite(value(batch()))


def test_targets_that_do_not_count_may_be_anything():
  loss = gm.losses.NextToken(CASE.model)
  data = batch()
  expected = loss(CASE.params, data)
  odd = np.where(data['loss_mask'], data['target'], 10**6)
  np.testing.assert_array_equal(
    loss(CASE.params, data | {'target': odd}), expected
  )
  # By the convention of other libraries, these are masked.
  marked = np.where(data['loss_mask'], data['target'], -100)
  marked = data | {'target': marked}
  marked['loss_mask'] = np.ones_like(data['loss_mask'])
  np.testing.assert_array_equal(loss(CASE.params, marked), expected)


# No logits.


def test_logits_are_never_there():
  """A step holds no array of tokens times vocabulary, nor the bytes of one."""
  vocab, rows, length = 2**17, 4, 256  # Logits of 512 MiB.
  config = dataclasses.replace(
    CASE.config,
    num_embed=vocab,
    attention_types=CASE.config.attention_types[:2],
  )
  model = gm.nn.Transformer(config=config, dtype=jnp.float32)
  ids = jax.ShapeDtypeStruct((rows, length), jnp.int32)
  pair = jax.ShapeDtypeStruct((rows // 2, 2, length), jnp.int32)
  anchor = jax.ShapeDtypeStruct((rows // 2, 2), jnp.float32)
  for loss, batch in [
    (
      gm.losses.NextToken(model),
      dict.fromkeys(('input', 'target', 'loss_mask'), ids),
    ),
    (
      gm.losses.Preference(model),
      dict.fromkeys(('tokens', 'targets', 'mask'), pair)
      | {'anchor_logprobs': anchor},
    ),
  ]:

    def value(params, batch, loss=loss):
      return loss(params, batch, None).value

    step = jax.jit(jax.value_and_grad(value))
    program = step.lower(_shapes.param_shapes(model), batch).compile()
    for place in (rf'{rows},{length}', rf'{rows // 2},2,{length}'):
      assert f'[{place},{vocab}]' not in program.as_text()
    assert f'[{rows * length},{vocab}]' not in program.as_text()
    logits = rows * length * vocab * 4
    assert program.memory_analysis().temp_size_in_bytes < logits / 2


# Pairs.


def anchored(case=CASE):
  pair = pairs(case)
  other = jax.tree.map(lambda x: 1.1 * x, case.params)
  (new,) = gm.losses.with_anchor_logprobs(case.model, other, [pair])
  return new


@pytest.mark.parametrize(
  'method, options',
  [
    ('dpo', {}),
    ('dpo', {'tau': 0.3, 'label_smoothing': 0.1}),
    ('ipo', {'tau': 0.2}),
    ('simpo', {}),
    ('simpo', {'tau': 3.0, 'margin': 0.2, 'label_smoothing': 0.1}),
  ],
)
def test_preference(method, options):
  pair = anchored()
  each = logprobs_of(CASE, pair['tokens'], pair['targets'])
  policy = jnp.asarray((each * pair['mask']).sum(-1), jnp.float32)
  second = jnp.asarray(pair['anchor_logprobs'])
  if method == 'simpo':
    second = jnp.asarray(pair['mask'].sum(-1))
    del pair['anchor_logprobs']  # It needs none.
  expected = getattr(gm.losses, method)(policy, second, **options)
  loss = gm.losses.Preference(CASE.model, method=method, **options)
  got = loss(CASE.params, pair, jax.random.key(0))
  assert got.count == 2
  np.testing.assert_allclose(got.value, expected.mean(), rtol=1e-4)
  got = loss(CASE.params, trailing(pair, 'targets', 'mask'), None)
  np.testing.assert_allclose(got.value, expected.mean(), rtol=1e-4)


def test_preference_of_equal_models():
  (pair,) = gm.losses.with_anchor_logprobs(CASE.model, CASE.params, [pairs()])
  got = gm.losses.Preference(CASE.model)(CASE.params, pair, None)
  np.testing.assert_allclose(got.value, np.log(2), rtol=1e-4)


def test_pairs_without_an_answer_do_not_count():
  pair = anchored()
  loss = gm.losses.Preference(CASE.model)
  whole = loss(CASE.params, {k: v[:1] for k, v in pair.items()}, None)
  pair['mask'] = pair['mask'].copy()
  pair['mask'][1, 0] = False
  got = loss(CASE.params, pair, None)
  assert got.count == whole.count == 1
  np.testing.assert_allclose(got.total, whole.total, rtol=1e-5)
  assert gm.losses.WinRate(CASE.model)(CASE.params, pair).count == 1


def test_win_rate():
  pair = pairs()
  each = logprobs_of(CASE, pair['tokens'], pair['targets'])
  chosen, rejected = np.moveaxis((each * pair['mask']).sum(-1), -1, 0)
  got = gm.losses.WinRate(CASE.model)(CASE.params, pair)
  assert got.value == (chosen > rejected).mean()
  turned = {k: v[:, ::-1] for k, v in pair.items()}
  assert gm.losses.WinRate(CASE.model)(CASE.params, turned).value == (
    1 - got.value
  )


def test_preference_errors():
  make = functools.partial(gm.losses.Preference, CASE.model)
  with pytest.raises(ValueError, match="method='ppo' is none of dpo"):
    make(method='ppo')
  with pytest.raises(ValueError, match="'ipo' has no label_smoothing"):
    make(method='ipo', label_smoothing=0.1)
  with pytest.raises(ValueError, match='gm.losses.with_anchor_logprobs'):
    make()(CASE.params, pairs(), None)
  with pytest.raises(ValueError, match=r'\(4, 10\), not \[B, 2, L\]'):
    make()(CASE.params, {'tokens': batch()['input']}, None)


# Anchors.


def test_anchors_of_examples():
  """One by one, in groups of which the last is not full, or in batches."""
  data = pairs()
  examples = [{k: v[i] for k, v in data.items()} for i in (0, 1, 0, 1, 0)]
  examples[1] = examples[1] | {'id': 7}
  short = {k: v[:, :6] for k, v in examples[0].items()}
  each = logprobs_of(CASE, data['tokens'], data['targets']) * data['mask']
  got = gm.losses.with_anchor_logprobs(
    CASE.model, CASE.params, iter([*examples, short]), batch_size=2
  )
  assert [x['anchor_logprobs'].shape for x in got] == [(2,)] * 6
  assert got[1]['id'] == 7 and 'anchor_logprobs' not in examples[1]
  for i, new in enumerate(got[:5]):
    expected = each.sum(-1)[i % 2]
    np.testing.assert_allclose(new['anchor_logprobs'], expected, **CLOSE)
  cut = each[0, :, :6].sum(-1)
  np.testing.assert_allclose(got[5]['anchor_logprobs'], cut, **CLOSE)
  (new,) = gm.losses.with_anchor_logprobs(CASE.model, CASE.params, [data])
  np.testing.assert_allclose(new['anchor_logprobs'], each.sum(-1), **CLOSE)
  assert new['anchor_logprobs'].dtype == np.float32


def test_anchors_errors():
  add = functools.partial(
    gm.losses.with_anchor_logprobs, CASE.model, CASE.params
  )
  with pytest.raises(ValueError, match=r"no \['targets', 'mask'\]"):
    add([{'tokens': np.ones((2, 3), int)}])
  with pytest.raises(ValueError, match=r'\(3,\), not \[2, L\]'):
    add([dict.fromkeys(('tokens', 'targets', 'mask'), np.ones(3, int))])
  with pytest.raises(ValueError, match='batch_size=0 is not positive'):
    add([], batch_size=0)


# Adapters and integers.


def test_adapters_and_integers():
  """Batch losses take any parameters that the model takes."""
  data = batch(cases.GEMMA3)
  params = cases.GEMMA3.params
  loss = gm.losses.NextToken(cases.GEMMA3.model)
  plain = loss(params, data).value
  lora = peft.init_lora(params, rank=2, rng=jax.random.key(0))
  adapted = peft.merge_params(params, lora)
  np.testing.assert_allclose(loss(adapted, data).value, plain, rtol=1e-6)
  wrapped = gm.nn.LoRA(rank=2, model=cases.GEMMA3.model)
  same = gm.losses.NextToken(wrapped)(adapted, data).value
  np.testing.assert_allclose(same, plain, rtol=1e-6)
  near = loss(peft.quantize(params, method='INT8'), data).value
  assert near != plain
  np.testing.assert_allclose(near, plain, rtol=2e-2)
