"""Eight devices compute the numbers of one, with the expected collectives.

Comparisons run in float32. `make mesh` gives the devices.
"""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cases
from gemma import gm
from gemma import peft
from gemma.gm.nn import _shapes

pytestmark = pytest.mark.mesh
PRESETS = 'REPLICATED', 'DATA', 'FSDP', 'TENSOR', 'FSDP_TENSOR', 'EXPERT'
ROWS = 8
# Every preset runs on these two cases, and on the others the one that divides
# weights in most ways.
EVERY_PRESET = 'gemma3_gqa', 'gemma4_experts'


def _combination(case, preset):
  often = case.name in EVERY_PRESET or preset == 'FSDP_TENSOR'
  marks = () if often else pytest.mark.exhaustive
  return pytest.param(case, preset, marks=marks, id=f'{preset}-{case}')


def on_mesh(case, preset):
  """Rules on a mesh, and the parameters of a tiny model there."""
  rules = getattr(gm.sharding, preset).fit(case.params)
  return rules, jax.device_put(case.params, rules(case.params))


def tokens_of(case):
  """Rows with padding behind and in front."""
  tokens = case.tokens(rows=ROWS)
  tokens[1, -5:] = 0
  tokens[2, :7] = 0
  return tokens


def assert_close(actual, expected, case=cases.GEMMA3):
  """To 1e-5 of the largest number of each array.

  The streams of Gemma 3n cancel, and digits with them: there it is ten times as
  much, which any two ways to compute it differ by.
  """
  most = 1e-5 if case.config.altup is None else 1e-4

  def leaf(path, x, y):
    x, y = np.asarray(x), np.asarray(y)
    atol = most * max(1.0, np.abs(y).max())
    np.testing.assert_allclose(x, y, rtol=0, atol=atol, err_msg=str(path))

  jax.tree_util.tree_map_with_path(leaf, actual, expected)


@functools.cache
def loss_of(case):
  """The loss with the logits, and the gradients, as one compiled function."""

  def loss(params, tokens):
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    out = case.model.apply(
      {'params': params}, inputs, return_hidden_states=True
    )
    losses = gm.nn.head_of(params, case.config).losses(
      out.hidden_states, targets
    )
    real = (targets > 0) & (inputs > 0)
    # Logits of padding depend on the layout.
    logits = out.logits * (inputs > 0)[..., None]
    return jnp.sum(jnp.where(real, losses, 0)) / real.sum(), logits

  return jax.jit(jax.value_and_grad(loss, has_aux=True))


def prompts_of(case):
  return case.prompts(5, 9, 3)


@functools.cache
def on_one_device(case):
  """Loss, logits and gradients, and three sampled tokens of each prompt."""
  grads = loss_of(case)(case.params, tokens_of(case))
  out = case.sampler(max_out_length=4).sample(prompts_of(case), logprobs=0)
  return jax.device_get(grads), out


@pytest.mark.parametrize(
  'case, preset',
  [_combination(case, preset) for case in cases.CASES for preset in PRESETS],
)
@pytest.mark.slow
def test_equals_one_device(case, preset):
  """Forward, loss, gradients, sampling."""
  rules, params = on_mesh(case, preset)
  if preset == 'EXPERT' and case.config.experts is None:
    fsdp = gm.sharding.FSDP.fit(case.params)
    assert rules(case.params) == fsdp(case.params)
    return
  grads, expected = on_one_device(case)
  with gm.sharding.use_mesh(rules.mesh):
    batch = rules.put(tokens_of(case))
    assert_close(loss_of(case)(params, batch), grads, case)

  many = case.sampler(max_out_length=4, sharding=rules)
  out = many.sample(prompts_of(case), logprobs=0)
  assert out.text == expected.text
  for a, b in zip(out.logprobs, expected.logprobs, strict=True):
    assert_close(np.asarray(a), np.asarray(b), case)


@pytest.mark.slow
def test_experts_divided_in_every_way():
  """Among devices, along their hidden layers and along the model's width."""
  case = cases.NAMED['gemma4_experts']
  mesh = gm.sharding.make_mesh(expert=2, fsdp=2, tensor=2)
  rules = gm.sharding.FSDP_TENSOR.on(mesh)
  params = jax.device_put(case.params, rules(case.params))
  gating = params['layer_0']['mlp']['gating_einsum']['w']
  assert gating.size == 8 * gating.addressable_shards[0].data.size
  grads, _ = on_one_device(case)
  with gm.sharding.use_mesh(mesh):
    assert_close(loss_of(case)(params, tokens_of(case)), grads, case)


