"""Equal to `transformers`, live: same folder, same logits, same tokens."""

import copy
import dataclasses
import json
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from gemma import gm
from gemma.gm.ckpts import _hf_config
from gemma.gm.ckpts import _hf_layout
from gemma.gm.ckpts import _safetensors
from gemma.gm.ckpts import _tree
import texts

hf = pytest.importorskip('hf', reason='needs torch and transformers')
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings('ignore')]

ALL = pytest.mark.parametrize('case', cases.CASES, ids=str)


@pytest.fixture(scope='module', params=cases.CASES, ids=str)
def both(request, tmp_path_factory):
  """A case, the independent model, and what we read from its folder."""
  folder = tmp_path_factory.mktemp(request.param.name)
  return request.param, *hf.folder_of(request.param, folder / 'model')


class Letters(gm.text.Gemma3Tokenizer):
  """Enough of a tokenizer for ids in and ids out."""

  vocab_size = cases.CASES[0].config.num_embed
  FORBIDDEN_TOKENS = ()

  def decode(self, ids):
    return ' '.join(map(str, np.atleast_1d(ids).tolist()))


def sampler(ours, **kwargs):
  fields = {'cache_length': 96, 'max_out_length': 64, 'pad_length': 8}
  out = gm.text.Sampler(
    model=ours.model,
    params=ours.params,
    tokenizer=Letters('none'),
    **(fields | kwargs),
  )
  return out


def test_architecture_is_read_from_the_folder(both):
  case, _, ours = both
  for mine, read in zip(
    case.config.layers(), ours.model.config.layers(), strict=True
  ):
    # How the gate is stored is not in the file, and changes no number.
    assert dataclasses.replace(read, ffw=mine.ffw) == mine
    assert read.ffw.hidden_dim == mine.ffw.hidden_dim


def test_logits(both):
  """Three times the window, three rows, ragged, padding on the left."""
  case, theirs, ours = both
  tokens = case.tokens(3, 24)
  tokens[1, :7] = 0
  tokens[2, :21] = 0
  real = tokens != 0
  logits = ours.model.apply({'params': ours.params}, tokens).logits
  error = np.abs(np.asarray(logits) - hf.logits(theirs, tokens))[real]
  assert error.max() < case.tolerance
  right = np.stack([np.roll(row, -np.argmax(row != 0)) for row in tokens])
  out = ours.model.apply({'params': ours.params}, right)
  error = np.abs(
    np.asarray(out.logits)[right != 0] - hf.logits(theirs, tokens)[real]
  )
  assert error.max() < case.tolerance


def test_attention_maps(both):
  """Those that Flax captures, of every layer."""
  case, theirs, ours = both
  tokens = case.tokens(2, 24)

  @jax.jit
  def maps(params):
    _, kept = ours.model.apply(
      {'params': params}, tokens, mutable=['intermediates']
    )
    return kept['intermediates']

  kept = maps(ours.params)
  wanted = hf.attention_maps(theirs, tokens)
  assert len(wanted) == case.config.num_layers
  for i, layer in enumerate(wanted):
    (mine,) = kept[f'layer_{i}']['attn']['attention_weights']['__call__']
    np.testing.assert_allclose(np.swapaxes(mine, 1, 2), layer, atol=1e-5)


def test_bfloat16(both):
  case, theirs, ours = both
  tokens = case.tokens(3, 24)
  params = jax.tree.map(lambda x: np.asarray(x, jnp.bfloat16), ours.params)
  out = np.asarray(ours.model.apply({'params': params}, tokens).logits)
  # The same rounded weights, computed in float32.
  rounded = copy.deepcopy(theirs).bfloat16().float()
  exact = hf.logits(rounded, tokens)
  error = np.sqrt(np.mean(np.square(out - exact), axis=-1)) / exact.std()
  assert np.median(error) < case.rounding


def test_a_deep_model(tmp_path):
  """Twelve layers, in float32 and bfloat16."""
  both = cases.DEEP, *hf.folder_of(cases.DEEP, tmp_path / 'model')
  test_logits(both)
  test_bfloat16(both)


