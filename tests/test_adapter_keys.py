"""Adapter folders that others made: each key is read, or refused by name."""

import dataclasses
import json
import random
import time

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import adapters
import cases
from gemma import gm
from gemma import peft
from gemma.gm.ckpts import _adapter_keys
from gemma.gm.ckpts import _adapter_regex
from gemma.gm.ckpts import _adapter_settings

CASE = cases.CASES[0]
PLAIN = 'model.layers.0.self_attn.q_proj'
LOOP = r'(\w+\.?)+!'  # Backtracks for longer than anyone waits.


def load(path, case=CASE, **options):
  return gm.ckpts.load_adapter(path, model=case.model, **options)


def same(left, right):
  assert jax.tree.structure(left) == jax.tree.structure(right)
  jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.fixture(scope='module')
def arrays():
  return adapters.tensors(CASE, 4)


@pytest.fixture(scope='module')
def plain(arrays, tmp_path_factory):
  return load(adapters.folder(tmp_path_factory.mktemp('a') / 'plain', arrays))


# Keys.

REFUSED = [
  ('r', 0),
  ('r', True),
  ('r', '8'),
  ('r', None),
  ('r', 10**12),
  ('lora_alpha', None),
  ('lora_alpha', float('nan')),
  ('lora_alpha', 10**400),
  ('lora_alpha', [8]),
  ('use_rslora', 'yes'),
  ('use_dora', None),
  ('rank_pattern', {'q_proj': 0}),
  ('rank_pattern', ['q_proj']),
  ('rank_pattern', {'(': 4}),
  ('rank_pattern', {'(?i)q_proj': 4}),
  ('alpha_pattern', {'q_proj': None}),
  ('alpha_pattern', {'*': 2}),
  ('target_modules', None),
  ('target_modules', 3),
  ('target_modules', ['q_proj', None]),
  ('target_modules', '('),
  ('exclude_modules', {'q_proj': 1}),
  ('exclude_modules', '[a'),
  ('layers_to_transform', [0, '1']),
  ('layers_to_transform', -1),
  ('layers_to_transform', [1.0]),
  ('layers_pattern', 'layers'),  # Without layers_to_transform.
  ('modules_to_save', 'embed_tokens'),
  ('trainable_token_indices', [-1]),
  ('trainable_token_indices', {'embed_tokens': 3}),
  ('ensure_weight_tying', 1),
  ('peft_type', 'IA3'),
  ('peft_type', None),
  ('bias', 'some'),
  ('lora_dropout', 2),
  ('fan_in_fan_out', 'no'),
  # More than LoRA.
  ('use_qalora', True),
  ('use_bdlora', {'target_modules_bd_a': ['q_proj']}),
  ('lora_bias', True),
  ('layer_replication', [[0, 2], [1, 3]]),
  ('alora_invocation_tokens', [2, 3]),
  ('target_parameters', ['mlp.experts.gate_up_proj']),
  ('arrow_config', {'top_k': 1}),
  ('kasa_config', {}.fromkeys(['r'], 2)),
  ('monteclora_config', {'n': 2}),
  ('megatron_config', {'hidden_size': 2}),
  # Starts that changed the base.
  ('init_lora_weights', 'pissa'),
  ('init_lora_weights', 'pissa_niter_4'),
  ('init_lora_weights', 'olora'),
  ('init_lora_weights', 'OLoRA'),
  ('init_lora_weights', 'corda'),
  ('init_lora_weights', 'loftq'),
  ('init_lora_weights', 'lora_ga'),
  ('init_lora_weights', 'one_day'),
  ('init_lora_weights', 1),
]


@pytest.mark.parametrize('key, value', REFUSED, ids=str)
def test_refused(key, value, arrays, tmp_path):
  path = adapters.folder(tmp_path / 'a', arrays, **{key: value})
  with pytest.raises(ValueError, match=key) as e:
    load(path)
  assert str(path / 'adapter_config.json') in str(e.value)


def test_keys_that_need_or_exclude_others(arrays, tmp_path):
  for fields in (
    {'target_modules': '.*q_proj', 'layers_to_transform': [1]},
    {'target_modules': '.*q_proj', 'layers_pattern': 'layers'},
  ):
    with pytest.raises(ValueError, match='needs target_modules .* a list'):
      load(adapters.folder(tmp_path / 'a', arrays, **fields))


