"""Per-layer tables, layers that share keys, and models within models."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import cases
from gemma import gm
from gemma.gm.nn import _per_layer
from gemma.gm.nn import _shapes

BOTH = pytest.mark.parametrize(
  'case', [cases.NAMED['gemma3n'], cases.NAMED['gemma4_per_layer']], ids=str
)
OLD = tuple(map(int, jax.__version__.split('.')[:2])) < (0, 10)


@pytest.mark.skipif(OLD, reason='needs JAX 0.10')
@pytest.mark.parametrize(
  'case',
  [
    cases.NAMED['gemma3n'],
    pytest.param(cases.NAMED['gemma4_per_layer'], marks=cases.EXHAUSTIVE),
  ],
  ids=str,
)
def test_tables_stay_in_host_memory(case):
  """The same tokens, and a device that never holds a table."""
  params = jax.device_put(case.params, gm.nn.host_tables(case.params))
  where = {
    '/'.join(key.key for key in path): x.sharding.memory_kind
    for path, x in jax.tree_util.tree_leaves_with_path(params)
  }
  hosted = [path for path, kind in where.items() if kind == 'pinned_host']
  table = _per_layer.TABLES[case.config.altup is not None]
  assert hosted == [f'embedder/{table}']
  tokens = case.tokens()
  logits = case.model.apply({'params': params}, tokens).logits
  np.testing.assert_array_equal(logits, case.apply(tokens).logits)
  sampler = case.sampler()
  rows = case.prompts(5, 9)
  plain = sampler.sample(rows, max_new_tokens=8, return_state=True)
  hosted = dataclasses.replace(sampler, params=params).sample(
    rows, max_new_tokens=8, return_state=True
  )
  assert hosted.token_ids == plain.token_ids


@pytest.mark.skipif(OLD, reason='needs JAX 0.10')
@pytest.mark.slow
def test_tables_are_read_into_host_memory(tmp_path):
  case = cases.NAMED['gemma4_per_layer']
  gm.ckpts.save_hf(tmp_path / 'm', model=case.model, params=case.params)
  for quantize, name in ((False, ''), ('int8', '_IntEmbedder_')):
    params = gm.ckpts.load_params(
      tmp_path / 'm', sharding=gm.nn.host_tables, quantize=quantize
    )
    tables = params['embedder'][f'{name}per_layer_embeddings']
    kinds = {x.sharding.memory_kind for x in jax.tree.leaves(tables)}
    assert kinds == {'pinned_host'}
    logits = case.model.apply({'params': params}, case.tokens()).logits
    assert np.isfinite(logits).all()


@BOTH
def test_integer_tables(case, tmp_path):
  """Close to the floats, and an eighth of their bytes."""
  gm.ckpts.save_hf(tmp_path / 'm', model=case.model, params=case.params)
  ints = gm.ckpts.load_params(tmp_path / 'm', quantize='int8')
  table = _per_layer.TABLES[case.config.altup is not None]
  stored = ints['embedder'][f'_IntEmbedder_{table}']
  shape = case.params['embedder'][table].shape
  assert stored['kernel'].shape == shape
  assert stored['scale'].shape == (*shape[:2], 1)
  back = stored['kernel'] / stored['scale']
  error = np.abs(back - case.params['embedder'][table])
  assert (error <= 0.51 / stored['scale']).all()
  tokens = case.tokens()
  exact = np.asarray(case.apply(tokens).logits)
  error = case.model.apply({'params': ints}, tokens).logits - exact
  assert np.median(np.abs(error)) < 0.1 * exact.std()


@BOTH
def test_keys_that_nobody_reads(case, tmp_path):
  """Files may have them in layers that read those of another."""
  gm.ckpts.save_hf(tmp_path / 'm', model=case.model, params=case.params)
  file = tmp_path / 'm' / 'model.safetensors'
  tensors = safetensors.numpy.load_file(file)
  last = case.config.num_layers - 1
  for name in ('k_proj', 'v_proj', 'k_norm'):
    tensors[f'model.layers.{last}.self_attn.{name}.weight'] = np.ones((16, 32))
  safetensors.numpy.save_file(tensors, file)
  read = gm.from_pretrained(tmp_path / 'm').params
  jax.tree.map(np.testing.assert_array_equal, read, case.params)
  tensors['model.layers.0.self_attn.other.weight'] = np.ones(3)
  safetensors.numpy.save_file(tensors, file)
  with pytest.raises(ValueError, match='unknown: .*layers.0.self_attn.other'):
    gm.from_pretrained(tmp_path / 'm')
  attn = dict(case.params[f'layer_{last}']['attn'])
  attn |= {'kv_einsum': {'w': jnp.ones((2, 2, 32, 16))}}
  attn |= {'key_norm': {'scale': jnp.ones(16)}}
  layer = {**case.params[f'layer_{last}'], 'attn': attn}
  gm.ckpts.save_params({**case.params, f'layer_{last}': layer}, tmp_path / 'o')
  read = gm.ckpts.load_params(tmp_path / 'o', params=case.params, donate=False)
  jax.tree.map(np.testing.assert_array_equal, read, case.params)


def test_encoders_of_gemma3n_are_left_out(tmp_path):
  """From a folder and from an Orbax checkpoint; not silently."""
  case = cases.NAMED['gemma3n']
  gm.ckpts.save_hf(tmp_path / 'm', model=case.model, params=case.params)
  file = tmp_path / 'm' / 'config.json'
  text = json.loads(file.read_text())
  config = {'model_type': 'gemma3n', 'text_config': text}
  file.write_text(
    json.dumps(config | {'vision_config': {}, 'audio_config': {}})
  )
  file = tmp_path / 'm' / 'model.safetensors'
  tensors = {
    name.replace('model.', 'model.language_model.', 1): x
    for name, x in safetensors.numpy.load_file(file).items()
  }
  for name in ('vision_tower.timm_model', 'audio_tower', 'embed_vision'):
    tensors[f'model.{name}.norm.weight'] = np.ones(3, np.float32)
  safetensors.numpy.save_file(tensors, file)
  with pytest.raises(ValueError, match='encoders of gemma3n .*text_only=True'):
    gm.from_pretrained(tmp_path / 'm')
  read = gm.from_pretrained(tmp_path / 'm', text_only=True).params
  jax.tree.map(np.testing.assert_array_equal, read, case.params)
  more = {'mm_hard_embedding_norm': {'scale': jnp.ones(2)}}
  params = {
    **case.params,
    'embedder': case.params['embedder'] | more,
    'audio_encoder': {'w': jnp.ones(2)},
  }
  gm.ckpts.save_params(params, tmp_path / 'o')
  read = gm.ckpts.load_params(tmp_path / 'o', text_only=True)
  jax.tree.map(np.testing.assert_array_equal, read, case.params)


def test_names_of_older_files(tmp_path):
  """The first files of Gemma 3n call three things otherwise."""
  case = cases.NAMED['gemma3n']
  old = dict(case.params)
  embedder = dict(old['embedder'])
  for mine, theirs in zip(
    ('per_layer_input_embedding', 'per_layer_input_projection'),
    ('per_layer_embeddings', 'per_layer_model_projection'),
    strict=True,
  ):
    embedder[theirs] = embedder.pop(mine)
  for i in range(case.config.num_layers):
    layer = dict(old[f'layer_{i}'])
    layer['laurel_block'] = layer.pop('laurel')
    old[f'layer_{i}'] = layer
  gm.ckpts.save_params({**old, 'embedder': embedder}, tmp_path / 'm')
  read = gm.ckpts.load_params(tmp_path / 'm')
  jax.tree.map(np.testing.assert_array_equal, read, case.params)


def test_e2b_is_in_e4b():
  """Down to the last shape."""
  large, small = gm.nn.Gemma3n_E4B(), gm.nn.Gemma3n_E2B()
  model, shapes = gm.ckpts.slice_matformer(
    large,
    _shapes.param_shapes(large),
    hidden_dims=8192,
    skip_layers=range(20, 25),
  )
  assert model.config == small.config
  assert shapes == _shapes.param_shapes(small)


@pytest.mark.slow
def test_a_slice_is_the_whole_with_the_rest_at_zero():
  """Narrower layers; a layer that is left out may as well do nothing."""
  case = cases.NAMED['gemma3n']
  config = dataclasses.replace(case.config, activation_sparsity=())
  whole = cases.Case('gemma3n', config)
  model, params = gm.ckpts.slice_matformer(
    whole.model, case.params, hidden_dims=[48, 20, 48, 48]
  )
  assert model.config.hidden_dims == (48, 20, 48, 48)
  tokens = case.tokens()
  got = model.apply({'params': params}, tokens).logits
  mlp = dict(case.params['layer_1']['mlp'])
  mlp['linear'] = mlp['linear'].at[20:].set(0)
  layer = {**case.params['layer_1'], 'mlp': mlp}
  zeros = {**case.params, 'layer_1': layer}
  expected = whole.model.apply({'params': zeros}, tokens).logits
  np.testing.assert_allclose(got, expected, atol=case.noise, rtol=0)
  model, params = gm.ckpts.slice_matformer(
    whole.model, case.params, hidden_dims=48, skip_layers=[2]
  )
  assert model.config.num_layers == 3
  assert model.config.num_kv_shared_layers == 1
  np.testing.assert_array_equal(
    params['layer_2']['mlp']['linear'], case.params['layer_3']['mlp']['linear']
  )
  assert np.isfinite(model.apply({'params': params}, tokens).logits).all()


@pytest.mark.parametrize(
  ('fields', 'error'),
  [
    ({'hidden_dims': 99}, r'\(0, 99\).*not within the 48 units'),
    ({'hidden_dims': [1, 2]}, '2 numbers for the 4 layers'),
    ({'hidden_dims': 48, 'skip_layers': [5]}, r'\[5\], but.*0 to 3'),
    ({'hidden_dims': 48, 'skip_layers': [1]}, r'\[1\], whose keys'),
  ],
)
def test_slices_that_are_none(fields, error):
  case = cases.NAMED['gemma3n']
  with pytest.raises(ValueError, match=error):
    gm.ckpts.slice_matformer(case.model, case.params, **fields)