def test_gradients(both):
  """Of all parameters, by the independent model's own differentiation.

  Through the loss that never holds all logits.
  """
  import torch

  case, theirs, ours = both
  tokens = case.tokens(3, 24)

  def loss(params):
    out = ours.model.apply(
      {'params': params}, tokens[:, :-1], return_hidden_states=True
    )
    head = gm.nn.head_of(params, ours.model.config)
    return jnp.mean(head.losses(out.hidden_states, tokens[:, 1:]))

  grads = _tree.flatten(jax.jit(jax.grad(loss))(ours.params))
  theirs = copy.deepcopy(theirs)
  row = torch.tensor(tokens, dtype=torch.long)
  logits = theirs(row).logits[:, :-1].transpose(1, 2)
  torch.nn.functional.cross_entropy(logits, row[:, 1:]).backward()
  wanted = {name: x.grad for name, x in theirs.named_parameters()}
  for row in _hf_layout.table(ours.model.config):
    parts = zip(row.names, row.write(grads[row.path]), strict=True)
    for name, mine in parts:
      grad = wanted.pop(f'model.{name}', None)
      if grad is None:  # Their scalars of layers cannot be trained.
        assert name.endswith('layer_scalar')
        continue
      error = np.linalg.norm(mine - grad.numpy())
      assert error <= 1e-4 * np.linalg.norm(grad), name
  assert not wanted


def test_greedy_tokens(both):
  """Of prompts longer than the window and shorter, in chunks."""
  case, theirs, ours = both
  rows = [case.tokens()[0].tolist(), case.tokens()[1, :9].tolist(), [2, 7]]
  expected = [hf.greedy(theirs, row, 16) for row in rows]
  small = {'cache_length': 64, 'max_out_length': 16}
  out = sampler(ours, **small).sample(
    rows, max_new_tokens=16, return_state=True
  )
  assert _until_stop(out.token_ids) == _until_stop(expected)


@pytest.mark.parametrize('case', cases.some('gemma3_gqa'), ids=str)
def test_greedy_tokens_of_every_call(case, tmp_path):
  """64 tokens: a batch, one row, prompts in chunks and whole."""
  theirs, ours = hf.folder_of(case, tmp_path / 'model')
  rows = [case.tokens()[0].tolist(), case.tokens()[1, :9].tolist(), [2, 7]]
  expected = [hf.greedy(theirs, row, 64) for row in rows]
  # Nothing ends a text here: all 64 tokens count.
  for fields in ({'pad_length': 8}, {'pad_length': None}, {'pad_length': 64}):
    s = sampler(ours, **fields)
    out = s.sample(rows, max_new_tokens=64, return_state=True)
    assert _until_stop(out.token_ids) == _until_stop(expected)
  alone = [
    sampler(ours).sample(row, max_new_tokens=64, return_state=True).token_ids
    for row in rows
  ]
  assert _until_stop(alone) == _until_stop(expected)


def _until_stop(rows):
  """Rows up to and with the first stop token."""
  special = Letters.special_tokens
  stops = (special.EOS, special.END_OF_TURN)
  out = []
  for row in rows:
    ends = [i for i, token in enumerate(row) if token in stops]
    out.append(row[: ends[0] + 1] if ends else row)
  return out


def test_what_we_save_they_read(both, tmp_path):
  case, theirs, ours = both
  gm.ckpts.save_hf(
    tmp_path / 'ours',
    model=ours.model,
    params=ours.params,
    max_shard_bytes=40_000,
  )
  assert len([*(tmp_path / 'ours').glob('*.safetensors')]) > 2
  again = hf.read_model(tmp_path / 'ours')
  tokens = case.tokens()
  np.testing.assert_array_equal(
    hf.logits(again, tokens), hf.logits(theirs, tokens)
  )


def test_tokenizer_that_we_save_they_read(tmp_path):
  """The same ids, texts and chats, from the files beside the weights."""
  import transformers

  case, tokenizer = cases.GEMMA3, gm.text.Gemma3TinyTokenizer()
  fields = {'model': case.model, 'params': case.params}
  gm.ckpts.save_hf(tmp_path / 'm', tokenizer=tokenizer, **fields)
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / 'm')
  rng = random.Random(0)
  parts = [*texts.TEXTS, 'The ', 'king', '\u2581', '<b>', '<start_of_turn>']
  for _ in range(500):
    text = ''.join(rng.choices(parts, k=rng.randrange(8)))
    ids = tokenizer.encode(text, add_bos=True)
    assert theirs(text)['input_ids'] == ids
    assert theirs.decode(ids[1:]) == tokenizer.decode(ids[1:])
  said = [
    {'role': 'system', 'content': 'Be kind.'},
    {'role': 'user', 'content': ' Hi '},
    {'role': 'assistant', 'content': 'Yes?'},
    {'role': 'user', 'content': [{'type': 'text', 'text': 'Who?'}]},
  ]
  for messages in (said, said[1:], said[:2], said[1:3]):
    for opens in (True, False):
      expected = gm.text.encode_chat(
        tokenizer, messages, add_generation_prompt=opens
      )
      ids = theirs.apply_chat_template(
        messages, add_generation_prompt=opens, return_dict=False
      )
      assert ids == expected
  config = transformers.GenerationConfig.from_pretrained(tmp_path / 'm')
  assert config.eos_token_id == [1, 106]


