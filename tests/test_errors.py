"""Bad input: what was wrong, the value, the fix."""

import json

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import cases
from gemma import gm

CASE = cases.CASES[2]
IDS = np.array([[5, 6, 7]])


@pytest.fixture(autouse=True)
def as_a_user_sees_it():
  """Without the tests' own checks of shapes and dtypes."""
  jaxtyping.config.update('jaxtyping_disable', True)
  yield
  jaxtyping.config.update('jaxtyping_disable', False)


def short_cache():
  return CASE.cache(1, 2)


BAD_CALLS = {
  'dtype': (
    lambda: CASE.apply(IDS.astype(np.float32)),
    TypeError, 'tokens are float32, but must be integer ids',
  ),
  'negative id': (
    lambda: CASE.apply(np.array([[5, -2]])),
    ValueError, 'Token id -2 is outside of the table of 300 rows',
  ),
  'large id': (
    lambda: CASE.apply(np.array([[5, 300]])),
    ValueError, 'Token id 300 is outside of the table of 300 rows',
  ),
  'no tokens': (
    lambda: CASE.apply(np.zeros((2, 0), int)),
    ValueError, r'tokens have shape \(2, 0\)',
  ),
  'positions': (
    lambda: CASE.apply(IDS, positions=np.arange(4)[None]),
    ValueError, r'positions have shape \(1, 4\), tokens \(1, 3\)',
  ),
  'mask': (
    lambda: CASE.apply(IDS, attention_mask=np.ones((1, 3, 4), bool)),
    ValueError, r'shape \(1, 3, 4\) instead of \(1, 3, 3\)',
  ),
  'cache rows': (
    lambda: CASE.apply(IDS, cache=CASE.cache(2)),
    ValueError, r'The cache has 2 rows, tokens have 1',
  ),
  'cache full': (
    lambda: CASE.apply(IDS, cache=short_cache()),
    ValueError, 'Row 0 has 3 tokens, but the cache holds 2',
  ),
  'images': (
    lambda: CASE.apply(IDS, images=np.zeros((1, 8, 8, 3), np.uint8)),
    ValueError, 'does not have vision encoder',
  ),
  'last only twice': (
    lambda: gm.nn.Transformer(config=CASE.config, return_last_only=True).apply(
      {'params': CASE.params}, IDS, return_last_only=False
    ),
    ValueError, 'return_last_only=False in the call',
  ),
  'float16 weights': (
    lambda: CASE.model.apply(
      {'params': jax.tree.map(lambda x: x.astype(jnp.float16), CASE.params)},
      IDS,
    ),
    ValueError, 'float16.*65504.*bfloat16',
  ),
  'float16 model': (
    lambda: gm.nn.Gemma3_1B(dtype='float16').init(jax.random.key(0), IDS),
    ValueError, 'float16',
  ),
  'empty cache': (
    lambda: CASE.cache(1, 0),
    ValueError, 'cache_length=0 and batch_size=1 must be at least 1',
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', BAD_CALLS)
def test_bad_call(name):
  call, kind, message = BAD_CALLS[name]
  with pytest.raises(kind, match=message):
    call()


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'num_kv_heads': 3}, 'num_heads=4 is not a multiple of num_kv_heads=3'),
    ({'head_dim': 7}, 'head_dim=7 must be even'),
    ({'embed_dim': 0}, 'embed_dim=0 must be at least 1'),
    ({'sliding_window_size': None}, 'sliding_window_size=None'),
    ({'attention_types': ()}, r'attention_types=\(\) must be a tuple'),
    ({'vocab_size': 301}, 'vocab_size=301 is above num_embed=300'),
    ({'global_scale_factor': 0.5}, 'scale_factor=0.5'),
  ],
)
def test_impossible_config(fields, message):
  with pytest.raises(ValueError, match=message):
    type(CASE.config)(**(vars(CASE.config) | fields))


@pytest.fixture
def folder(tmp_path):
  """A good Hugging Face folder, to be spoiled."""
  gm.ckpts.save_hf(tmp_path / 'm', model=CASE.model, params=CASE.params)
  return tmp_path / 'm'


def change_config(folder, **fields):
  file = folder / 'config.json'
  file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def change_tensors(folder, change):
  import safetensors.numpy

  file = folder / 'model.safetensors'
  tensors = safetensors.numpy.load_file(file)
  change(tensors)
  safetensors.numpy.save_file(tensors, file)


def test_folder_that_is_not_there():
  with pytest.raises(FileNotFoundError, match='No folder /no/such'):
    gm.from_pretrained('/no/such')
  with pytest.raises(FileNotFoundError, match='No folder'):
    gm.ckpts.load_params('/no/such')