WITHOUT_EFFECT = [
  {'task_type': 'SEQ_CLS', 'inference_mode': False, 'peft_version': '0.9'},
  {'base_model_name_or_path': 'google/gemma', 'revision': 'main'},
  {'auto_mapping': {'base_model_class': 'X', 'unsloth_fixed': True}},
  {'lora_dropout': 0.1, 'bias': 'lora_only', 'fan_in_fan_out': True},
  {'loftq_config': {}, 'eva_config': {'rho': 2}, 'corda_config': None},
  {'qalora_group_size': 32, 'megatron_core': 'x', 'velora_config': {}},
  {'init_lora_weights': 'gaussian'},
  {'init_lora_weights': False},
  {'init_lora_weights': 'orthogonal'},
  {'init_lora_weights': 'mica'},
  {'init_lora_weights': 'eva'},
  {'use_qalora': False, 'layer_replication': [], 'lora_bias': None},
  {'rank_pattern': None, 'alpha_pattern': {}, 'exclude_modules': []},
  {'a_switch_of_tomorrow': None, 'another': False, 'a_table': {}},
]


@pytest.mark.parametrize('fields', WITHOUT_EFFECT, ids=str)
def test_without_effect(fields, arrays, plain, tmp_path):
  same(load(adapters.folder(tmp_path / 'a', arrays, **fields)), plain)


def test_unknown_keys_are_reported_at_once(arrays, plain, tmp_path):
  fields = {'warmth': 3, 'colour': 'red', 'off': None}
  path = adapters.folder(tmp_path / 'a', arrays, **fields)
  with pytest.warns(UserWarning, match='colour, warmth') as caught:
    same(load(path), plain)
  assert len(caught) == 1


@pytest.mark.parametrize(
  'content',
  [
    b'',
    b'[]',
    b'{"peft_type": ',
    b'\xff\xfe',
    b'[' * 100_000,
    b'{"peft_type": "LORA"}',
  ],
  ids=lambda x: repr(x[:24]),
)
def test_files_that_are_no_config(content, arrays, tmp_path):
  path = adapters.folder(tmp_path / 'a', arrays)
  (path / 'adapter_config.json').write_bytes(content)
  with pytest.raises(ValueError, match='adapter_config.json'):
    load(path)


@pytest.mark.parametrize(
  'fields',
  [
    {'target_modules': LOOP},
    {'exclude_modules': LOOP},
    {'rank_pattern': {LOOP: 2}},
    {'alpha_pattern': {'q_proj': 2, LOOP: 2}},
    {'layers_pattern': LOOP, 'layers_to_transform': [1]},
    {'modules_to_save': [LOOP]},
  ],
  ids=str,
)
def test_expressions_end(fields, arrays, tmp_path, monkeypatch):
  monkeypatch.setattr(_adapter_regex, 'SECONDS', 0.5)
  path = adapters.folder(tmp_path / 'a', arrays, **fields)
  start = time.monotonic()
  with pytest.raises(ValueError, match='needs more than 0.5 s') as e:
    load(path)
  assert time.monotonic() - start < 5
  assert next(iter(fields)) in str(e.value)


# Rules for modules.

PATTERNS = [  # Factor of layer 0's q_proj, and of layer 1's.
  ({PLAIN: 64}, (16, 2)),
  ({f'^{PLAIN}': 64}, (16, 2)),
  ({'self_attn.q_proj': 64}, (16, 16)),
  ({r'layers\.1\..*': 64}, (2, 16)),
  ({'q_proj': 64, PLAIN: 32}, (16, 16)),  # The first counts.
  ({PLAIN: 32, 'q_proj': 64}, (8, 16)),
  ({'^q_proj': 64}, (2, 2)),
  ({'proj': 64}, (2, 2)),
  ({'language_model.layers.0.self_attn.q_proj': 64}, (2, 2)),
]


@pytest.mark.parametrize('pattern, factors', PATTERNS, ids=str)
def test_alpha_pattern(pattern, factors, tmp_path):
  arrays = adapters.tensors(CASE, 4, targets=('q_proj',))
  path = adapters.folder(
    tmp_path / 'a',
    arrays,
    lora_alpha=8,
    alpha_pattern=pattern,
    target_modules=['q_proj'],
  )
  found, given = adapters.loaded_products(path, CASE), adapters.products(arrays)
  for i, factor in enumerate(factors):
    name = f'model.layers.{i}.self_attn.q_proj'
    np.testing.assert_allclose(found[name], factor * given[name], rtol=1e-5)


