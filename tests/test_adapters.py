"""Adapters: in the model, folded into the weights, in and out of folders."""

import functools
import json

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import cases
from gemma import gm
from gemma import peft
from gemma.gm.ckpts import _hf_layout

MODULES = r'^(?!embedder)'  # All that are modules in PEFT.
# Between them they have every kind of weight. How adapters are computed is
# tested in `test_peft_fuse.py`.
FEW = cases.some(
  'gemma1_mqa', 'gemma3n', 'gemma4_experts', among=cases.DISTINCT
)


def adapters(params, rank=3, targets=r'^layer_', per_head=False):
  """Random adapters that change what a model says, float32."""
  key = jax.random.key(0)
  lora = peft.init_lora(
    params, rank=rank, rng=key, targets=targets, per_head=per_head
  )
  rng = np.random.RandomState(0)
  return jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.2, x.shape), 'float32'), lora
  )


def same(left, right):
  assert jax.tree.structure(left) == jax.tree.structure(right)
  jax.tree.map(np.testing.assert_array_equal, left, right)


def test_split_and_merge_are_inverse():
  params = cases.CASES[0].params
  lora = adapters(params)
  both = peft.merge_params(params, lora)
  split = peft.split_params(both)
  same(split.lora, lora)
  same(peft.merge_params(*split), both)
  # Dicts that held adapters only are left in place.
  assert split.original['layer_0']['attn']['q_einsum']['_LoRAEinsum_0'] == {}
  with pytest.raises(ValueError, match="Both trees have 'a'"):
    peft.merge_params(both, lora)


def test_fuse_lists_what_has_no_weight():
  lora = {'a': jnp.ones((2, 1)), 'b': jnp.ones((1, 2))}
  with pytest.raises(ValueError, match='without a weight.*far/lora'):
    peft.fuse_params({'far': {'lora': lora}})
  w = jnp.ones((2, 3))
  with pytest.raises(ValueError, match=r'does not fit it: a \(2, 1\)'):
    peft.fuse_params({'x': {'w': w, '_LoRAEinsum_0': {'lora': lora}}})


def test_fuse_of_flax_layers():
  a, b = jnp.ones((2, 1)), jnp.ones((1, 3))
  layer = {'kernel': jnp.zeros((2, 3)), 'lora': {'a': a, 'b': b}}
  fused = peft.fuse_params({'Dense_0': layer})
  same(fused, {'Dense_0': {'kernel': jnp.ones((2, 3))}})


@pytest.mark.parametrize('case', (*cases.DISTINCT, cases.VISION), ids=str)
def test_folder_round_trip(case, tmp_path):
  lora = adapters(case.params, targets=MODULES)
  params = peft.merge_params(case.params, lora)
  gm.ckpts.save_adapter(tmp_path / 'a', model=case.model, params=params)
  assert [file.name for file in sorted((tmp_path / 'a').iterdir())] == [
    'adapter_config.json',
    'adapter_model.safetensors',
  ]
  same(gm.ckpts.load_adapter(tmp_path / 'a', model=case.model), lora)
  with pytest.raises(FileExistsError):
    gm.ckpts.save_adapter(tmp_path / 'a', model=case.model, params=params)


def test_ranks_may_differ(tmp_path):
  case = cases.GEMMA3
  lora = adapters(case.params)
  wide = adapters(case.params, rank=5)
  lora['layer_1'] = {'mlp': wide['layer_1']['mlp']}
  del lora['layer_0']['attn']['q_einsum']
  gm.ckpts.save_adapter(tmp_path / 'a', model=case.model, params=lora)
  config = json.loads((tmp_path / 'a/adapter_config.json').read_text())
  assert config['r'] == config['lora_alpha'] == 5
  assert config['rank_pattern']['layers.0.self_attn.k_proj'] == 3
  assert 'layers.1.mlp.up_proj' in config['target_modules']
  same(gm.ckpts.load_adapter(tmp_path / 'a', model=case.model), lora)


def edited(folder, **config):
  file = folder / 'adapter_config.json'
  file.write_text(json.dumps(json.loads(file.read_text()) | config))
  return folder