@pytest.mark.parametrize(
  'name',
  [
    'gemma2_by_head_dim',
    pytest.param('gemma3_gqa', marks=pytest.mark.exhaustive),
  ],
)
@pytest.mark.slow
def test_rows_in_parts(name):
  """A row divided among four devices, past windows and parts."""
  case = cases.NAMED[name]
  mesh = gm.sharding.make_mesh(sequence=4, tensor=2)
  rules = gm.sharding.FSDP_TENSOR.on(mesh)
  params = jax.device_put(case.params, rules(case.params))
  tokens = case.tokens(rows=2, length=33)  # A token more than is divided.
  tokens[1, -9:] = 0
  with gm.sharding.use_mesh(mesh):
    grads = loss_of(case)(params, tokens)
  assert_close(grads, loss_of(case)(case.params, tokens))


@pytest.mark.parametrize(
  'preset, rows',
  [('FSDP', 5), pytest.param('FSDP_TENSOR', ROWS, marks=pytest.mark.slow)],
)
def test_training(preset, rows):
  """Stacked layers, three steps, one compilation; the state is divided.

  Rows need not be: 5 of them are filled up to 8.
  """
  case = cases.GEMMA3
  tokens = case.tokens(rows=rows)
  batch = {
    'input': tokens[:, :-1],
    'target': tokens[:, 1:],
    'loss_mask': np.ones_like(tokens[:, 1:], bool),
  }
  model = case.model.clone(scan_layers=True, remat='full')
  stacked = gm.nn.stack_layers(jax.tree.map(jnp.copy, case.params), case.config)
  rules = getattr(gm.sharding, preset).fit(stacked)
  losses = []
  for params in (
    jax.tree.map(jnp.copy, stacked),
    jax.device_put(stacked, rules(stacked)),
  ):
    optimizer = optax.adamw(1e-3)
    state = gm.training.init_state(params, optimizer)
    step = gm.training.make_step(gm.losses.NextToken(model), optimizer)
    evaluate = gm.training.make_eval(gm.losses.NextToken(model))
    row = []
    for _ in range(3):
      state, metrics = step(state, batch)
      row.append(float(metrics['loss']))
    losses.append([*row, evaluate(state, [batch])])
    assert step._update._cache_size() == 1
  np.testing.assert_allclose(*losses, rtol=1e-6)
  kept = state.opt_state[0].mu['embedder']['input_embedding']
  assert kept.addressable_shards[0].data.size * 8 == kept.size


def test_adapters_and_integers():
  """They lie as the weights that they are beside, or stand for."""
  case = cases.GEMMA3
  lora = peft.init_lora(case.params, rank=4, rng=jax.random.key(0))
  mesh = gm.sharding.make_mesh(fsdp=4, tensor=2)
  rules = gm.sharding.FSDP_TENSOR.on(mesh)
  spec = jax.tree.map(lambda x: tuple(x.spec), rules(lora))
  attention = spec['layer_0']['attn']
  q = attention['q_einsum']['_LoRAEinsum_0']['lora']
  assert q == {'a': ('fsdp',), 'b': (None, 'tensor')}
  out = attention['attn_vec_einsum']['_LoRAEinsum_0']['lora']
  assert out == {'a': ('tensor',), 'b': (None, 'fsdp')}
  ints = peft.quantize(case.params, method='int8')
  weights = jax.tree.map(lambda x: tuple(x.spec), rules(case.params))
  stood_for = jax.tree.map(lambda x: tuple(x.spec), rules(ints))
  found = stood_for['layer_0']['attn']['q_einsum']['_IntEinsum_0']
  assert found['kernel'] == weights['layer_0']['attn']['q_einsum']['w']
  assert found['scale'] == ('tensor',)


