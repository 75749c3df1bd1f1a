"""Weights in and out, tensor by tensor."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from gemma import gm
from gemma.gm.ckpts import _hf_config
from gemma.gm.ckpts import _hf_layout
from gemma.gm.ckpts import _tree
from gemma.gm.nn import _shapes

ALL = pytest.mark.parametrize('case', cases.CASES, ids=str)


def equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)
  assert jax.tree.map(lambda x: x.dtype, a) == jax.tree.map(
    lambda x: x.dtype, b
  )


@ALL
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_hugging_face_round_trip(case, dtype, tmp_path):
  params = jax.tree.map(lambda x: x.astype(dtype), case.params)
  gm.ckpts.save_hf(tmp_path / 'm', model=case.model, params=params)
  equal(gm.ckpts.load_params(tmp_path / 'm'), _stored(case, params))
  wide = gm.ckpts.load_params(tmp_path / 'm', dtype='float32')
  assert {x.dtype for x in jax.tree.leaves(wide)} == {jnp.dtype('float32')}


def _stored(case, params):
  """The same tree, in the storage order that a folder is read in."""
  read = _hf_config.from_hf(_hf_config.to_hf(case.config))
  if read.transpose_gating_einsum == case.config.transpose_gating_einsum:
    return params
  flat = _tree.flatten(params)
  return _tree.unflatten(
    {
      path: x.swapaxes(1, 2) if path.endswith('gating_einsum') else x
      for path, x in flat.items()
    }
  )


@pytest.mark.parametrize('dtype', [None, 'float32'])
def test_orbax_round_trip(dtype, tmp_path):
  case = cases.CASES[2]
  params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), case.params)
  gm.ckpts.save_params(params, tmp_path / 'm')
  # Complete and readable as soon as the call returns.
  read = gm.ckpts.load_params(tmp_path / 'm', dtype=dtype)
  equal(read, jax.tree.map(lambda x: x.astype(dtype or x.dtype), params))


@pytest.mark.parametrize('name', gm.nn.PRESETS)
def test_layout_covers_every_parameter_of_a_released_size(name):
  """Rows and their inverse, on shapes alone."""
  model = gm.nn.PRESETS[name]()
  shapes = _tree.flatten(_shapes.param_shapes(model))
  rows = list(_hf_layout.table(model.config))
  assert sorted(row.path for row in rows) == sorted(shapes)
  for row in rows:
    tensors = jax.eval_shape(row.write, shapes[row.path])
    assert len(tensors) == len(row.names)
    back = jax.eval_shape(lambda xs, row=row: row.read(xs), tensors)
    assert back.shape == shapes[row.path].shape


@pytest.mark.parametrize('name', gm.nn.PRESETS)
def test_config_round_trip_of_a_released_size(name):
  config = gm.nn.PRESETS[name]().config
  read = _hf_config.from_hf(_hf_config.to_hf(config))
  again = _hf_config.from_hf(_hf_config.to_hf(read))
  assert again == read
  assert read.layers()[0].ffw == config.layers()[0].ffw


PUBLISHED_4B = {
  'model_type': 'gemma3',
  'text_config': {
    'model_type': 'gemma3_text',
    'hidden_size': 2560,
    'intermediate_size': 10240,
    'num_hidden_layers': 34,
    'rope_scaling': {'factor': 8.0, 'rope_type': 'linear'},
    'sliding_window': 1024,
  },
}


def test_published_files_give_the_presets():
  """The sparse 4B file, and the first Gemma 2 9B file with its wrong scale."""
  read = _hf_config.from_hf(PUBLISHED_4B)
  assert read.layers() == gm.nn.Gemma3_4B().config.layers()
  assert read.num_embed == 262_144
  old = _hf_config.to_hf(gm.nn.Gemma2_9B().config)
  read = _hf_config.from_hf(old | {'query_pre_attn_scalar': 224})
  assert read.layers() == gm.nn.Gemma2_9B().config.layers()


def test_rows_behind_the_vocabulary_are_left(tmp_path):
  """Larger tables keep their first rows."""
  case = cases.GEMMA3
  gm.ckpts.save_hf(tmp_path / 'm', model=case.model, params=case.params)
  row = next(_hf_layout.table(case.config))
  table = case.params['embedder']['input_embedding']
  longer = jnp.concatenate([table, jnp.ones((64, table.shape[1]))])
  np.testing.assert_array_equal(row.read([longer]), table)


def test_progress_is_told_in_bytes(tmp_path):
  case = cases.GEMMA3
  gm.ckpts.save_hf(tmp_path / 'm', model=case.model, params=case.params)
  steps = []
  gm.from_pretrained(
    tmp_path / 'm', on_progress=lambda done, total: steps.append((done, total))
  )
  total = sum(x.nbytes for x in jax.tree.leaves(case.params))
  assert steps[-1] == (total, total)
  assert [done for done, _ in steps] == sorted(done for done, _ in steps)


def test_folder_without_a_tokenizer(tmp_path):
  case = cases.GEMMA3
  gm.ckpts.save_hf(tmp_path / 'm', model=case.model, params=case.params)
  opened = gm.from_pretrained(tmp_path / 'm')
  assert opened.model.config.num_layers == case.config.num_layers
  with pytest.raises(FileNotFoundError, match='No tokenizer at'):
    _ = opened.tokenizer


def test_bundled_model(tiny):
  assert tiny.model.config == gm.nn.Gemma3_Tiny().config
  size = sum(file.stat().st_size for file in tiny.path.iterdir())
  assert size < 8_000_000
  model, params, tokenizer = tiny
  assert (model, params, tokenizer) == (tiny.model, tiny.params, tiny.tokenizer)


@pytest.mark.parametrize(
  'preset, rows, read',
  [
    ('Gemma2_2B', 256_000, 256_000),
    ('Gemma2_2B', 256_128, 256_128),
    ('Gemma3_4B', 262_144, 262_144),
    ('Gemma3_4B', 262_208, 262_144),  # Image ids and padding are behind.
    ('Gemma3_4B', 262_145, 262_145),  # A token was added by others.
  ],
)
def test_rows_of_a_file(preset, rows, read):
  """How many rows of a table count, whatever the size's own number is."""
  file = _hf_config.to_hf(gm.nn.PRESETS[preset]().config)
  text = file.get('text_config', file)
  text['vocab_size'] = rows
  config = _hf_config.from_hf(file)
  assert config.num_embed == read
  stored = jax.ShapeDtypeStruct((rows, config.embed_dim), jnp.bfloat16)
  row = next(_hf_layout.table(config))
  assert jax.eval_shape(row.read, [stored]).shape == (read, config.embed_dim)


@pytest.mark.parametrize('rows, tokens', [(262_208, None), (262_400, 262_150)])
def test_rows_that_we_write_are_those_we_read(rows, tokens):
  config = gm.nn.Gemma3_4B().config
  config = dataclasses.replace(config, num_embed=rows, vocab_size=tokens)
  file = _hf_config.to_hf(config)
  assert file['text_config']['vocab_size'] == rows
  read = _hf_config.from_hf(file)
  assert (read.num_embed, read.vocab_size) == (rows, tokens)
