"""Weights of vision encoders in and out, tensor by tensor."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import cases
from gemma import gm
from gemma.gm.ckpts import _hf_config
from gemma.gm.ckpts import _hf_layout
from gemma.gm.ckpts import _layouts
from gemma.gm.ckpts import _targets
from gemma.gm.ckpts import _tree

CASE = cases.VISION
WIDE = 'mm_input_projection', 'mm_soft_embedding_norm'


def equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)
  assert jax.tree.map(lambda x: x.dtype, a) == jax.tree.map(
    lambda x: x.dtype, b
  )


def text_of(params):
  flat = _tree.leaves(params)
  return _tree.nest(
    {k: x for k, x in flat.items() if not _targets.is_multimodal(k)}
  )


@pytest.fixture
def folder(tmp_path):
  path = tmp_path / 'model'
  gm.ckpts.save_hf(path, model=CASE.model, params=CASE.params)
  return path


def test_folder_round_trip(folder):
  read = gm.from_pretrained(folder)
  equal(read.params, CASE.params)
  assert read.model.config.layers() == CASE.config.layers()
  assert read.model.config.vision_encoder == CASE.config.vision_encoder
  assert read.model.config.image_tokens == CASE.config.image_tokens
  tensors = safetensors.numpy.load_file(folder / 'model.safetensors')
  first = {name.split('.')[0] for name in tensors}
  assert first == {'language_model', 'vision_tower', 'multi_modal_projector'}


def test_bfloat16_but_for_the_projection(folder):
  read = _tree.leaves(gm.ckpts.load_params(folder, dtype='bfloat16'))
  for path, x in read.items():
    assert x.dtype == ('float32' if path[1] in WIDE else 'bfloat16')


def test_text_only(folder):
  read = gm.from_pretrained(folder, text_only=True)
  assert read.model.config.vision_encoder is None
  equal(read.params, text_of(CASE.params))
  given = jax.tree.map(jnp.zeros_like, text_of(CASE.params))
  equal(gm.ckpts.load_params(folder, params=given), read.params)
  assert gm.model_from_folder(folder).config.vision_encoder is not None


@pytest.mark.parametrize(
  'text, vision',
  [
    ('language_model.model.', 'vision_tower.'),
    ('model.language_model.', 'model.vision_tower.'),
    ('model.language_model.', 'model.vision_tower.vision_model.'),
  ],
)
def test_names_of_other_versions(folder, text, vision):
  file = folder / 'model.safetensors'
  tensors = {
    name.replace('language_model.model.', text).replace(
      'vision_tower.vision_model.', vision
    ): x
    for name, x in safetensors.numpy.load_file(file).items()
  }
  if text.startswith('model.'):
    tensors = {
      name.replace('multi_modal_', 'model.multi_modal_'): x
      for name, x in tensors.items()
    }
  tensors[f'{vision}head.probe'] = np.zeros((1, 1, 24), np.float32)
  safetensors.numpy.save_file(tensors, file)
  equal(gm.ckpts.load_params(folder), CASE.params)


@pytest.mark.parametrize('layout', ['FLAT', 'STACKED', 'NESTED'])
def test_orbax_round_trip(layout, tmp_path):
  layout = _layouts.Layout[layout]
  gm.ckpts.save_params(CASE.params, tmp_path / 'm', layout=layout)
  equal(gm.ckpts.load_params(tmp_path / 'm'), CASE.params)
  text = gm.ckpts.load_params(tmp_path / 'm', text_only=True)
  equal(text, text_of(CASE.params))


PUBLISHED = {
  'model_type': 'gemma3',
  'boi_token_index': 255_999,
  'eoi_token_index': 256_000,
  'image_token_index': 262_144,
  'mm_tokens_per_image': 256,
  'text_config': {
    'model_type': 'gemma3_text',
    'hidden_size': 2560,
    'intermediate_size': 10240,
    'num_hidden_layers': 34,
    'rope_scaling': {'factor': 8.0, 'rope_type': 'linear'},
    'sliding_window': 1024,
  },
  'vision_config': {
    'model_type': 'siglip_vision_model',
    'hidden_size': 1152,
    'image_size': 896,
    'intermediate_size': 4304,
    'num_attention_heads': 16,
    'num_hidden_layers': 27,
    'patch_size': 14,
    'vision_use_head': False,
  },
}


@pytest.mark.parametrize('drop', [(), ('hidden_size', 'image_size')])
def test_published_file_gives_the_preset(drop):
  vision = {
    k: v for k, v in PUBLISHED['vision_config'].items() if k not in drop
  }
  read = _hf_config.from_hf(PUBLISHED | {'vision_config': vision})
  mine = gm.nn.Gemma3_4B().config
  assert read.vision_encoder == mine.vision_encoder
  assert read.image_tokens == mine.image_tokens
  assert (read.num_embed, read.vocab_size) == (262_208, None)
  text = _hf_config.from_hf(PUBLISHED, text_only=True)
  assert text.vision_encoder is None and text.layers() == mine.layers()


def test_published_folders_have_rows_of_padding():
  """Those that stand for no token are as unlikely as padding."""
  config = gm.nn.Gemma3_4B().config
  assert _hf_config.to_hf(config)['text_config']['vocab_size'] == 262_208
  row = next(iter(_hf_layout.table(config)))
  small = dataclasses.replace(row, rows=3)
  table = jnp.arange(6.0).reshape(3, 2)
  (written,) = small.write(table)
  assert written.shape == (67, 2)
  np.testing.assert_array_equal(small.read([written]), table)
  np.testing.assert_array_equal(written[3:], np.tile(table[0], (64, 1)))
  text = next(iter(_hf_layout.table(gm.nn.Gemma3_4B(text_only=True).config)))
  assert text.padding == 0


def changed(folder, **vision):
  file = folder / 'config.json'
  config = json.loads(file.read_text())
  config['vision_config'] |= vision
  file.write_text(json.dumps(config))


def test_errors_of_folders(folder, tmp_path):
  changed(folder, num_hidden_layers=3)
  with pytest.raises(
    ValueError, match=r'missing: vision_tower.encoder.layers.2'
  ):
    gm.ckpts.load_params(folder)
  gm.ckpts.load_params(folder, text_only=True)
  changed(folder, layer_norm_eps=1e-5)
  with pytest.raises(ValueError, match=r'layer_norm_eps=1e-05.* 1e-06'):
    gm.ckpts.load_params(folder)
  text = cases.GEMMA3
  gm.ckpts.save_hf(tmp_path / 't', model=text.model, params=text.params)
  with pytest.raises(ValueError, match='has MM params'):
    gm.ckpts.load_params(tmp_path / 't', params=CASE.params, donate=False)
  same = {'global_base_frequency': 10_000, 'global_scale_factor': 1.0}
  config = dataclasses.replace(CASE.config, use_qk_norm=False, **same)
  with pytest.raises(ValueError, match='vision encoder in a gemma2'):
    _hf_config.to_hf(config)
  encoder = CASE.config.vision_encoder.clone(image_channels=1)
  config = dataclasses.replace(CASE.config, vision_encoder=encoder)
  with pytest.raises(
    ValueError, match='image_channels=1 of the vision encoder'
  ):
    _hf_config.to_hf(config)
