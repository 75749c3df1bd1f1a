"""Adapters in training: factor, dropout, gradients, what they are beside."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cases
from gemma import gm
from gemma import peft

KEY = jax.random.key(0)
CASE = cases.CASES[0]
FAST = [case for case in cases.DISTINCT if case.name in cases.FAST]


def random(tree, std=0.2):
  rng = np.random.RandomState(0)
  return jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, std, x.shape), jnp.float32), tree
  )


def adapters(params, **options):
  return random(peft.init_lora(params, rank=4, rng=KEY, **options))


def close(left, right, **tolerance):
  assert jax.tree.structure(left) == jax.tree.structure(right)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, **tolerance), left, right
  )


def loss_of(model, base, tokens, **kwargs):
  def loss(lora):
    params = peft.merge_params(base, lora)
    logits = model.apply({'params': params}, tokens, **kwargs).logits
    logprobs = jax.nn.log_softmax(logits[:, :-1])
    chosen = jnp.take_along_axis(logprobs, tokens[:, 1:, None], axis=2)
    return -jnp.mean(chosen)

  return loss


# The factor.


@pytest.mark.parametrize(
  'case, rslora',
  [
    pytest.param(
      case,
      rslora,
      marks=[] if case.name == name else cases.EXHAUSTIVE,
    )
    for rslora, name in ((False, 'gemma2_by_head_dim'), (True, 'gemma1_mqa'))
    for case in FAST
  ],
  ids=str,
)
def test_factor_is_one_of_the_product(case, rslora):
  """As in `W x + s B A x`, for values and for gradients."""
  lora, tokens = adapters(case.params), case.tokens(2, 8)
  factor = 6 / (2 if rslora else 4)
  wrapped = gm.nn.LoRA(rank=4, model=case.model, alpha=6.0, use_rslora=rslora)
  assert wrapped.factor == factor
  loss = jax.value_and_grad(loss_of(wrapped, case.params, tokens))
  value, grads = jax.jit(loss)(lora)
  inner = loss_of(case.model, case.params, tokens)
  plain = jax.jit(jax.value_and_grad(inner))
  by_hand = jax.value_and_grad(lambda x: inner(peft.scale_lora(x, factor)))
  expected, expected_grads = jax.jit(by_hand)(lora)
  np.testing.assert_array_equal(value, expected)
  close(grads, expected_grads, atol=1e-6)

  # The same function of numbers that have the factor in them, and there the
  # gradient of `b` lacks it.
  scaled, outside = plain(peft.scale_lora(lora, factor))
  np.testing.assert_allclose(value, scaled, rtol=1e-6)
  path = ('layer_0', 'attn', 'q_einsum', '_LoRAEinsum_0', 'lora', 'b')
  one, other = grads, outside
  for key in path:
    one, other = one[key], other[key]
  np.testing.assert_allclose(one, factor * other, rtol=1e-3, atol=1e-6)


def test_no_factor_by_default():
  model = gm.nn.LoRA(rank=4, model=CASE.model)
  assert model.factor == 1
  params = peft.merge_params(CASE.params, adapters(CASE.params))
  tokens = CASE.tokens()
  np.testing.assert_array_equal(
    model.apply({'params': params}, tokens).logits,
    CASE.model.apply({'params': params}, tokens).logits,
  )
  with pytest.raises(ValueError, match='use_rslora=True.*Give alpha'):
    gm.nn.LoRA(rank=4, model=CASE.model, use_rslora=True)


@pytest.mark.slow
def test_samplers_use_the_factor():
  """Those that get the wrapper; merged weights say the same."""
  lora = adapters(CASE.params)
  params = peft.merge_params(CASE.params, lora)
  model = gm.nn.LoRA(rank=4, model=CASE.model, alpha=10.0)
  fused = peft.fuse_params(peft.scale_lora(params, model.factor))
  prompts = CASE.prompts(5, 7)
  options = {'max_new_tokens': 6, 'return_state': True}
  plain, merged = (
    dataclasses.replace(CASE.sampler(), params=x) for x in (params, fused)
  )
  sampler = dataclasses.replace(plain, model=model)
  ours, other, expected = (
    [np.asarray(row).tolist() for row in x.sample(prompts, **options).tokens]
    for x in (sampler, plain, merged)
  )
  assert ours == expected != other


# Dropout.


def dropped(model, params, tokens, seed):
  rngs = {} if seed is None else {'dropout': jax.random.key(seed)}
  return model.apply({'params': params}, tokens, rngs=rngs).logits


def scanned(case):
  """A model of layers in one array, and how its parameters are stacked."""
  return case.model.clone(scan_layers=True), lambda params: gm.nn.stack_layers(
    params, case.config
  )


WAYS = {
  'plain': lambda case: (case.model, lambda params: params),
  'remat': lambda case: (case.model.clone(remat='full'), lambda params: params),
  'scan': scanned,
}


@pytest.mark.slow
@pytest.mark.parametrize('way', WAYS)
def test_dropout(way):
  """Of what it depends, and of what it does not."""
  case = CASE
  inner, stack = WAYS[way](case)
  params = stack(peft.merge_params(case.params, adapters(case.params)))
  tokens = case.tokens(2, 6)
  model = gm.nn.LoRA(rank=4, model=inner, dropout=0.5)
  plain = dropped(inner, params, tokens, None)
  np.testing.assert_array_equal(dropped(model, params, tokens, None), plain)
  one, again, other = (dropped(model, params, tokens, i) for i in (1, 1, 2))
  np.testing.assert_array_equal(one, again)
  for left, right in ((one, plain), (one, other)):
    assert np.abs(left - right).max() > 0.1
  none = gm.nn.LoRA(rank=4, model=inner)
  np.testing.assert_array_equal(dropped(none, params, tokens, 1), plain)
  # Another rate is another program's number, not its trace.
  less = gm.nn.LoRA(rank=4, model=inner, dropout=1e-6)
  np.testing.assert_allclose(dropped(less, params, tokens, 1), plain, atol=1e-4)
  np.testing.assert_array_equal(dropped(model, params, tokens, 1), one)
  # Layers do not drop the same.
  assert np.abs(one[0] - one[1]).max() > 0.1


@pytest.mark.slow
def test_dropout_is_the_same_whatever_gradients_keep():
  """What is computed again drops what it dropped before."""
  lora, tokens = adapters(CASE.params), CASE.tokens(2, 6)
  grads = []
  for remat in ('none', 'dots', 'full'):
    inner = CASE.model.clone(remat=remat)
    model = gm.nn.LoRA(rank=4, model=inner, dropout=0.3)
    loss = loss_of(model, CASE.params, tokens, rngs={'dropout': KEY})
    grads.append(jax.jit(jax.grad(loss))(lora))
  close(grads[0], grads[1], atol=1e-5)
  close(grads[0], grads[2], atol=1e-5)


@pytest.mark.parametrize('use_dora', [False, True])
@pytest.mark.parametrize('per_head', [False, True])
def test_mean_of_dropout_is_none(use_dora, per_head):
  """Of one layer: an expectation goes through what is linear only."""
  layer = gm.nn.Einsum((2, 6, 3), name='q_einsum', dtype=jnp.float32)
  x = jax.random.normal(KEY, (1, 2, 6))
  w = jax.random.normal(jax.random.key(1), (2, 6, 3))
  base = {'q_einsum': {'w': w}}
  lora = adapters(base, per_head=per_head)
  if use_dora:
    lora = peft.set_magnitudes(lora, base)
    lora = jax.tree.map(lambda x: x * 1.5, lora)

  @jax.jit
  def run(lora, key=None):
    params = peft.merge_params(base, lora)['q_einsum']
    rngs = {} if key is None else {'dropout': key}
    return layer.apply({'params': params}, 'BTD,NDH->BTNH', x, rngs=rngs)

  plain = run(lora)
  drops = peft.drop_lora(lora, 0.25)
  np.testing.assert_array_equal(run(drops), plain)
  np.testing.assert_array_equal(run(peft.drop_lora(lora, 0.0), KEY), plain)
  outs = jax.vmap(lambda key: run(drops, key))(jax.random.split(KEY, 20_000))
  assert outs.std(axis=0).min() > 0.01
  error = outs.std(axis=0) / len(outs) ** 0.5
  assert (np.abs(outs.mean(axis=0) - plain) < 5 * error).all()


def test_encoder_drops_too():
  """Adapters of a vision encoder, which Flax's own layers have."""
  case = cases.VISION
  lora = adapters(case.params, targets='vision_encoder/')
  params = peft.merge_params(case.params, lora)
  model = gm.nn.LoRA(rank=4, model=case.model, dropout=0.5)
  images = case.images(1, 1)[0]

  def soft(seed):
    rngs = {} if seed is None else {'dropout': jax.random.key(seed)}
    return model.apply(
      {'params': params}, images, rngs=rngs, method='encode_images'
    )

  plain = case.model.apply({'params': params}, images, method='encode_images')
  np.testing.assert_array_equal(soft(None), plain)
  np.testing.assert_array_equal(soft(1), soft(1))
  assert np.abs(soft(1) - soft(2)).max() > 1e-3