DISAGREE = [
  ({'target_modules': ['q_proj']}, 'not a target: layers.0.self_attn.k_proj'),
  ({'exclude_modules': ['k_proj']}, 'not a target: layers.0.self_attn.k_proj'),
  ({'exclude_modules': '.*v_proj'}, 'not a target: layers.0.self_attn.v_proj'),
  ({'layers_to_transform': [1]}, 'not a target: layers.0'),
  ({'modules_to_save': ['mlp']}, 'not a target: layers.0.mlp.up_proj'),
  (
    {'target_modules': [*adapters.SHORT, 'down_proj']},
    'missing: layers.0.mlp.down_proj',
  ),
  ({'target_modules': 'all-linear'}, 'missing: layers.0.mlp.down_proj'),
  ({'r': 5}, r'mis-shaped: layers.0.*\(4, 32\).*instead of \(5, 32\)'),
  ({'rank_pattern': {PLAIN: 3}}, 'mis-shaped: layers.0.self_attn.q_proj'),
]


@pytest.mark.parametrize('fields, message', DISAGREE, ids=str)
def test_config_and_tensors_disagree(fields, message, arrays, tmp_path):
  with pytest.raises(ValueError, match=message):
    load(adapters.folder(tmp_path / 'a', arrays, **fields))


@pytest.mark.parametrize(
  'fields',
  [
    {'target_modules': '.*_proj', 'exclude_modules': ['down_proj']},
    {
      'target_modules': [
        f'{x}_proj' for x in ('q', 'k', 'v', 'o', 'up', 'gate')
      ]
    },
    {'layers_to_transform': [0, 1, 2], 'layers_pattern': ['h', 'layers']},
    {'r': 1, 'rank_pattern': {'.*_proj': 4}, 'lora_alpha': 4},
    {'target_modules': 'ALL-LINEAR', 'exclude_modules': 'model.*down_proj'},
  ],
  ids=str,
)
def test_config_and_tensors_agree(fields, arrays, tmp_path):
  fields = {'lora_alpha': 4} | fields
  path = adapters.folder(tmp_path / 'a', arrays, **fields)
  found, given = adapters.loaded_products(path, CASE), adapters.products(arrays)
  assert found.keys() == given.keys()
  for name, x in given.items():
    np.testing.assert_allclose(found[name], x, rtol=1e-5, atol=1e-7)


# Tensors.


@pytest.mark.parametrize(
  'wrapper', ['_orig_mod.', 'module.', 'module._orig_mod.', '']
)
def test_wrappers_before_names(wrapper, arrays, plain, tmp_path):
  outside = {f'{wrapper}{name}': x for name, x in arrays.items()}
  same(load(adapters.folder(tmp_path / 'a', outside)), plain)
  inside = {
    name.replace('base_model.model.', f'base_model.model.{wrapper}', 1): x
    for name, x in arrays.items()
  }
  same(load(adapters.folder(tmp_path / 'b', inside)), plain)
  bare = {
    name.removeprefix('base_model.model.'): x for name, x in arrays.items()
  }
  same(load(adapters.folder(tmp_path / 'c', bare)), plain)


def test_tensors_that_cannot_be_read(arrays, tmp_path):
  name = f'base_model.model.{PLAIN}.lora_A.weight'
  twice = arrays | {f'_orig_mod.{name}': arrays[name]}
  with pytest.raises(ValueError, match='there twice'):
    load(adapters.folder(tmp_path / 'a', twice))
  mixed = arrays | {
    f'base_model.model.model.language_model.{PLAIN[6:]}.lora_C': arrays[name]
  }
  with pytest.raises(ValueError, match='names of several models'):
    load(adapters.folder(tmp_path / 'b', mixed))
  whole = arrays | {name: arrays[name].astype(np.int8)}
  with pytest.raises(ValueError, match='is int8, but weights'):
    load(adapters.folder(tmp_path / 'c', whole))
  half = {n: x for n, x in arrays.items() if n != name}
  with pytest.raises(ValueError, match='missing: layers.0.self_attn.q_proj'):
    load(adapters.folder(tmp_path / 'd', half))


def test_dtypes(arrays, plain, tmp_path):
  for dtype in (np.float16, ml_dtypes.bfloat16, np.float64):
    cast = {name: x.astype(dtype) for name, x in arrays.items()}
    read = load(adapters.folder(tmp_path / np.dtype(dtype).name, cast))
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(read))
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, atol=1e-2), read, plain
    )


