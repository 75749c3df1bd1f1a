"""Checkpoints in: what is not read, does not fit, or is damaged."""

import gc
import shutil
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from gemma import gm
from trees import CASE
from trees import LAYOUTS
from trees import WIDE
from trees import bytes_read
from trees import cast
from trees import change
from trees import equal
from trees import over
from trees import save_trainer
from trees import text_of
from trees import with_vision
from trees import zeros


@pytest.fixture
def late(monkeypatch):
  """When one array cannot be read, Orbax leaves the reading of the others.

  They end after its event loop is closed, and say so where nobody listens.
  """
  monkeypatch.setattr(sys, 'unraisablehook', lambda unraisable: None)
  yield
  time.sleep(0.5)
  gc.collect()


# What is not read.


@LAYOUTS
def test_text_only_does_not_read_the_encoder(layout, tmp_path):
  params = with_vision()
  gm.ckpts.save_params(params, tmp_path / 'm', layout=layout)
  size = sum(x.nbytes for x in jax.tree.leaves(text_of(params)))
  rest = sum(x.nbytes for x in jax.tree.leaves(params)) - size
  for kwargs in ({'text_only': True}, {'params': zeros(text_of(params))}):
    before = bytes_read()
    equal(gm.ckpts.load_params(tmp_path / 'm', **kwargs), text_of(params))
    assert bytes_read() - before < size + rest / 4
  before = bytes_read()
  equal(gm.ckpts.load_params(tmp_path / 'm', params=zeros(params)), params)
  assert bytes_read() - before > size / 2 + rest / 2


def save_files(tree, folder):
  """A checkpoint with the files of each array in a folder of its own."""
  import orbax.checkpoint as ocp

  handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False)
  with ocp.Checkpointer(handler) as checkpointer:
    checkpointer.save(folder, args=ocp.args.PyTreeSave(tree))


def test_text_only_works_when_files_of_the_encoder_are_gone(tmp_path, late):
  params = with_vision(8)
  save_files(params, tmp_path / 'm')
  for name in ('vision_encoder', 'embedder.mm_'):
    for folder in (tmp_path / 'm').glob(f'{name}*'):
      for file in folder.glob('[0-9]*'):
        file.unlink()
  equal(gm.ckpts.load_params(tmp_path / 'm', text_only=True), text_of(params))
  with pytest.raises(ValueError, match='3 arrays in .* are damaged') as error:
    gm.ckpts.load_params(tmp_path / 'm')
  for name in (*WIDE, 'vision_encoder/siglip_encoder/a/kernel'):
    assert name in str(error.value)


def test_trainer_without_its_optimizer(tmp_path):
  rng = np.random.RandomState(0)
  moments = [rng.normal(size=(512, 512)) for _ in range(4)]
  save_trainer(CASE.params, tmp_path / 'ckpt_3', moments)
  before = bytes_read()
  equal(gm.ckpts.load_params(tmp_path / 'ckpt_3'), CASE.params)
  size = sum(x.nbytes for x in jax.tree.leaves(CASE.params))
  assert bytes_read() - before < size + moments[0].nbytes
  equal(gm.ckpts.load_params(tmp_path / 'ckpt_3' / 'default'), CASE.params)
  with pytest.raises(ValueError, match=r"several checkpoints: \['ckpt_3'\]"):
    gm.ckpts.load_params(tmp_path)


def test_trainer_step_into_given_params(tmp_path):
  save_trainer(with_vision(8), tmp_path / 'ckpt_3')
  given = cast(zeros(CASE.params), jnp.bfloat16)
  read = gm.ckpts.load_params(tmp_path / 'ckpt_3', params=given)
  equal(read, cast(CASE.params, jnp.bfloat16))


# What does not fit.


@pytest.mark.parametrize('layout', ['NESTED', 'FLAT', 'STACKED', 'hf'])
def test_all_that_does_not_fit_is_listed_and_nothing_freed(layout, tmp_path):
  if layout == 'hf':
    gm.ckpts.save_hf(tmp_path / 'm', model=CASE.model, params=CASE.params)
  else:
    gm.ckpts.save_params(CASE.params, tmp_path / 'm', layout=layout)
  given = change(
    **{
      'final_norm/scale': None,
      'layer_1/mlp/linear': jnp.ones((3, 2)),
      'layer_2/new/w': jnp.ones(3),
      'layer_9/mlp/linear': jnp.ones(3),
    }
  )
  with pytest.raises(ValueError, match='4 parameters in') as error:
    gm.ckpts.load_params(tmp_path / 'm', params=given)
  for line in (
    'missing: layer_2/new/w (3,)',
    'missing: layer_9/mlp/linear (3,)',
    'extra: final_norm/scale (32,)',
    'mis-shaped: layer_1/mlp/linear is (48, 32) in the checkpoint, (3, 2)',
  ):
    assert line in str(error.value)
  assert not any(x.is_deleted() for x in jax.tree.leaves(given))