def test_remote_path():
  """With TensorFlow installed, it could be read if there were a network."""
  path = gm.ckpts.CheckpointPath.GEMMA3_4B_IT
  error = 'gs://.* (is remote. Download|cannot be reached)'
  with pytest.raises(ValueError, match=error):
    gm.ckpts.load_params(path)


def test_folder_of_something_else(tmp_path):
  (tmp_path / 'notes.txt').write_text('hello')
  with pytest.raises(ValueError, match=r"no checkpoint.*'notes.txt'"):
    gm.ckpts.load_params(tmp_path)
  with pytest.raises(ValueError, match='has no config.json'):
    gm.from_pretrained(tmp_path)


def test_truncated_weights(folder):
  file = folder / 'model.safetensors'
  file.write_bytes(file.read_bytes()[:-100])
  with pytest.raises(ValueError, match='damaged or cut short.*Download'):
    gm.from_pretrained(folder)


def test_all_problems_in_one_error(folder):
  def change(tensors):
    tensors.pop('model.layers.0.self_attn.k_proj.weight')
    tensors.pop('model.norm.weight')
    tensors['model.layers.1.mlp.down_proj.weight'] = np.zeros((3, 3), 'f')
    tensors['model.layers.9.surprise'] = np.zeros(3, np.float32)
    name = 'model.layers.2.input_layernorm.weight'
    tensors[name] = np.zeros(32, np.int8)

  change_tensors(folder, change)
  with pytest.raises(ValueError, match='5 tensors') as error:
    gm.from_pretrained(folder)
  for line in (
    'missing: layers.0.self_attn.k_proj.weight',
    'missing: norm.weight',
    'mis-shaped: layers.1.mlp.down_proj.weight (3, 3)',
    'unknown: model.layers.9.surprise',
    'stored as I8: model.layers.2.input_layernorm.weight',
  ):
    assert line in str(error.value)


def test_missing_shard(folder):
  index = {'weight_map': {'a': 'model-00001-of-00002.safetensors'}}
  (folder / 'model.safetensors.index.json').write_text(json.dumps(index))
  with pytest.raises(FileNotFoundError, match='model-00001-of-00002'):
    gm.from_pretrained(folder)


def test_head_of_its_own(folder):
  def tie(tensors):
    table = tensors['model.embed_tokens.weight']
    tensors['lm_head.weight'] = table.copy()

  def untie(tensors):
    tensors['lm_head.weight'][7] += 1

  change_tensors(folder, tie)
  gm.from_pretrained(folder)
  change_tensors(folder, untie)
  with pytest.raises(ValueError, match='lm_head.weight.*differs'):
    gm.from_pretrained(folder)


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'model_type': 'llama'}, "model_type='llama'"),
    ({'attention_bias': True}, 'attention_bias=True'),
    ({'hidden_activation': 'relu'}, "hidden_activation='relu'"),
    ({'tie_word_embeddings': False}, 'tie_word_embeddings=False'),
    ({'quantization_config': {}}, 'quantization_config'),
    ({'rope_scaling': {'rope_type': 'yarn'}}, "rope_type='yarn'"),
    ({'num_hidden_layers': 9}, 'layer_types in config.json names 3 layers'),
  ],
)
def test_config_that_is_not_ours(folder, fields, message):
  change_config(folder, **fields)
  with pytest.raises(ValueError, match=message):
    gm.from_pretrained(folder)


def test_params_that_do_not_fit_are_not_saved(tmp_path):
  params = dict(CASE.params)
  params.pop('final_norm')
  with pytest.raises(ValueError, match='Missing:.*final_norm/scale'):
    gm.ckpts.save_hf(tmp_path / 'm', model=CASE.model, params=params)
  params['final_norm'] = {'scale': jnp.ones(5)}
  with pytest.raises(ValueError, match=r'final_norm/scale \(5,\) instead of'):
    gm.ckpts.save_hf(tmp_path / 'm', model=CASE.model, params=params)
  assert not list(tmp_path.iterdir())
  (tmp_path / 'there').mkdir()
  for save in (
    lambda path: gm.ckpts.save_params(CASE.params, path),
    lambda path: gm.ckpts.save_hf(path, model=CASE.model, params=CASE.params),
  ):
    with pytest.raises(FileExistsError, match='there exists'):
      save(tmp_path / 'there')