def test_factor_of_peft_goes_into_b(tmp_path):
  case = cases.CASES[0]
  lora = adapters(case.params, rank=4)
  gm.ckpts.save_adapter(tmp_path / 'a', model=case.model, params=lora)
  patterns = {r'self_attn\.q_proj': 2}
  folder = edited(tmp_path / 'a', lora_alpha=8, alpha_pattern=patterns)
  read = gm.ckpts.load_adapter(folder, model=case.model)
  same(read['layer_0']['mlp'], jax.tree.map(
    lambda x: x * (2 if x.shape[0] == 4 else 1), lora['layer_0']['mlp']
  ))  # fmt: skip
  name, attn = '_LoRAEinsum_0', 'layer_0'
  b = read[attn]['attn']['q_einsum'][name]['lora']['b']
  same(b, lora[attn]['attn']['q_einsum'][name]['lora']['b'] / 2)
  folder = edited(folder, use_rslora=True, alpha_pattern={})
  read = gm.ckpts.load_adapter(folder, model=case.model)
  b = read[attn]['attn']['q_einsum'][name]['lora']['b']
  same(b, lora[attn]['attn']['q_einsum'][name]['lora']['b'] * 4)


def alphas(folder):
  config = json.loads((folder / 'adapter_config.json').read_text())
  keys = 'r', 'lora_alpha', 'use_rslora', 'use_dora', 'lora_dropout'
  return tuple(config[key] for key in keys)


def test_factor_of_the_wrapper_is_written_down(tmp_path):
  """`b` is the same there and here, and so is the factor."""
  case = cases.GEMMA3
  lora = adapters(case.params, rank=4)
  wide = adapters(case.params, rank=9, targets=r'^layer_1/mlp')
  lora['layer_1']['mlp'] = wide['layer_1']['mlp']
  for name, fields, expected in (
    ('a', {'alpha': 6.0}, (9, 13.5, False, False, 0.1)),
    ('b', {'alpha': 6.0, 'use_rslora': True}, (9, 9.0, True, False, 0.1)),
    ('c', {}, (9, 9, False, False, 0.1)),
  ):
    model = gm.nn.LoRA(rank=4, model=case.model, dropout=0.1, **fields)
    gm.ckpts.save_adapter(tmp_path / name, model=model, params=lora)
    assert alphas(tmp_path / name) == expected
    same(gm.ckpts.load_adapter(tmp_path / name, model=model), lora)
    plain = gm.ckpts.load_adapter(tmp_path / name, model=case.model)
    scaled = peft.scale_lora(lora, model.factor)
    assert jax.tree.structure(plain) == jax.tree.structure(scaled)
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), plain, scaled
    )


PARTS = ('q_proj', 'v_proj', 'up_proj')


@pytest.mark.slow
@pytest.mark.parametrize('use_dora, per_head', [(False, True), (True, False)])
@pytest.mark.parametrize('case', FEW, ids=str)
def test_parts_in_folders(case, use_dora, per_head, tmp_path):
  """Adapters of values alone, of gates alone, per head: PEFT has all."""
  lora = adapters(case.params, targets=PARTS, per_head=per_head)
  if use_dora:
    lora = peft.set_magnitudes(lora, case.params)
    lora = jax.tree.map(lambda x: x * 1.25, lora)
  gm.ckpts.save_adapter(tmp_path / 'a', model=case.model, params=lora)
  tensors = safetensors.numpy.load_file(
    tmp_path / 'a' / 'adapter_model.safetensors'
  )
  assert {name.split('.')[-3 + ('vector' in name)] for name in tensors} <= {
    *PARTS,
    *('q_proj', 'k_proj'),
  }
  read = gm.ckpts.load_adapter(tmp_path / 'a', model=case.model)
  if not per_head:
    same(read, lora)
    return
  tokens = case.tokens()
  ours, theirs = (
    case.model.apply(
      {'params': peft.merge_params(case.params, tree)}, tokens
    ).logits
    for tree in (lora, read)
  )
  np.testing.assert_allclose(theirs, ours, atol=case.noise)


