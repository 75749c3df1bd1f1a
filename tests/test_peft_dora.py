"""Magnitudes of adapters (DoRA), compared with the library of Hugging Face."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import cases
from gemma import gm
from gemma import peft
from gemma.gm.ckpts import _transforms

TARGETS = ['q_proj', 'v_proj'], 'all-linear'
# What runs by default, of each model: targets, and whether `use_rslora`.
PAIRS = {
  # Queries, keys and values in one weight.
  'gemma1_mha': [(TARGETS[1], False), (TARGETS[0], True)],
  'gemma2_by_head_dim': [(TARGETS[1], True)],
  'gemma3_gqa': [(TARGETS[0], False)],
  'gemma4_keys_as_values': [(TARGETS[1], False)],
}


def close(left, right, **kwargs):
  assert jax.tree.structure(left) == jax.tree.structure(right)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, **kwargs), left, right
  )


def gradients_agree(left, right):
  """Small ones among large ones are differences of large numbers."""
  assert jax.tree.structure(left) == jax.tree.structure(right)
  for x, y in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
    assert x.shape == y.shape
    assert jnp.linalg.norm(x - y) <= 1e-4 * jnp.linalg.norm(y)


def random(lora, params, seed=0):
  """Adapters that change what a model says, magnitudes too."""
  rng = np.random.RandomState(seed)
  lora = jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.2, x.shape), jnp.float32), lora
  )
  lora = peft.set_magnitudes(lora, params)
  return jax.tree_util.tree_map_with_path(
    lambda path, x: (
      x * rng.uniform(0.5, 1.5, x.shape).astype('f') if is_m(path) else x
    ),
    lora,
  )


def is_m(path):
  return path[-1].key == 'm'


def adapted(case, seed=0, **options):
  lora = peft.init_lora(case.params, rank=3, rng=jax.random.key(0), **options)
  return random(lora, case.params, seed)


def logits(case, lora, tokens, params=None):
  params = case.params if params is None else params
  both = peft.merge_params(params, lora)
  return case.model.apply({'params': both}, tokens).logits


@pytest.mark.parametrize(
  'case',
  cases.some('gemma1_mqa', 'gemma3n', 'gemma4_experts', among=cases.DISTINCT),
  ids=str,
)
def test_starts_as_the_model_and_scales_with_its_magnitudes(case):
  tokens = case.tokens()
  lora = peft.init_lora(
    case.params, rank=3, rng=jax.random.key(0), use_dora=True
  )
  assert lora['layer_0']['attn']['attn_vec_einsum']['_LoRAEinsum_0']['lora'][
    'm'
  ].shape == (32,)
  out = logits(case, lora, tokens)
  np.testing.assert_allclose(
    out, case.apply(tokens).logits, atol=case.noise, rtol=0
  )
  lora = adapted(case)
  changed = logits(case, lora, tokens)
  fused = peft.fuse_params(peft.merge_params(case.params, lora))
  again = case.model.apply({'params': fused}, tokens).logits
  np.testing.assert_allclose(changed, again, atol=case.noise, rtol=0)
  assert np.abs(changed - out).max() > 0.1


@pytest.mark.parity
@pytest.mark.filterwarnings('ignore')  # Those of peft and transformers.
@pytest.mark.parametrize(
  'model, targets, rslora',
  [
    pytest.param(
      cases.NAMED[name],
      targets,
      rslora,
      marks=[] if (targets, rslora) in pairs else cases.EXHAUSTIVE,
    )
    for name, pairs in PAIRS.items()
    for targets in TARGETS
    for rslora in (False, True)
  ],
  ids=str,
)
def test_logits_and_gradients_are_those_of_peft(
  model, targets, rslora, tmp_path
):
  import peft as hf_peft
  import torch

  import hf

  case = model
  gm.ckpts.save_hf(tmp_path / 'base', model=case.model, params=case.params)
  config = hf_peft.LoraConfig(
    r=4, lora_alpha=6, use_dora=True, use_rslora=rslora, target_modules=targets
  )
  theirs = hf_peft.get_peft_model(hf.read_model(tmp_path / 'base'), config)
  torch.manual_seed(0)
  with torch.no_grad():
    for name, param in theirs.named_parameters():
      if 'magnitude' in name:
        param.mul_(torch.empty_like(param).uniform_(0.5, 1.5))
      elif 'lora_' in name:
        torch.nn.init.normal_(param, 0, 0.2)
  theirs.save_pretrained(tmp_path / 'a')
  ours = gm.nn.LoRA(
    rank=4, model=case.model, alpha=6.0, use_rslora=rslora, use_dora=True
  )
  lora = gm.ckpts.load_adapter(tmp_path / 'a', model=ours)
  tokens = case.tokens(2, 10)

  def loss(lora):
    params = peft.merge_params(case.params, lora)
    logits = ours.apply({'params': params}, tokens).logits
    logprobs = jax.nn.log_softmax(logits[:, :-1])
    chosen = jnp.take_along_axis(logprobs, tokens[:, 1:, None], axis=2)
    return -jnp.mean(chosen), logits

  step = jax.jit(jax.value_and_grad(loss, has_aux=True))
  (value, logits), grads = step(lora)
  ids = torch.from_numpy(tokens).long()
  out = theirs(input_ids=ids, labels=ids)
  out.loss.backward()
  np.testing.assert_allclose(
    out.logits.detach(), logits, atol=case.tolerance, rtol=0
  )
  np.testing.assert_allclose(out.loss.detach(), value, rtol=1e-5)

  # Their gradients, in a folder as an adapter is.
  file = tmp_path / 'a' / 'adapter_model.safetensors'
  named = {
    name.replace('.default', '').removesuffix('.weight'): param.grad.numpy()
    for name, param in theirs.named_parameters()
    if 'lora_' in name
  }
  stored = safetensors.numpy.load_file(file)
  safetensors.numpy.save_file(
    {name: named[name.removesuffix('.weight')] for name in stored}, file
  )
  expected = gm.ckpts.load_adapter(tmp_path / 'a', model=ours)
  gradients_agree(grads, expected)


@pytest.mark.parity
@pytest.mark.filterwarnings('ignore')  # Those of peft and transformers.
def test_peft_opens_magnitudes(tmp_path):
  """Of all weights, those of a vision encoder too."""
  import peft as hf_peft

  import hf

  case = cases.VISION
  lora = adapted(case, targets=r'^(?!embedder)')
  gm.ckpts.save_hf(tmp_path / 'base', model=case.model, params=case.params)
  gm.ckpts.save_adapter(tmp_path / 'a', model=case.model, params=lora)
  config = json.loads((tmp_path / 'a' / 'adapter_config.json').read_text())
  assert config['use_dora'] is True
  model = hf_peft.PeftModel.from_pretrained(
    hf.read_picture_model(tmp_path / 'base'), tmp_path / 'a'
  )
  tokens, images = case.tokens(2, 12) % 280 + 1, case.images(2, 1)
  tokens[:, 3] = case.config.image_tokens.start
  params = peft.merge_params(case.params, lora)
  ours = case.model.apply({'params': params}, tokens, images=images).logits
  row, place = gm.vision.expand(
    jnp.asarray(tokens), images=1, count=4, ids=case.config.image_tokens
  )
  theirs = hf.picture_logits(model.base_model.model, row, images)
  theirs = np.take_along_axis(theirs, np.asarray(place)[:, :, None], axis=1)
  np.testing.assert_allclose(ours, theirs, atol=case.tolerance)
  close(gm.ckpts.load_adapter(tmp_path / 'a', model=case.model), lora)


def test_gradients_take_the_lengths_as_they_are():
  """Section 4.3 of the paper: of `m V / |V|`, `|V|` is a constant."""
  layer = gm.nn.Einsum((5, 3), name='x', dtype=jnp.float32)
  key = jax.random.key(0)
  x = jax.random.normal(key, (1, 4, 5))
  w = jax.random.normal(jax.random.key(1), (5, 3))
  a, b = jnp.ones((5, 2)) * 0.3, jnp.ones((2, 3)) * 0.2
  lora = {'a': a, 'b': b, 'm': jnp.array([1.0, 2.0, 3.0])}

  def ours(lora):
    params = {'w': w, '_LoRAEinsum_0': {'lora': lora}}
    return jnp.sum(jnp.sin(layer.apply({'params': params}, 'BLD,DF->BLF', x)))

  def naive(lora):
    v = w + lora['a'] @ lora['b']
    length = jax.lax.stop_gradient(jnp.linalg.norm(v, axis=0))
    return jnp.sum(jnp.sin(x @ (v * (lora['m'] / length)[None])))

  gradients_agree(jax.grad(ours)(lora), jax.grad(naive)(lora))
  # A channel of nothing stays nothing, and its gradients are numbers.
  empty = {**lora, 'a': a * 0, 'm': lora['m'] * 0}
  w = w * 0
  assert all(
    jnp.isfinite(x).all() for x in jax.tree.leaves(jax.grad(ours)(empty))
  )


@pytest.mark.parametrize('method', ['int8', 'int4'])
def test_magnitudes_of_integers(method):
  """Lengths are those of what the integers stand for."""
  case = cases.CASES[0]
  ints = peft.quantize(case.params, method=method)
  lora = random(adapted(case), ints)
  tokens = case.tokens()
  out = logits(case, lora, tokens, ints)
  both = peft.merge_params(ints, lora)
  fused = peft.fuse_params(both, dequantize=True)
  again = case.model.apply({'params': fused}, tokens).logits
  np.testing.assert_allclose(out, again, atol=2 * case.noise)


def test_magnitudes_need_weights():
  shapes = jax.eval_shape(lambda: cases.CASES[0].params)
  with pytest.raises(ValueError, match='is a shape.*Give the weights'):
    peft.init_lora(shapes, rank=2, rng=jax.random.key(0), use_dora=True)


@pytest.mark.slow
def test_loaded_weights_bring_their_magnitudes(tiny):
  """`SkipLoRA` fills in weights that `init` did not know."""
  model = gm.nn.LoRA(rank=2, model=gm.nn.Gemma3_Tiny(), use_dora=True)
  tokens = jnp.asarray([tiny.tokenizer.encode('ROMEO: but soft', add_bos=True)])
  params = model.init(jax.random.key(0), tokens)['params']
  state = _State(params)
  path = gm.ckpts.CheckpointPath.GEMMA3_TINY_IT
  skip = gm.ckpts.SkipLoRA(gm.ckpts.LoadCheckpoint(path))
  assert isinstance(skip, _transforms.InitTransform)
  loaded = skip.transform(state).params
  out = model.apply({'params': loaded}, tokens).logits
  plain = tiny.model.apply({'params': tiny.params}, tokens).logits
  np.testing.assert_allclose(out, plain, atol=0.05 * float(plain.std()))
  lora = peft.split_params(loaded).lora
  close(peft.set_magnitudes(lora, tiny.params), lora, rtol=1e-6)


class _State:
  """What a trainer has, as far as a transform looks."""

  def __init__(self, params):
    self.params, self.opt_state, self.step = params, None, 0
    self.collections = {}

  def replace(self, **changes):
    state = _State(self.params)
    vars(state).update(changes)
    return state