def test_rates_that_are_none():
  with pytest.raises(ValueError, match='dropout=1.0 is not from 0'):
    peft.drop_lora({}, 1.0)
  with pytest.raises(ValueError, match='dropout=-0.1 is not from 0'):
    gm.nn.LoRA(rank=1, model=CASE.model, dropout=-0.1)


def test_loss_keeps_the_numbers_of_adapters():
  """What a loss does to a tree leaves the rest of it, and is undone by none."""
  lora = adapters(CASE.params)
  params = peft.merge_params(CASE.params, lora)
  close(peft.scale_lora(params, 1.0), params, atol=0)
  scaled = peft.split_params(peft.scale_lora(params, 3.0))
  close(scaled.original, peft.split_params(params).original, atol=0)
  close(peft.scale_lora(scaled.lora, 1 / 3), lora, rtol=1e-6)
  both = peft.drop_lora(peft.scale_lora(lora, 2.0), 0.5)
  leaf = both['layer_0']['mlp']['_LoRAEinsum_linear']['lora']
  assert {name: x.shape for name, x in leaf.items()} == {
    'a': (48, 4), 'b': (4, 32), 'dropout': (),
  }  # fmt: skip


# The wrapper.


@pytest.mark.slow
def test_wrapper_has_what_trainers_and_samplers_ask_for(capsys):
  inner = cases.VISION.model.clone(tokens='batch.input', images='batch.image')
  model = gm.nn.LoRA(rank=2, model=inner, dropout=0.1, verbose=True)
  assert model.__kontext_keys__() == inner.__kontext_keys__()
  for name in ('config', 'INFO', 'tokens', 'images', 'remat', 'vision_encoder'):
    assert getattr(model, name) is getattr(inner, name)
  assert model.dtype == jnp.bfloat16  # Its own.
  with pytest.raises(AttributeError, match='no attribute "nonsense"'):
    _ = model.nonsense
  assert model.init_cache(
    batch_size=1, dtype=jnp.float32, cache_length=8
  ).length.shape == (1,)
  tokens = jnp.ones((1, 4), jnp.int32)
  params = model.init(KEY, tokens)['params']
  assert (
    'layer_2/mlp/_LoRAEinsum_linear/lora: a (48, 2)' in capsys.readouterr().out
  )

  # As Kauldron calls it.
  out, state = model.apply(
    {'params': params},
    tokens=tokens,
    rngs={'dropout': KEY},
    mutable=True,
    capture_intermediates=True,
  )
  assert jax.tree.structure(state['params']) == jax.tree.structure(params)
  assert 'layer_0' in state['intermediates']
  assert out.logits.shape == (1, 4, 300)
  hidden = jnp.ones((1, 2, 32))
  logits = model.apply({'params': params}, hidden, method='logits')
  assert logits.shape == (1, 2, 300)


