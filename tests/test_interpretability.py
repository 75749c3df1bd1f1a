"""Flax's interceptors and captures: seen in every pass, gone afterwards."""

import functools

from flax import linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from gemma import gm
from gemma.gm.nn import _compiled

ALL = pytest.mark.parametrize('case', cases.CASES, ids=str)


def edit(name, change):
  """An interceptor that changes the residual stream behind a layer."""

  def interceptor(next_fun, args, kwargs, context):
    out = next_fun(*args, **kwargs)
    if not isinstance(context.module, gm.nn.Block):
      return out
    assert context.method_name in ('setup', '__call__')
    if context.module.name != name or context.method_name == 'setup':
      return out
    *rest, x = out
    return *rest, change(x)

  return nn.intercept_methods(interceptor)


@functools.cache
def program(case):
  """A pass with an edit behind the last layer, its records and gradients."""
  last = f'layer_{case.config.num_layers - 1}'

  @jax.jit
  def run(params, tokens, embeds, keep=1.0, strength=0.0, patch=None, at=-1):
    def change(x):
      steered = keep * x + strength
      if patch is None:
        return steered
      return jnp.where((jnp.arange(x.shape[-2]) == at)[:, None], patch, steered)

    def answer(embeds):
      with edit(last, change):
        out, state = case.model.apply(
          {'params': params},
          tokens,
          inputs_embeds=embeds,
          mutable=['intermediates'],
        )
      return out.logits[0, -1, 7], (out.logits, state['intermediates'])

    (_, aux), grad = jax.value_and_grad(answer, has_aux=True)(embeds)
    return *aux, grad

  return run, last


def run_of(case, tokens):
  """The program with a stream to patch, which leaves all as it is."""
  run, last = program(case)
  embeds = case.model.apply({'params': case.params}, tokens, method='embed')
  streams = case.config.altup.num_inputs if case.config.altup else None
  shape = embeds.shape if streams is None else (streams, *embeds.shape)
  run = functools.partial(
    run, case.params, tokens, patch=jnp.zeros(shape), at=-1
  )
  return run, last, embeds


@ALL
def test_a_layer_is_zeroed_patched_and_steered(case):
  tokens = jnp.asarray(case.tokens())
  run, last, embeds = run_of(case, tokens)
  logits, kept, grad = run(embeds=embeds)
  plain = case.apply(tokens).logits
  np.testing.assert_allclose(logits, plain, atol=case.noise)

  zeroed, _, no_grad = run(embeds=embeds, keep=0.0)
  assert not zeroed.any() and not no_grad.any()

  other, streams, _ = run(embeds=embeds[::-1])
  patched, _, _ = run(
    embeds=embeds, patch=streams[last]['residual_stream'][0], at=5
  )
  np.testing.assert_array_equal(patched[:, 5], other[:, 5])
  np.testing.assert_array_equal(
    np.delete(patched, 5, 1), np.delete(logits, 5, 1)
  )

  stream = kept[last]['residual_stream'][0]
  lens = functools.partial(
    case.model.apply, {'params': case.params}, method='logit_lens'
  )
  for strength in (0.0, 0.5, -2.0):
    steered, _, _ = run(embeds=embeds, strength=strength)
    wanted = lens(stream + strength)
    np.testing.assert_allclose(steered, wanted, atol=case.noise)

  # The gradient to the vectors is the slope along a direction.
  step = 2e-4 * jnp.sign(grad)
  ends = [run(embeds=embeds + s)[0][0, -1, 7] for s in (step, -step)]
  np.testing.assert_allclose(
    ends[0] - ends[1], 4e-4 * jnp.abs(grad).sum(), rtol=0.1
  )


@ALL
def test_attention_maps_and_streams_of_each_layer(case):
  tokens = jnp.asarray(case.tokens())
  run, _, embeds = run_of(case, tokens)
  _, kept, _ = run(embeds=embeds)
  for i, spec in enumerate(case.config.layers()):
    layer = kept[f'layer_{i}']
    (weights,) = layer['attn']['attention_weights']['__call__']
    length = tokens.shape[1]
    assert weights.shape == (3, length, spec.num_heads, length)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    ahead = np.triu(np.ones((length, length), bool), 1)
    if spec.window is not None:
      ahead |= np.tril(np.ones((length, length), bool), -spec.window)
    assert not np.swapaxes(weights, 1, 2)[..., ahead].any()
    (stream,) = layer['residual_stream']
    assert stream.shape[-3:] == (*tokens.shape, case.config.embed_dim)


# In eager calls.


def streams_of(module, method):
  return isinstance(module, gm.nn.Block) and method == '__call__'


def test_eager_passes_see_what_is_around_them_and_nothing_else(monkeypatch):
  case, tokens = cases.GEMMA3, cases.GEMMA3.tokens()
  plain = case.apply(tokens).logits
  halves = []
  for strength in (0.5, 0.0):
    with edit('layer_3', lambda x, strength=strength: x * strength):
      halves.append(case.apply(tokens).logits)
  assert np.abs(halves[0] - plain).max() > 1e-2
  assert np.abs(halves[0] - halves[1]).max() > 1e-2
  np.testing.assert_array_equal(case.apply(tokens).logits, plain)

  for keep in (streams_of, lambda m, _: isinstance(m, gm.nn.FeedForward)):
    out, state = case.apply(tokens, capture_intermediates=keep)
    np.testing.assert_allclose(out.logits, plain, atol=case.noise)
    layer = state['intermediates']['layer_3']
    assert ('__call__' in layer) == (keep is streams_of)
    assert ('mlp' in layer) == (keep is not streams_of)
    assert 'attn' not in layer

  def attention(self, *args, **kwargs):
    cache, shared, x = original(self, *args, **kwargs)
    return cache, shared, 0 * x

  original = gm.nn.Attention.__call__
  with monkeypatch.context() as patch:
    patch.setattr(gm.nn.Attention, '__call__', attention)
    assert np.abs(case.apply(tokens).logits - plain).max() > 1e-2
  np.testing.assert_array_equal(case.apply(tokens).logits, plain)


