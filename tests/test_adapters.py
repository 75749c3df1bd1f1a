"""Adapters: in the model, folded into the weights, in and out of folders."""

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
from gemma.peft import _weights


def adapters(params, rank=3):
  """Random adapters of all weights, float32."""
  flat = traverse_util.flatten_dict(params)
  out, rng = {}, np.random.RandomState(0)
  for weight in _weights.weights(_weights.without_media(params)):
    w = flat[weight.path]
    kept = [n for i, n in enumerate(w.shape) if i not in weight.summed]
    where = (*weight.stand_in('LoRAEinsum'), 'lora')
    shapes = {'a': [*(w.shape[i] for i in weight.summed), rank]}
    shapes['b'] = [rank, *kept]
    for name, shape in shapes.items():
      out[(*where, name)] = jnp.asarray(rng.normal(0, 0.2, shape), 'float32')
  return traverse_util.unflatten_dict(out)


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


@pytest.mark.parametrize('case', cases.CASES, ids=str)
def test_model_uses_adapters_as_if_fused(case):
  params = peft.merge_params(case.params, adapters(case.params))
  tokens = case.tokens()
  plain = case.apply(tokens).logits
  adapted = case.model.apply({'params': params}, tokens).logits
  fused = peft.fuse_params(params)
  assert jax.tree.structure(fused) == jax.tree.structure(case.params)
  np.testing.assert_allclose(
    case.model.apply({'params': fused}, tokens).logits, adapted, atol=5e-5
  )
  assert np.abs(adapted - plain).max() > 0.1


def test_fuse_lists_what_has_no_weight():
  lora = {'a': jnp.ones((2, 1)), 'b': jnp.ones((1, 2))}
  with pytest.raises(ValueError, match='without a weight.*far/lora/a'):
    peft.fuse_params({'far': {'lora': lora}})
  w = jnp.ones((2, 3))
  with pytest.raises(ValueError, match=r'does not fit it: a \(2, 1\)'):
    peft.fuse_params({'x': {'w': w, '_LoRAEinsum_0': {'lora': lora}}})


def test_fuse_of_flax_layers():
  a, b = jnp.ones((2, 1)), jnp.ones((1, 3))
  layer = {'kernel': jnp.zeros((2, 3)), 'lora': {'a': a, 'b': b}}
  fused = peft.fuse_params({'Dense_0': layer})
  same(fused, {'Dense_0': {'kernel': jnp.ones((2, 3))}})


@pytest.mark.parametrize('case', (*cases.CASES, cases.VISION), ids=str)
def test_folder_round_trip(case, tmp_path):
  lora = adapters(case.params)
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
  case = cases.CASES[-1]
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


def test_what_cannot_be_read_is_refused(tmp_path):
  case, other = cases.CASES[0], cases.CASES[-1]
  path = tmp_path / 'a'
  params = adapters(case.params)
  gm.ckpts.save_adapter(path, model=case.model, params=params)
  with pytest.raises(ValueError, match='more than LoRA.*use_dora.*merge_and'):
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
@pytest.mark.parametrize('case', (*cases.CASES, cases.VISION), ids=str)
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
  np.testing.assert_allclose(hf.logits(model, tokens), ours, atol=5e-5)


@pytest.mark.parity
@pytest.mark.filterwarnings('ignore')  # Those of peft and transformers.
@pytest.mark.parametrize(
  'targets', [['q_proj', 'v_proj'], 'all-linear'], ids=str
)
@pytest.mark.parametrize('case', cases.CASES, ids=str)
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
  lora = gm.ckpts.load_adapter(tmp_path / 'a', model=case.model)
  params = peft.merge_params(case.params, lora)
  tokens = case.tokens()
  ours = case.model.apply({'params': params}, tokens).logits
  np.testing.assert_allclose(hf.logits(model.eval(), tokens), ours, atol=5e-5)
  assert _hf_layout.HEAD not in lora