def test_what_cannot_be_written_is_refused(tmp_path):
  case = cases.GEMMA3
  lora = adapters(case.params, targets=('q_proj', 'v_proj'))
  half = dict(lora)
  half['layer_0'] = peft.set_magnitudes(lora, case.params)['layer_0']
  save = functools.partial(
    gm.ckpts.save_adapter, tmp_path / 'a', model=case.model
  )
  with pytest.raises(ValueError, match='for all or none.*set_magnitudes'):
    save(params=half)
  both = peft.init_lora(
    case.params, rank=2, rng=jax.random.key(0), targets='layer_0/.*kv_einsum'
  )
  with pytest.raises(ValueError, match='twice, for all and a part: layer_0'):
    save(params=peft.merge_params(both, lora))
  with pytest.raises(ValueError, match='not NESTED.*gm.nn.unstack_layers'):
    save(params={'layers_0_7': {'layer_0': lora['layer_0']}})
  assert not (tmp_path / 'a').exists()


def test_what_cannot_be_read_is_refused(tmp_path):
  case, other = cases.CASES[0], cases.GEMMA3
  path = tmp_path / 'a'
  params = adapters(case.params)
  gm.ckpts.save_adapter(path, model=case.model, params=params)
  with pytest.raises(ValueError, match='more than LoRA.*qalora.*merge_and'):
    gm.ckpts.load_adapter(edited(path, use_qalora=True), model=case.model)
  edited(path, use_qalora=False)
  with pytest.raises(ValueError, match='mis-shaped: .*magnitudes None'):
    gm.ckpts.load_adapter(edited(path, use_dora=True), model=case.model)
  edited(path, use_dora=False)
  with pytest.raises(ValueError, match='holds IA3; only LORA'):
    gm.ckpts.load_adapter(edited(path, peft_type='IA3'), model=case.model)
  edited(path, peft_type='LORA')
  with pytest.raises(ValueError, match=r'mis-shaped: layers.0.*\(') as e:
    gm.ckpts.load_adapter(path, model=other.model)
  assert str(e.value).count('mis-shaped') > 3
  file = path / 'adapter_model.safetensors'
  tensors = safetensors.numpy.load_file(file)
  more = tensors | {'base_model.model.lm_head.lora_A.weight': np.ones((2, 2))}
  safetensors.numpy.save_file(more, file)
  with pytest.raises(ValueError, match=r'unknown: lm_head.lora_A'):
    gm.ckpts.load_adapter(path, model=case.model)
  file.write_bytes(file.read_bytes()[:-9])
  with pytest.raises(ValueError, match='damaged or cut short'):
    gm.ckpts.load_adapter(path, model=case.model)
  file.unlink()
  with pytest.raises(FileNotFoundError, match='No adapter_model.safetensors'):
    gm.ckpts.load_adapter(path, model=case.model)
  with pytest.raises(ValueError, match='have no adapters'):
    gm.ckpts.save_adapter(tmp_path / 'b', model=case.model, params=case.params)
  with pytest.raises(ValueError, match='unknown: (?s:.*)do not fit|unknown'):
    gm.ckpts.save_adapter(
      tmp_path / 'b', model=case.model, params={'far': params['layer_0']}
    )
  assert not (tmp_path / 'b').exists()


@pytest.mark.parity
@pytest.mark.filterwarnings('ignore')  # Those of peft and transformers.
@pytest.mark.parametrize('case', (*FEW, cases.VISION), ids=str)
def test_peft_opens_what_is_saved(case, tmp_path):
  import peft as hf_peft

  import hf

  params = peft.merge_params(case.params, adapters(case.params))
  gm.ckpts.save_hf(tmp_path / 'base', model=case.model, params=case.params)
  gm.ckpts.save_adapter(tmp_path / 'a', model=case.model, params=params)
  tokens = case.tokens()
  ours = case.model.apply({'params': params}, tokens).logits
  vision = case.config.vision_encoder is not None
  read = hf.read_picture_model if vision else hf.read_model
  model = hf_peft.PeftModel.from_pretrained(
    read(tmp_path / 'base'), tmp_path / 'a'
  )
  assert not any('vision_tower' in m for m in model.targeted_module_names)
  np.testing.assert_allclose(
    hf.logits(model, tokens), ours, atol=case.tolerance
  )