BAD_SAMPLES = {
  'empty text': ({'prompt': ''}, 'The prompt is empty'),
  'empty ids': ({'prompt': [[5], []]}, 'Prompt 1 is empty'),
  'no prompts': ({'prompt': []}, 'list of prompts is empty'),
  'id': ({'prompt': [5, 999_999]}, 'Token id 999999 in prompt 0'),
  'pad inside': ({'prompt': [5, 0, 6]}, 'Token id 0 in prompt 0'),
  'long prompt': (
    {'prompt': ['a', 'word ' * 99]}, 'Row 1 has .* but the cache holds 16'
  ),
  'negative': ({'prompt': 'a', 'max_new_tokens': -3}, 'max_new_tokens=-3'),
  'too many': (
    {'prompt': 'a', 'max_new_tokens': 9},
    'smaller or equal to max_out_length: 9 > 8',
  ),
  'limits': (
    {'prompt': ['a', 'b'], 'max_new_tokens': [3]},
    'max_new_tokens has 1 numbers for 2 prompts',
  ),
  'methods': (
    {'prompt': 'a', 'sampling': [gm.text.Greedy()] * 2},
    '2 sampling methods for 1 prompts',
  ),
  'bias': (
    {'prompt': 'a', 'sampling': gm.text.LogitBias(bias={2048: 1.0})},
    'LogitBias has token 2048, outside of the table of 2048 rows',
  ),
  'schema': ({'prompt': 'a', 'schema': 3}, 'int is no JSON schema: give a'),
  'no alternatives': ({'prompt': 'a', 'logprobs': -1}, 'logprobs=-1'),
  'alternatives': (
    {'prompt': 'a', 'logprobs': 2049}, 'between 0 and 2048, the rows of'
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', BAD_SAMPLES)
def test_bad_sample(tiny, name):
  sampler = gm.text.Sampler(
    model=tiny.model, params=tiny.params, tokenizer=tiny.tokenizer,
    cache_length=16, max_out_length=8,
  )  # fmt: skip
  fields, message = BAD_SAMPLES[name]
  with pytest.raises(ValueError, match=message):
    sampler.sample(**fields)


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'on_full': 'drop'}, "on_full='drop' is not one of 'error', 'stop'"),
    ({'on_full': 'roll', 'cache_length': 1}, 'cache_length=1 to be at least 2'),
    ({'cache_length': 0}, 'cache_length=0 must be at least 1'),
    ({'max_out_length': 0}, 'max_out_length=0 must be at least 1'),
    ({'max_batch_size': 0}, 'max_batch_size=0 must be at least 1'),
  ],
)
def test_samplers_that_are_none(fields, message):
  with pytest.raises(ValueError, match=message):
    CASE.sampler(**fields)


def test_stop_tokens_that_are_one_string():
  with pytest.raises(ValueError, match="'ab' is one string. Give a list"):
    CASE.sampler(stop_tokens='ab').sample([5])


def test_prompt_of_no_known_form(tiny):
  sampler = gm.text.Sampler(
    model=tiny.model, params=tiny.params, tokenizer=tiny.tokenizer
  )
  with pytest.raises(TypeError, match='prompt is a dict'):
    sampler.sample({'role': 'user'})


@pytest.mark.parametrize(
  'prompt, kind, message',
  [
    ('', ValueError, 'is empty'),
    ('  \n', ValueError, 'is empty'),
    (None, TypeError, 'The prompt is a NoneType: None. Give a string'),
  ],
)
def test_empty_chat(tiny, prompt, kind, message):
  chat = gm.text.ChatSampler(
    model=tiny.model, params=tiny.params, tokenizer=tiny.tokenizer
  )
  with pytest.raises(kind, match=message):
    chat.chat(prompt)


def test_tokens_that_are_several(tiny):
  sampler = gm.text.Sampler(
    model=tiny.model, params=tiny.params, tokenizer=tiny.tokenizer,
    stop_tokens=['in the name of'],
  )  # fmt: skip
  with pytest.raises(ValueError, match='must map to single token ids'):
    sampler.sample('a')


def test_stop_token_outside_of_the_table(tiny):
  sampler = gm.text.Sampler(
    model=tiny.model,
    params=tiny.params,
    tokenizer=tiny.tokenizer,
    stop_tokens=[5000],
  )
  with pytest.raises(ValueError, match='token 5000 is outside of the table'):
    sampler.sample('a')


def test_model_and_tokenizer_of_different_families(tiny):
  with pytest.raises(ValueError, match='Incompatible model and tokenizer'):
    gm.text.Sampler(
      model=gm.nn.Gemma3_1B(), params={}, tokenizer=tiny.tokenizer
    )
  with pytest.raises(ValueError, match='does not say which tokenizer'):
    gm.text.Sampler(model=tiny.model, params={})


def test_name_on_the_bare_package():
  import gemma

  with pytest.raises(AttributeError, match='from gemma import gm'):
    _ = gemma.nn