# Where a model came from.


def of_origin(case, **origin):
  config = dataclasses.replace(
    case.config, origin=gm.nn.config.Origin(**origin)
  )
  assert config == case.config and hash(config) == hash(case.config)
  return case.model.clone(config=config)


def written(path, model, lora, **options):
  gm.ckpts.save_adapter(path, model=model, params=lora, **options)
  config = json.loads((path / 'adapter_config.json').read_text())
  names = safetensors.numpy.load_file(path / 'adapter_model.safetensors')
  return config, {name.split('.self_attn')[0] for name in names}


def test_names_fit_the_origin(arrays, tmp_path):
  front = 'base_model.model.model.'
  lora = load(adapters.folder(tmp_path / 'a', arrays))
  text = {f'{front}layers.{i}' for i in range(3)}
  multimodal = {f'{front}language_model.layers.{i}' for i in range(3)}
  keep = {'layer_0', 'layer_1', 'layer_2'}
  lora = {k: {'attn': lora[k]['attn']} for k in keep}

  config, names = written(tmp_path / 'b', CASE.model, lora)
  assert names == text and config['base_model_name_or_path'] is None
  assert config['target_modules'] == ['k_proj', 'o_proj', 'q_proj', 'v_proj']

  model = of_origin(CASE, path='hf://google/gemma@v2', multimodal=True)
  config, names = written(tmp_path / 'c', model, lora)
  assert names == multimodal
  assert config['base_model_name_or_path'] == 'google/gemma'
  assert config['revision'] == 'v2'
  # Short names would be those of encoders, too.
  assert 'language_model.layers.0.self_attn.q_proj' in config['target_modules']
  same(load(tmp_path / 'c'), lora)

  model = of_origin(CASE, path='/some/folder')
  config, names = written(tmp_path / 'd', model, lora, multimodal=True)
  assert names == multimodal
  assert config['base_model_name_or_path'] == '/some/folder'
  config, _ = written(tmp_path / 'e', model, lora, base='google/gemma')
  assert config['base_model_name_or_path'] == 'google/gemma'


def test_models_know_their_origin(tmp_path):
  path = gm.ckpts.CheckpointPath.GEMMA3_TINY_IT
  origin = gm.model_from_folder(path).config.origin
  assert origin.path == str(path)
  assert gm.nn.Gemma3_4B(text_only=True).config.origin.multimodal
  assert gm.nn.Gemma3n_E2B().config.origin.multimodal
  assert gm.nn.Gemma3_1B().config.origin is None


def test_adapters_of_both_towers_in_a_text_model(tmp_path):
  """Those of the encoder are in the way, unless they are left out."""
  arrays = adapters.tensors(cases.VISION, 4, front='model.language_model.')
  media = {
    name.replace('language_model.vision_tower', 'vision_tower'): x
    for name, x in arrays.items()
    if 'vision_tower' in name
  }
  text = {n: x for n, x in arrays.items() if 'vision_tower' not in n}
  targets = [*adapters.SHORT]
  path = adapters.folder(tmp_path / 'a', text | media, target_modules=targets)
  config = dataclasses.replace(cases.VISION.config, vision_encoder=None)
  case = cases.Case('gemma3_text', config)
  assert media and text
  with pytest.raises(ValueError, match='unknown: vision_tower.*text_only=True'):
    load(path, case)
  found = load(path, case, text_only=True)
  same(found, load(adapters.folder(tmp_path / 'b', text), case))
  both = load(path, cases.VISION)
  assert peft.split_params(both).lora.keys() > found.keys()


def test_modules_that_are_in_no_layer(tmp_path):
  """The default targets of a model with per-layer inputs are written."""
  case = cases.NAMED['gemma4_per_layer']
  arrays = adapters.tensors(case, 2, targets=lambda name: 'altup' not in name)
  names = [n.removeprefix('model.') for n in adapters.products(arrays)]
  path = adapters.folder(tmp_path / 'a', arrays, r=2, target_modules=names)
  lora = load(path, case)
  config, _ = written(tmp_path / 'b', case.model, lora)
  assert 'per_layer_model_projection' in config['target_modules']
  same(load(tmp_path / 'b', case), lora)


# Beside PEFT.