@pytest.mark.parity
@pytest.mark.filterwarnings('ignore')  # Those of peft and transformers.
@pytest.mark.parametrize(
  'case, targets',
  [
    pytest.param(
      case,
      targets,
      marks=[] if case.name in names.split() else cases.EXHAUSTIVE,
    )
    for targets, names in (
      (['q_proj', 'v_proj'], 'gemma1_mqa gemma3n'),
      ('all-linear', 'gemma3_gqa gemma3n gemma4_experts'),
    )
    for case in cases.DISTINCT
  ],
  ids=str,
)
def test_what_peft_saves_is_opened(case, targets, tmp_path):
  import peft as hf_peft
  import torch

  import hf

  gm.ckpts.save_hf(tmp_path / 'base', model=case.model, params=case.params)
  config = hf_peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets)
  model = hf_peft.get_peft_model(hf.read_model(tmp_path / 'base'), config)
  torch.manual_seed(0)
  for name, param in model.named_parameters():
    if 'lora_' in name:
      torch.nn.init.normal_(param, 0, 0.2)
  model.save_pretrained(tmp_path / 'a')
  if case.config.altup is not None and targets == 'all-linear':
    with pytest.raises(ValueError, match='unknown: altup_projections.0'):
      gm.ckpts.load_adapter(tmp_path / 'a', model=case.model)
    return
  lora = gm.ckpts.load_adapter(tmp_path / 'a', model=case.model)
  params = peft.merge_params(case.params, lora)
  tokens = case.tokens()
  ours = case.model.apply({'params': params}, tokens).logits
  np.testing.assert_allclose(
    hf.logits(model.eval(), tokens), ours, atol=case.tolerance
  )
  assert _hf_layout.HEAD not in lora


@pytest.mark.parity
@pytest.mark.filterwarnings('ignore')  # Those of peft and transformers.
def test_peft_with_adapters_of_the_encoder(tmp_path):
  """There and back, with pictures to look at."""
  import peft as hf_peft

  import hf

  case = cases.VISION
  lora = adapters(case.params, targets=MODULES)
  params = peft.merge_params(case.params, lora)
  gm.ckpts.save_hf(tmp_path / 'base', model=case.model, params=case.params)
  gm.ckpts.save_adapter(tmp_path / 'a', model=case.model, params=params)
  model = hf_peft.PeftModel.from_pretrained(
    hf.read_picture_model(tmp_path / 'base'), tmp_path / 'a'
  )
  assert any('vision_tower' in m for m in model.targeted_module_names)
  tokens, images = case.tokens(2, 12) % 280 + 1, case.images(2, 1)
  tokens[:, 3] = case.config.image_tokens.start
  ours = case.model.apply({'params': params}, tokens, images=images).logits
  row, place = gm.vision.expand(
    jnp.asarray(tokens), images=1, count=4, ids=case.config.image_tokens
  )
  theirs = hf.picture_logits(model.base_model.model, row, images)
  theirs = np.take_along_axis(theirs, np.asarray(place)[:, :, None], axis=1)
  np.testing.assert_allclose(ours, theirs, atol=case.tolerance)
  plain = case.model.apply({'params': case.params}, tokens, images=images)
  assert np.abs(plain.logits - ours).max() > 0.01

  model.save_pretrained(tmp_path / 'back')
  same(gm.ckpts.load_adapter(tmp_path / 'back', model=case.model), lora)


# Adapters that are new.

SHAPES = {  # D 32, N 4, K 2, H 16, F 48; rank 4.
  'attn/q_einsum/_LoRAEinsum_0': ((32, 4), (4, 4, 16)),
  'attn/kv_einsum/_LoRAEinsum_0': ((32, 4), (4, 2, 2, 16)),
  'attn/attn_vec_einsum/_LoRAEinsum_0': ((4, 16, 4), (4, 32)),
  'mlp/_LoRAEinsum_gating_einsum': ((32, 4), (4, 2, 48)),
  'mlp/_LoRAEinsum_linear': ((48, 4), (4, 32)),
}