@pytest.mark.parametrize('other', cases.CASES[:4], ids=str)
def test_other_generation(other, tmp_path):
  gm.ckpts.save_params(other.params, tmp_path / 'm', layout='FLAT')
  given = zeros(CASE.params)
  with pytest.raises(ValueError, match='of another model') as error:
    gm.ckpts.load_params(tmp_path / 'm', params=given)
  assert 'missing: layer_4/attn/_key_norm/scale' in str(error.value)
  assert not any(x.is_deleted() for x in jax.tree.leaves(given))


def bad_arguments():
  params = with_vision(8)
  text = text_of(params)
  flat = {'transformer/final_norm': {'scale': jnp.ones(3)}}
  return {
    'sharding': ({'params': text, 'sharding': over(1)}, 'mutually exclusive'),
    'dtype': ({'params': text, 'dtype': 'float32'}, 'mutually exclusive'),
    'text only': (
      {'params': params, 'text_only': True},
      'has multimodal parameters: .*mm_input_projection',
    ),
    'vision': ({'params': params}, 'has MM params .* has none'),
    'layout': ({'params': flat}, 'has the FLAT layout'),
    'leaf': ({'params': {'a': 'b'}}, "no arrays .*'a': 'str'"),
    'no sharding': ({'sharding': {'embedder': over(1)}}, 'no sharding given'),
    'odd sharding': (
      {'sharding': {key: 3 for key in text}},
      'embedder: int is no sharding',
    ),
    'uneven': (
      {'sharding': over(3, 'x')},
      'cannot be placed by `sharding`:\n  .*final_norm/scale',
    ),
  }


@pytest.mark.parametrize('name', bad_arguments())
def test_bad_arguments(name, tmp_path):
  kwargs, message = bad_arguments()[name]
  gm.ckpts.save_params(CASE.params, tmp_path / 'm')
  with pytest.raises(ValueError, match=f'(?s){message}'):
    gm.ckpts.load_params(tmp_path / 'm', **kwargs)
  given = jax.tree.leaves(kwargs.get('params', {}))
  assert not any(x.is_deleted() for x in given if isinstance(x, jax.Array))


# What is damaged.


def test_missing_array_files(tmp_path, late):
  save_files(CASE.params, tmp_path / 'm')
  (tmp_path / 'm' / 'final_norm.scale' / '0').unlink()
  shutil.rmtree(tmp_path / 'm' / 'layer_0.mlp.linear')
  with pytest.raises(ValueError, match='damaged|missing') as error:
    gm.ckpts.load_params(tmp_path / 'm')
  assert 'layer_0/mlp/linear' in str(error.value) or (
    'layer_0.mlp.linear' in str(error.value)
  )


def data_file(folder):
  files = (folder / 'ocdbt.process_0' / 'd').iterdir()
  return max(files, key=lambda file: file.stat().st_size)


def truncate(file):
  file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file):
  data = bytearray(file.read_bytes())
  data[len(data) // 2] ^= 0xFF
  file.write_bytes(bytes(data))


DAMAGE = {
  'truncated': lambda folder: truncate(data_file(folder)),
  # Values have no checksum; the index of the arrays has one.
  'flipped': lambda folder: [*map(flip, (folder / 'd').iterdir())],
  'gone': lambda folder: data_file(folder).unlink(),
  'no manifest': lambda folder: (folder / 'manifest.ocdbt').unlink(),
  'manifest': lambda folder: flip(folder / 'manifest.ocdbt'),
  'metadata cut': lambda folder: truncate(folder / '_METADATA'),
  'metadata empty': lambda folder: (folder / '_METADATA').write_text('{}'),
  'metadata gone': lambda folder: (folder / '_METADATA').unlink(),
}


@pytest.mark.parametrize('name', DAMAGE)
def test_damage(name, tmp_path, late):
  gm.ckpts.save_params(CASE.params, tmp_path / 'm')
  DAMAGE[name](tmp_path / 'm')
  with pytest.raises(ValueError, match='damaged') as error:
    gm.ckpts.load_params(tmp_path / 'm')
  assert str(tmp_path / 'm') in str(error.value)