def test_shards_and_older_files(tmp_path):
  """Sharded weights, older prefixes, older config keys: the same numbers."""
  case = cases.GEMMA3
  _, ours = hf.folder_of(case, tmp_path / 'one')
  hf.make_model(case).save_pretrained(tmp_path / 'many', max_shard_size='40KB')
  assert len(list((tmp_path / 'many').glob('*.safetensors'))) > 2
  many = gm.from_pretrained(tmp_path / 'many')
  jax.tree.map(np.testing.assert_array_equal, ours.params, many.params)

  tensors = _safetensors.open_folder(tmp_path / 'one')
  config = json.loads((tmp_path / 'one' / 'config.json').read_text())
  rope = config.pop('rope_parameters')
  for key in ('layer_types', '_sliding_window_pattern'):
    config.pop(key)
  config |= {
    'sliding_window_pattern': 2,
    'rope_theta': rope['full_attention']['rope_theta'],
    'rope_local_base_freq': rope['sliding_attention']['rope_theta'],
    'rope_scaling': {'rope_type': 'linear', 'factor': 8.0},
  }
  import safetensors.numpy

  for i, prefix in enumerate(
    ['language_model.model.', 'model.language_model.']
  ):
    old = tmp_path / f'old{i}'
    old.mkdir()
    (old / 'config.json').write_text(
      json.dumps({'model_type': 'gemma3', 'text_config': config})
    )
    renamed = {
      name.replace('model.', prefix, 1): tensor.read()
      for name, tensor in tensors.items()
    }
    renamed['vision_tower.head.weight'] = np.zeros((2, 2), np.float32)
    safetensors.numpy.save_file(renamed, old / 'model.safetensors')
    with pytest.raises(ValueError, match='text_only=True'):
      gm.from_pretrained(old)
    other = gm.from_pretrained(old, text_only=True)
    assert other.model.config.layers() == ours.model.config.layers()
    jax.tree.map(np.testing.assert_array_equal, ours.params, other.params)


@pytest.mark.parametrize('family', ['gemma4', 'gemma4_unified'])
def test_text_model_of_a_folder_with_encoders(family, tmp_path):
  """Asked for alone; else an error, as the encoders are not there."""
  import torch
  import transformers

  case = cases.NAMED['gemma4_keys_as_values']
  text = _hf_config.to_hf(case.config)
  small = {'hidden_size': 16, 'num_hidden_layers': 1, 'intermediate_size': 16}
  heads = {'num_attention_heads': 2, 'num_key_value_heads': 2, 'head_dim': 8}
  config = transformers.AutoConfig.for_model(
    family,
    text_config={**text, 'model_type': f'{family}_text'},
    vision_config=small | heads,
    audio_config=small | {'num_attention_heads': 2, 'output_proj_dims': 16},
  )
  config._attn_implementation = 'eager'
  torch.manual_seed(0)
  auto = transformers.AutoModelForImageTextToText
  theirs = auto.from_config(config).eval()
  for name, param in theirs.named_parameters():
    torch.nn.init.normal_(param, 0, 0.3 if 'norm' in name else 0.2)
  theirs.save_pretrained(tmp_path / 'm')
  with pytest.raises(ValueError, match='encoders of .* text_only=True'):
    gm.from_pretrained(tmp_path / 'm')
  ours = gm.from_pretrained(tmp_path / 'm', text_only=True)
  tokens = case.tokens()
  logits = ours.model.apply({'params': ours.params}, tokens).logits
  with torch.no_grad():
    expected = theirs(torch.tensor(tokens, dtype=torch.long)).logits
  np.testing.assert_allclose(logits, expected, atol=case.tolerance, rtol=0)
  with pytest.raises(ValueError, match='does not have vision encoder'):
    pixels = np.zeros((3, 1, 8, 8, 3), np.uint8)
    ours.model.apply({'params': ours.params}, tokens, images=pixels)