def test_attention_weights_can_be_changed():
  """An interceptor that looks keeps the numbers; one that edits has its way."""
  case, tokens = cases.GEMMA3, cases.GEMMA3.tokens()

  def of(change):
    def interceptor(next_fun, args, kwargs, context):
      out = next_fun(*args, **kwargs)
      if context.module.name == 'attention_weights':
        return change(out)
      return out

    with nn.intercept_methods(interceptor):
      return case.apply(tokens).logits

  plain = case.apply(tokens).logits
  np.testing.assert_allclose(of(lambda x: x), plain, atol=case.noise)
  np.testing.assert_allclose(of(lambda x: 1 * x), plain, atol=case.noise)
  without = of(lambda x: x.at[:, :, 1].set(0))
  assert np.abs(without - plain).max() > 1e-2


def test_layers_of_a_scan_are_recorded():
  case = cases.GEMMA3
  model = case.model.clone(scan_layers=True)
  params = gm.nn.stack_layers(case.params, case.config)
  _, state = model.apply(
    {'params': params}, case.tokens(), mutable=['intermediates']
  )
  _, wanted = case.apply(case.tokens(), mutable=['intermediates'])
  wanted = wanted['intermediates']
  stacks = [name for name in params if name.startswith('layers_')]
  for name in stacks:
    period = state['intermediates'][name]
    for i in range(case.config.num_layers):
      place = i % len(period)
      if i // len(period) < period['layer_0']['residual_stream'][0].shape[0]:
        got = period[f'layer_{place}']['residual_stream'][0][i // len(period)]
        np.testing.assert_allclose(
          got, wanted[f'layer_{i}']['residual_stream'][0], atol=1e-3
        )


def test_interceptors_reach_samplers_and_losses(wide):
  sampler = gm.text.Sampler(**wide, cache_length=64)

  def said():
    return sampler.sample('ROMEO:', max_new_tokens=8)

  loss = gm.losses.NextToken(wide['model'])
  ids = np.array([wide['tokenizer'].encode('The fox sat.', add_bos=True)])
  batch = {'input': ids[:, :-1], 'target': ids[:, 1:]}
  batch['loss_mask'] = np.ones_like(batch['target'], bool)

  def lost():
    return float(loss(wide['params'], batch).value)

  plain = said(), lost()
  zero = edit('layer_2', lambda x: 0 * x)
  with zero:
    inside = said(), lost()
  assert inside[0] != plain[0] and inside[1] != plain[1]
  assert (said(), lost()) == plain


def test_private_methods_are_no_methods_of_flax():
  """A hook on a class gets arrays, once for each call."""
  for cls in (*_compiled.PARTS, gm.nn.Transformer, gm.nn.LoRA):
    for name, value in vars(cls).items():
      if name.startswith('_') and not name.startswith('__') and callable(value):
        assert not hasattr(value, 'method_handler_wrapped'), (cls, name)


def test_all_parts_of_models_are_known():
  found = set()

  def look(next_fun, args, kwargs, context):
    found.add(type(context.module))
    return next_fun(*args, **kwargs)

  def run(case, tokens, **kwargs):
    def logits(params):
      return case.model.apply({'params': params}, tokens, **kwargs).logits

    jax.eval_shape(logits, case.params)

  with nn.intercept_methods(look):
    for case in cases.CASES:
      run(case, case.tokens())
    images = cases.VISION.images()
    run(cases.VISION, cases.VISION.picture_prompts(), images=images)
  ours = {cls for cls in found if cls.__module__.startswith('gemma.gm')}
  known = {*_compiled.PARTS, gm.nn.Transformer}
  assert {cls for cls in ours if not issubclass(cls, tuple(known))} == set()


# JAX's own settings and tools.


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('case', cases.DISTINCT, ids=str)
def test_strict_promotion(case, dtype):
  params = jax.tree.map(lambda x: x.astype(dtype), case.params)
  tokens = jnp.asarray(case.tokens())

  def loss(params, cache):
    out = case.model.apply({'params': params}, tokens, cache=cache)
    return out.logits.sum()

  with jax.numpy_dtype_promotion('strict'):
    for cache in (None, case.cache(dtype=dtype)):
      jax.eval_shape(jax.grad(loss), params, cache)


@pytest.mark.parametrize('case', cases.DISTINCT, ids=str)
def test_export_with_symbolic_sizes(case):
  def last(params, tokens):
    out = case.model.apply({'params': params}, tokens, return_last_only=True)
    return out.logits

  shape = jax.ShapeDtypeStruct(jax.export.symbolic_shape('b, t'), jnp.int32)
  exported = jax.export.export(jax.jit(last))(case.params, shape)
  got = exported.call(case.params, case.tokens())
  np.testing.assert_allclose(
    got, case.apply(case.tokens()).logits[:, -1], atol=case.noise
  )


def test_vectors_that_do_not_fit():
  case, tokens = cases.VISION, cases.VISION.tokens()
  embeds = np.zeros((*tokens.shape, 32), np.float32)
  with pytest.raises(ValueError, match=r'\(3, 24, 31\) instead of \(3, 24, 32'):
    case.apply(tokens, inputs_embeds=embeds[..., :-1])
  with pytest.raises(ValueError, match='Encode them first'):
    prompts = case.picture_prompts()
    case.apply(prompts, inputs_embeds=embeds[:, :16], images=case.images())