def shapes_of(case, **kwargs):
  """Shapes of the parameters of a model with adapters."""
  model = gm.nn.LoRA(model=case.model, **kwargs)
  tokens = jnp.ones((1, 4), jnp.int32)
  return jax.eval_shape(model.init, jax.random.key(0), tokens)['params']


def test_shapes_are_the_published_ones():
  params = shapes_of(cases.GEMMA3, rank=4)
  flat = traverse_util.flatten_dict(peft.split_params(params).lora, sep='/')
  shapes = {
    name.removeprefix('layer_0/'): x.shape
    for name, x in flat.items()
    if name.startswith('layer_0/')
  }
  expected = {
    f'{name}/lora/{part}': shape
    for name, both in SHAPES.items()
    for part, shape in zip('ab', both, strict=True)
  }
  assert shapes == expected
  assert all(x.dtype == jnp.bfloat16 for x in flat.values())


@pytest.mark.parametrize('case', (*FEW, cases.VISION), ids=str)
def test_new_adapters_change_nothing_at_first(case):
  model = gm.nn.LoRA(model=case.model, rank=2, dtype=jnp.float32)
  made = model.init(jax.random.key(0), jnp.ones((1, 4), jnp.int32))['params']
  lora = peft.split_params(made).lora
  params = peft.merge_params(case.params, lora)
  tokens = case.tokens() % 280 + 1
  out = model.apply({'params': params}, tokens).logits
  # Beside their zeros, another program may round in another order.
  expected = case.apply(tokens).logits
  np.testing.assert_allclose(out, expected, atol=case.noise, rtol=0)
  assert {len(x.shape) for x in jax.tree.leaves(lora)} >= {2, 3}


def test_adapters_of_integers():
  """A base that was quantized has the same adapters, in the same places."""
  case = cases.CASES[0]
  key = jax.random.key(0)
  ints = peft.quantize(case.params, method='int8')
  lora = peft.init_lora(ints, rank=3, rng=key)
  same(lora, peft.init_lora(case.params, rank=3, rng=key))
  params = peft.merge_params(ints, adapters(case.params))
  out = case.model.apply({'params': params}, case.tokens()).logits
  plain = case.model.apply({'params': ints}, case.tokens()).logits
  assert np.abs(out - plain).max() > 0.01


def test_only_the_targets():
  case = cases.CASES[0]
  params = shapes_of(case, rank=1, targets=('layer_1/attn', 'linear$'))
  names = traverse_util.flatten_dict(peft.split_params(params).lora, sep='/')
  assert {name.split('/')[1] for name in names} == {'attn', 'mlp'}
  assert not any(name.startswith('layer_0/attn') for name in names)
  with pytest.raises(ValueError, match="targets='x_proj' matches none of"):
    shapes_of(case, rank=1, targets='x_proj')
  with pytest.raises(ValueError, match='rank=0 is below 1'):
    shapes_of(case, rank=0)


def test_a_rank_does_not_stick():
  """Programs of one rank are not used for another."""
  for rank in (2, 3):
    params = shapes_of(cases.CASES[0], rank=rank)
    lora = peft.split_params(params).lora
    assert {min(x.shape) for x in jax.tree.leaves(lora)} <= {1, 2, rank}


@pytest.mark.slow
def test_published_way_to_sample(tiny):
  """The calls of the published notebook."""
  model = gm.nn.LoRA(rank=4, model=gm.nn.Gemma3_Tiny())
  tokens = jnp.zeros((1, 256), jnp.int32)
  params = model.init(jax.random.key(0), tokens)['params']
  original, lora = peft.split_params(params)
  path = gm.ckpts.CheckpointPath.GEMMA3_TINY_IT
  params = peft.merge_params(gm.ckpts.load_params(path, params=original), lora)
  prompt = jnp.asarray(tiny.tokenizer.encode('ROMEO:', add_bos=True))
  out = model.apply({'params': params}, tokens=prompt, return_last_only=True)
  assert out.logits.shape == (tiny.model.config.num_embed,)
  chat = gm.text.ChatSampler(
    model=model, params=params, tokenizer=tiny.tokenizer
  )
  assert chat.chat('What is 7 + 5?') == '12'