def test_every_parameter_of_every_size_has_a_rule():
  names = [name for name in dir(gm.nn) if name.startswith('Gemma')]
  for name in names:
    model = getattr(gm.nn, name)
    if not isinstance(model, type) or 'Tiny' in name:
      continue
    shapes = _shapes.param_shapes(model())
    rules = gm.sharding.FSDP_TENSOR.fit(shapes)
    assert rules.mesh.shape == {'fsdp': 4, 'tensor': 2}, name
    local = sum(
      np.prod(sharding.shard_shape(x.shape))
      for x, sharding in zip(
        jax.tree.leaves(shapes), jax.tree.leaves(rules(shapes)), strict=True
      )
    )
    whole = sum(x.size for x in jax.tree.leaves(shapes))
    assert local < 0.2 * whole, (name, local / whole)


def counts(found, kind, part=''):
  return sum(x.times for x in found if x.kind == kind and part in x.source)


def test_tensor_parallel_decoding_sums_twice_a_layer():
  case = cases.GEMMA3
  rules, params = on_mesh(case, 'TENSOR')
  cache = case.model.init_cache(
    batch_size=2, dtype=jnp.float32, cache_length=32, sharding=rules
  )
  with gm.sharding.use_mesh(rules.mesh):
    leaves, structure = jax.tree.flatten(cache)

    @functools.partial(jax.jit, donate_argnums=2)
    def step(params, tokens, leaves):
      cache = jax.tree.unflatten(structure, leaves)
      out = case.model.apply({'params': params}, tokens, cache=cache)
      return jax.tree.leaves(out.cache), out.logits

    tokens = rules.put(case.tokens(rows=2, length=1))
    compiled = step.lower(params, tokens, leaves).compile()
    found = gm.sharding.collectives(compiled)
  layers = [x for x in found if '/layer_' in x.source]
  assert collections.Counter(x.kind for x in layers) == {
    'all-reduce': 2 * case.config.num_layers
  }
  # And one to look up the tokens in parts of the table.
  assert len(found) == len(layers) + 1


def test_fsdp_gathers_and_scatters_each_weight_once():
  case = cases.GEMMA3
  rules, params = on_mesh(case, 'FSDP')
  grads = jax.jit(loss_of(case), out_shardings=(None, rules(case.params)))
  with gm.sharding.use_mesh(rules.mesh):
    tokens = rules.put(tokens_of(case))
    found = gm.sharding.collectives(grads.lower(params, tokens).compile())
  weights = ['q_einsum', 'kv_einsum', 'attn_vec_einsum', 'mlp']
  assert counts(found, 'all-gather', '/layer_') == 5 * case.config.num_layers
  assert counts(found, 'reduce-scatter', '/layer_') == (
    5 * case.config.num_layers
  )
  for i in range(case.config.num_layers):
    for name in weights:
      gathers = [
        x
        for x in found
        if x.kind == 'all-gather'
        and f'/layer_{i}/' in x.source
        and name in x.source
      ]
      assert len(gathers) == (2 if name == 'mlp' else 1), (i, name)


def test_errors_name_both_sides():
  params = {'layer_0': {'attn': {'q_einsum': {'w': np.zeros((4, 30, 16))}}}}
  fsdp = gm.sharding.FSDP.on(gm.sharding.make_mesh(fsdp=8))
  with pytest.raises(ValueError, match="embed has 30.*the 8 devices.*'fsdp'"):
    fsdp(params)
  with pytest.raises(ValueError, match='layer_0/new .*no rule knows'):
    fsdp({'layer_0': {'new': np.zeros((8, 8))}})
  twice = gm.sharding.Rules(
    'MINE', mesh=fsdp.mesh, weights={'heads': ('fsdp',)}
  )
  with pytest.raises(ValueError, match="'fsdp' would divide both heads and em"):
    twice({'layer_0': {'attn': {'q_einsum': {'w': np.zeros((8, 32, 16))}}}})
  with pytest.raises(ValueError, match='multiply to 8'):
    gm.sharding.make_mesh(fsdp=3)
  with pytest.raises(ValueError, match='do not divide among 8 devices'):
    fsdp.put({'input': np.zeros((3, 4))})
  with pytest.raises(ValueError, match='has no mesh yet'):
    gm.sharding.FSDP.put(np.zeros(8))
  mesh = jax.make_mesh((8,), ('x',))
  with pytest.raises(ValueError, match='none of which is known'):
    gm.sharding.FSDP.on(mesh)