def rules_of(theirs, names):
  """Targets, ranks and factors of modules, as PEFT says."""
  from peft.tuners import tuners_utils
  from peft.utils import other

  excluded = tuners_utils._ExcludedModule  # It is true.
  found = {m: tuners_utils.check_target_module_exists(theirs, m) for m in names}
  ranks, factors = {}, {}
  for name in names:
    key = other.get_pattern_key(theirs.rank_pattern.keys(), name)
    rank = ranks[name] = theirs.rank_pattern.get(key, theirs.r)
    key = other.get_pattern_key(theirs.alpha_pattern.keys(), name)
    alpha = theirs.alpha_pattern.get(key, theirs.lora_alpha)
    factors[name] = alpha / (rank**0.5 if theirs.use_rslora else rank)
  chosen = {m for m, x in found.items() if x and not isinstance(x, excluded)}
  return chosen, ranks, factors


@pytest.mark.parity
@pytest.mark.filterwarnings('ignore')  # Those of peft.
def test_rules_are_those_of_peft(tmp_path):
  import peft as hf_peft

  rng, names, hits = random.Random(0), adapters.modules(), 0
  for _ in range(40):
    fields = adapters.config(rng)
    path = adapters.folder(tmp_path / 'a', {}, **fields)
    try:
      theirs = hf_peft.LoraConfig(**fields)
    except ValueError:
      with pytest.raises(ValueError):
        _adapter_keys.read(path)
      continue
    ours = _adapter_keys.read(path)
    expected = rules_of(theirs, names)
    found = ours.targets(names), ours.ranks(names), ours.factors(names)
    assert found == expected, fields
    hits += bool(expected[0])
  assert hits > 30


@pytest.mark.parity
def test_every_field_of_peft_is_known():
  import peft as hf_peft

  fields = {field.name for field in dataclasses.fields(hf_peft.LoraConfig)}
  assert fields <= _adapter_keys.KEYS


VALUES = (
  *(None, True, False, 0, 1, -1, 2.5, 8, 10**12, 10**400, '', 'x', '(', LOOP),
  *(float('nan'), float('inf'), [], {}, [None], [1, 2], ['q_proj'], [[1]]),
  *({'q_proj': 2}, {'q_proj': 4}, {'': 1}, {'x': None}, {'(': 1}, {'a': [1]}),
  *('q_proj', '.*_proj', 'all-linear', 'none', 'LORA', 'pissa', 'a' * 20_000),
)


def expected(fields, arrays):
  """The products of an adapter, by PEFT's own rules."""
  import peft as hf_peft

  rules = {f.name for f in dataclasses.fields(_adapter_settings.Settings)}
  given = {'r': 4, 'target_modules': [*adapters.SHORT]} | fields
  theirs = hf_peft.LoraConfig(
    # Null stands for the default; other keys are of no rule.
    **{key: x for key, x in given.items() if key in rules and x is not None}
  )
  given = adapters.products(arrays)
  targets, _, factors = rules_of(theirs, [*given])
  return {name: factors[name] * given[name] for name in targets}


@pytest.mark.parity
@pytest.mark.filterwarnings('ignore')  # Of unknown keys, and those of peft.
@pytest.mark.parametrize(
  'count', [100, pytest.param(500, marks=pytest.mark.exhaustive)]
)
def test_any_value_of_any_key(count, tmp_path, monkeypatch):
  """Generated configs: an error with file and key, or what PEFT computes."""
  monkeypatch.setattr(_adapter_regex, 'SECONDS', 0.3)
  arrays = adapters.tensors(CASE, 4, targets=('q_proj', 'up_proj'))
  base = {'target_modules': ['q_proj', 'up_proj']}
  rng, keys, read = random.Random(0), sorted(_adapter_keys.KEYS), 0
  for i in range(count):
    key, value = keys[i % len(keys)], rng.choice(VALUES)
    fields = base | {key: value}
    path = adapters.folder(tmp_path / 'a', arrays, **fields)
    start = time.monotonic()
    try:
      found = adapters.loaded_products(path, CASE)
    except ValueError as e:
      assert 'adapter_config.json' in str(e) and key in str(e), (fields, e)
      assert time.monotonic() - start < 5, fields
      continue
    read += 1
    want = expected(fields, arrays)
    assert found.keys() == want.keys(), fields
    for name, x in want.items():
      np.testing.assert_allclose(
        found[name], x, rtol=1e-5, atol=1e-6, err_msg=str(fields)
      )
  assert count / 5 < read < count