@pytest.mark.slow
@pytest.mark.parametrize('options', [
  {},
  {'use_dora': True},
  {'targets': ('q_proj', 'v_proj'), 'per_head': True},
], ids=str)  # fmt: skip
def test_wrapper_starts_as_the_model(options):
  wrapped = gm.nn.LoRA(rank=2, model=CASE.model, dtype='float32', **options)
  tokens = CASE.tokens(2, 6)
  params = wrapped.init(KEY, tokens)['params']
  plain = CASE.model.init(KEY, tokens)
  out = wrapped.apply({'params': params}, tokens).logits
  expected = CASE.model.apply(plain, tokens).logits
  np.testing.assert_allclose(out, expected, atol=CASE.noise)
  names = {'a', 'b', 'm'} if 'use_dora' in options else {'a', 'b'}
  lora = peft.split_params(params).lora
  attn = lora['layer_0']['attn']['q_einsum']['_LoRAEinsum_0']['lora']
  assert {*attn} == names


# Gradients.


@pytest.mark.slow
@pytest.mark.parametrize('method', ['int8', 'int4'])
def test_adapters_of_integers_train(method):
  """The loss falls, and the integers are what they were."""
  ints = peft.quantize(CASE.params, method=method)
  lora = peft.init_lora(ints, rank=4, rng=KEY, use_dora=True)
  tokens = CASE.tokens(2, 8)
  model = gm.nn.LoRA(rank=4, model=CASE.model, alpha=8.0, dropout=0.1)
  optimizer = optax.adam(1e-2)
  opt_state = optimizer.init(lora)

  @jax.jit
  def step(lora, opt_state, key):
    loss = loss_of(model, ints, tokens, rngs={'dropout': key})
    value, grads = jax.value_and_grad(loss)(lora)
    updates, opt_state = optimizer.update(grads, opt_state)
    return optax.apply_updates(lora, updates), opt_state, value, grads

  values = []
  for i in range(12):
    lora, opt_state, value, grads = step(lora, opt_state, jax.random.key(i))
    values.append(float(value))
  assert values[-1] < 0.7 * values[0]
  for path, grad in jax.tree_util.tree_leaves_with_path(grads):
    assert jnp.isfinite(grad).all() and jnp.abs(grad).max() > 0, path
    assert path[-1].key in {'a', 'b', 'm'}


@pytest.mark.slow
def test_parts_and_heads_train():
  """Every factor has the gradient of the change that it makes."""
  lora = adapters(
    CASE.params, targets=('q_proj', 'v_proj', 'up_proj'), per_head=True
  )
  tokens = CASE.tokens(2, 6)
  adapted = loss_of(CASE.model, CASE.params, tokens)

  def merged(lora):
    params = peft.fuse_params(peft.merge_params(CASE.params, lora))
    return loss_of(CASE.model, params, tokens)({})

  ours, theirs = (
    jax.jit(jax.value_and_grad(x))(lora) for x in (adapted, merged)
  )
  np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
  close(ours[1], theirs[1], atol=2e-5)
