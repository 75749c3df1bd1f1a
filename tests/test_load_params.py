"""Checkpoints in: from every layout, into any dtype and shards, or an error."""

import dataclasses
import gc
import os
import shutil
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore

import cases
from gemma import gm
from gemma.gm.ckpts import _paths
from gemma.gm.ckpts import _tree
import make_golden_checkpoints

CASE = cases.CASES[-1]
LAYOUTS = pytest.mark.parametrize('layout', ['NESTED', 'FLAT', 'STACKED'])
VISION = 'SigLiPFromPatches_0'
WIDE = 'mm_input_projection', 'mm_soft_embedding_norm'


def equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)
  assert jax.tree.leaves(dtypes(a)) == jax.tree.leaves(dtypes(b))


def dtypes(tree):
  return jax.tree.map(lambda x: x.dtype, tree)


def cast(tree, dtype):
  return jax.tree.map(lambda x: x.astype(dtype), tree)


def zeros(tree):
  return jax.tree.map(jnp.zeros_like, tree)


def over(count, *axes):
  """A sharding over some of the devices."""
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:count]), ('x',))
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))


def with_vision(side=256):
  """A text model, and a make-believe encoder whose arrays are the larger."""
  params = jax.tree.map(lambda x: x, CASE.params)
  rng = np.random.RandomState(0)
  big = rng.normal(size=(side, side)).astype(np.float32)
  params['vision_encoder'] = {'siglip_encoder': {'a': {'kernel': big}}}
  params['embedder'] |= {
    'mm_input_projection': {'w': jnp.asarray(big, jnp.bfloat16)},
    'mm_soft_embedding_norm': {'scale': jnp.ones(3, jnp.bfloat16)},
  }
  return jax.tree.map(jnp.asarray, params)


def text_of(params):
  out = {k: v for k, v in params.items() if k != 'vision_encoder'}
  embedder = out['embedder'].items()
  out['embedder'] = {k: v for k, v in embedder if k not in WIDE}
  return out


def bytes_read():
  name = '/tensorstore/kvstore/file/bytes_read'
  found = tensorstore.experimental_collect_matching_metrics(name)
  return sum(value['value'] for metric in found for value in metric['values'])


def save_trainer(params, folder, opt_state=()):
  """A step as a trainer writes it: see `golden/checkpoints/trainer`."""
  import orbax.checkpoint as ocp

  state = {
    'params': params,
    'opt_state': opt_state,
    'step': np.asarray(3),
    'collections': {},
  }
  args = ocp.args.Composite(default=ocp.args.StandardSave(state))
  handler = ocp.CompositeCheckpointHandler()
  with ocp.Checkpointer(handler) as checkpointer:
    checkpointer.save(folder, args=args)


# What comes out.


@pytest.mark.parametrize(
  'name', ['flat', 'stacked', 'trainer/checkpoints/ckpt_3']
)
def test_written_by_others(name):
  """`make_golden_checkpoints.py` says by what."""
  folder = make_golden_checkpoints.FOLDER / name
  equal(gm.ckpts.load_params(folder), make_golden_checkpoints.params())


@pytest.mark.parity
@pytest.mark.filterwarnings('default')  # It has its own.
def test_written_by_the_installed_trainer(tmp_path):
  pytest.importorskip('kauldron')
  make_golden_checkpoints._by_kauldron(tmp_path)
  params = gm.ckpts.load_params(tmp_path / 'checkpoints' / 'ckpt_3')
  equal(params, make_golden_checkpoints.params())


@LAYOUTS
@pytest.mark.parametrize('case', cases.CASES, ids=str)
def test_saved_and_read(case, layout, tmp_path):
  params = cast(case.params, jnp.bfloat16)
  gm.ckpts.save_params(params, tmp_path / 'm', layout=layout)
  equal(gm.ckpts.load_params(tmp_path / 'm'), params)


@LAYOUTS
def test_dtype(layout, tmp_path):
  gm.ckpts.save_params(with_vision(8), tmp_path / 'm', layout=layout)
  read = gm.ckpts.load_params(tmp_path / 'm', dtype=jnp.bfloat16)
  for name in WIDE:  # They overflow in less than float32.
    wide = read['embedder'].pop(name)
    assert {x.dtype for x in jax.tree.leaves(wide)} == {jnp.dtype('float32')}
  assert {x.dtype for x in jax.tree.leaves(read)} == {jnp.dtype('bfloat16')}


def test_relative_path(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  gm.ckpts.save_params(CASE.params, 'm')
  equal(gm.ckpts.load_params('m'), CASE.params)


def test_progress(tmp_path, monkeypatch):
  from gemma.gm.ckpts import _load_orbax

  monkeypatch.setattr(_load_orbax, '_BATCH', 50_000)
  gm.ckpts.save_params(CASE.params, tmp_path / 'm', layout='STACKED')
  steps = []
  read = gm.ckpts.load_params(
    tmp_path / 'm',
    restore_concurrent_gb=1,
    on_progress=lambda *step: steps.append(step),
  )
  equal(read, CASE.params)
  total = sum(x.nbytes for x in jax.tree.leaves(CASE.params))
  assert len(steps) > 3 and steps == sorted(steps) and steps[-1] == (total,) * 2


# Where it goes.


def shard(path, x):
  """Over 4 devices, on the last axis that they divide."""
  del path
  axes = [None] * x.ndim
  for i, size in enumerate(x.shape):
    if size % 4 == 0:
      axes = [None] * x.ndim
      axes[i] = 'x'
  return over(4, *axes)


def sharded(tree):
  return jax.tree_util.tree_map_with_path(shard, tree)


@LAYOUTS
def test_whole_on_each_device_by_default(layout, tmp_path):
  gm.ckpts.save_params(CASE.params, tmp_path / 'm', layout=layout)
  for x in jax.tree.leaves(gm.ckpts.load_params(tmp_path / 'm')):
    assert x.sharding.is_fully_replicated and len(x.devices()) == 4


@pytest.mark.parametrize('layout', ['NESTED', 'FLAT', 'STACKED', 'hf'])
@pytest.mark.parametrize(
  'sharding',
  {
    'one': over(1),
    'function': sharded,
    'tree': sharded(CASE.params),
    'mixed': {key: None for key in CASE.params}
    | {
      'embedder': sharded,
      'layer_0': over(2),
      'layer_7': {**{key: over(1) for key in CASE.params['layer_7']}},
    },
  }.items(),
  ids=lambda item: item[0],
)
def test_sharding(layout, sharding, tmp_path):
  name, given = sharding
  if layout == 'hf':
    gm.ckpts.save_hf(tmp_path / 'm', model=CASE.model, params=CASE.params)
  else:
    gm.ckpts.save_params(CASE.params, tmp_path / 'm', layout=layout)
  read = gm.ckpts.load_params(tmp_path / 'm', sharding=given)
  equal(read, CASE.params)
  where = jax.tree.map(lambda x: x.sharding, read)
  if name == 'one':
    assert {x for x in jax.tree.leaves(where)} == {over(1)}
  elif name == 'mixed':
    assert where['embedder'] == sharded(CASE.params['embedder'])
    assert set(jax.tree.leaves(where['layer_0'])) == {over(2)}
    assert set(jax.tree.leaves(where['layer_7'])) == {over(1)}
    assert where['final_norm']['scale'].is_fully_replicated
  else:
    assert where == sharded(CASE.params)


@pytest.mark.parametrize('layout', ['NESTED', 'FLAT', 'STACKED', 'hf'])
@pytest.mark.parametrize('abstract', [False, True])
def test_into_given_params(layout, abstract, tmp_path):
  """Dtypes and shardings are those given; freed are the given arrays."""
  if layout == 'hf':
    gm.ckpts.save_hf(tmp_path / 'm', model=CASE.model, params=CASE.params)
  else:
    gm.ckpts.save_params(CASE.params, tmp_path / 'm', layout=layout)
  where = sharded(CASE.params)
  where['final_norm']['scale'] = over(1)
  where['layer_6']['mlp']['linear'] = over(2)
  given = jax.device_put(cast(zeros(CASE.params), jnp.bfloat16), where)
  given['layer_3'] = cast(given['layer_3'], jnp.float32)
  kinds = dtypes(given)
  target = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), given
  )
  read = gm.ckpts.load_params(
    tmp_path / 'm', params=target if abstract else given
  )
  equal(read, jax.tree.map(lambda x, d: x.astype(d), CASE.params, kinds))
  assert jax.tree.map(lambda x: x.sharding, read) == where
  freed = [x.is_deleted() for x in jax.tree.leaves(given)]
  assert set(freed) == {not abstract}


def test_given_params_are_kept_on_request(tmp_path):
  gm.ckpts.save_params(CASE.params, tmp_path / 'm')
  given = zeros(CASE.params)
  equal(
    gm.ckpts.load_params(tmp_path / 'm', params=given, donate=False),
    CASE.params,
  )
  equal(given, zeros(CASE.params))


def test_numpy_params_and_structs_without_a_sharding(tmp_path):
  gm.ckpts.save_params(CASE.params, tmp_path / 'm')
  for given in (
    jax.tree.map(np.zeros_like, CASE.params),
    jax.eval_shape(lambda: CASE.params),
  ):
    read = gm.ckpts.load_params(tmp_path / 'm', params=given)
    equal(read, CASE.params)


@LAYOUTS
def test_array_or_w(layout, tmp_path):
  """Arrays that are stored as leaf of a module, or one deeper."""
  nested = CASE.params
  gm.ckpts.save_params(nested, tmp_path / 'm', layout=layout)
  given = zeros(nested)
  given['layer_1']['mlp'] = {
    key: {'w': x} for key, x in given['layer_1']['mlp'].items()
  }
  given['layer_2']['attn']['q_einsum'] = given['layer_2']['attn']['q_einsum'][
    'w'
  ]
  given['layer_3']['attn']['_LoRAEinsum_0'] = {}
  read = gm.ckpts.load_params(tmp_path / 'm', params=given)
  del given['layer_3']['attn']['_LoRAEinsum_0']
  assert jax.tree.structure(read) == jax.tree.structure(given)
  np.testing.assert_array_equal(
    read['layer_1']['mlp']['linear']['w'], nested['layer_1']['mlp']['linear']
  )
  np.testing.assert_array_equal(
    read['layer_2']['attn']['q_einsum'],
    nested['layer_2']['attn']['q_einsum']['w'],
  )


_OTHER_MACHINE = """
import sys
import jax, numpy as np
from gemma import gm

path, count, where = sys.argv[1], int(sys.argv[2]), sys.argv[3]
assert len(jax.devices()) == count
mesh = jax.sharding.Mesh(np.array(jax.devices()), ('x',))
def place(tree):
  def one(x):
    spec = [None] * len(x.shape)
    axes = [i for i, size in enumerate(x.shape) if size % count == 0]
    if axes:
      spec[axes[0 if where == 'first' else -1]] = 'x'
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
  return jax.tree.map(one, tree)
params = gm.ckpts.load_params(path, sharding=place)
if len(sys.argv) > 4:
  gm.ckpts.save_params(params, sys.argv[4], layout=sys.argv[5])
whole = [x.sharding.is_fully_replicated for x in jax.tree.leaves(params)]
assert count == 1 or not all(whole)
"""


def on_devices(count, *args):
  flags = f'--xla_force_host_platform_device_count={count}'
  subprocess.run(
    [sys.executable, '-c', _OTHER_MACHINE, *map(str, args)],
    check=True,
    env=os.environ | {'XLA_FLAGS': flags},
  )


@pytest.mark.parametrize('layout', ['NESTED', 'STACKED'])
def test_files_do_not_remember_the_machine(layout, tmp_path):
  """Written from 8 devices; read on 4, in other shards, and on 1."""
  gm.ckpts.save_params(CASE.params, tmp_path / 'm')
  on_devices(8, tmp_path / 'm', 8, 'first', tmp_path / '8', layout)
  equal(gm.ckpts.load_params(tmp_path / '8', sharding=sharded), CASE.params)
  on_devices(1, tmp_path / '8', 1, 'last', tmp_path / '1', layout)
  equal(gm.ckpts.load_params(tmp_path / '1'), CASE.params)


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


def change(**changes):
  """Zeros like the tiny model's, with some parameters changed or removed."""
  flat = _tree.flatten(zeros(CASE.params))
  for path, value in changes.items():
    if value is None:
      del flat[path]
    else:
      flat[path] = value
  return _tree.unflatten(flat)


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


@pytest.mark.parametrize('other', cases.CASES[:-2], ids=str)
def test_other_generation(other, tmp_path):
  gm.ckpts.save_params(other.params, tmp_path / 'm', layout='FLAT')
  given = zeros(CASE.params)
  with pytest.raises(ValueError, match='of another model') as error:
    gm.ckpts.load_params(tmp_path / 'm', params=given)
  assert 'missing: layer_7/attn/_key_norm/scale' in str(error.value)
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


# Paths.


def test_published_paths():
  names = [path.name for path in gm.ckpts.CheckpointPath]
  assert len(names) == 29
  for path in gm.ckpts.CheckpointPath:
    if path.name != 'GEMMA3_TINY_IT':
      name = path.name.lower().replace('_', '-')
      assert path == f'gs://gemma-data/checkpoints/{name}'
  assert gm.ckpts.CheckpointPath.GEMMA4_26B_A4B_IT.endswith('gemma4-26b-a4b-it')


REMOTE = {
  'gs://b/c': 'gs://b/c is remote. Download.*gcloud storage.*install gcsfs',
  's3://b/c': 's3://b/c is remote. Download.*aws s3.*install s3fs',
  'ftp://b/c': 'ftp:// is not read from',
}


@pytest.mark.parametrize('path, message', REMOTE.items(), ids=lambda x: x[:4])
def test_remote_path_without_what_reads_it(path, message, monkeypatch):
  for name in ('gcsfs', 's3fs', 'tensorflow'):
    monkeypatch.setitem(sys.modules, name, None)
  with pytest.raises(ValueError, match=message):
    gm.ckpts.load_params(path)


def test_remote_path_out_of_reach(monkeypatch):
  from etils import epath

  def exists(self):
    raise ConnectionError('no route')

  monkeypatch.setattr(epath.Path('gs://a').__class__, 'exists', exists)
  with pytest.raises(ValueError, match='cannot be reached .*no route'):
    gm.ckpts.load_params('gs://b/c')


def test_hugging_face_folder_in_a_bucket(tmp_path, monkeypatch):
  from etils import epath

  monkeypatch.setattr(_paths, 'folder_of', epath.Path)
  gm.ckpts.save_hf(tmp_path / 'm', model=CASE.model, params=CASE.params)
  with pytest.raises(ValueError, match='in a bucket.*download it'):
    gm.ckpts.load_params(tmp_path / 'm')


@LAYOUTS
def test_paths_of_buckets_have_the_methods_that_are_used(
  layout, tmp_path, monkeypatch
):
  """The class that reads `gs://`, on a local folder."""
  from etils import epath

  monkeypatch.setattr(_paths, 'folder_of', epath.Path)
  gm.ckpts.save_params(CASE.params, tmp_path / 'm', layout=layout)
  equal(gm.ckpts.load_params(tmp_path / 'm'), CASE.params)
  with pytest.raises(FileNotFoundError):
    gm.ckpts.load_params(tmp_path / 'n')
  with pytest.raises(ValueError, match='several checkpoints'):
    gm.ckpts.load_params(tmp_path)


def test_missing_folder_is_both_errors(tmp_path):
  for kind in (FileNotFoundError, ValueError):
    with pytest.raises(kind, match='No folder'):
      gm.ckpts.load_params(tmp_path / 'm')


# Saving.


def test_existing_folder_is_both_errors(tmp_path):
  for kind in (FileExistsError, ValueError):
    with pytest.raises(kind, match='exists'):
      gm.ckpts.save_params(CASE.params, tmp_path)


def test_nothing_half_written(tmp_path, monkeypatch):
  import orbax.checkpoint as ocp

  with pytest.raises(ValueError, match="not: {'a': 'str'}"):
    gm.ckpts.save_params({'a': 'b'}, tmp_path / 'm')
  with pytest.raises(ValueError, match='layout='):
    gm.ckpts.save_params(CASE.params, tmp_path / 'm', layout='FLATTER')

  def fail(*args, **kwargs):
    raise OSError('disk full')

  handler = ocp.StandardCheckpointHandler
  monkeypatch.setattr(handler, 'async_save', fail)
  monkeypatch.setattr(handler, 'save', fail)
  with pytest.raises(OSError, match='disk full'):
    gm.ckpts.save_params(CASE.params, tmp_path / 'm')
  assert not list(tmp_path.iterdir())


def test_in_the_background(tmp_path):
  gm.ckpts.save_params(
    CASE.params, tmp_path / 'm', wait_until_finished=False, save_concurrent_gb=1
  )
  while not (tmp_path / 'm').exists():
    pass
  equal(gm.ckpts.load_params(tmp_path / 'm'), CASE.params)


# What a trainer calls.


@dataclasses.dataclass(frozen=True)
class State:
  """A training state, as transforms see it."""

  params: dict
  step: int = 0

  def replace(self, **changes):
    return dataclasses.replace(self, **changes)


def test_load_checkpoint(tmp_path):
  gm.ckpts.save_params(CASE.params, tmp_path / 'm', layout='FLAT')
  state = State(zeros(CASE.params), step=7)
  transform = gm.ckpts.LoadCheckpoint(tmp_path / 'm')
  new = transform.transform(state)
  equal(new.params, CASE.params)
  assert new.step == 7
  assert all(x.is_deleted() for x in jax.tree.leaves(state.params))
  assert transform.transform_after_optimizer(new) is new


def test_skip_lora(tmp_path):
  gm.ckpts.save_params(CASE.params, tmp_path / 'm')
  given = zeros(CASE.params)
  adapters = {'lora': {'a': jnp.ones((3, 2)), 'b': jnp.ones((2, 3))}}
  given['layer_0']['attn']['q_einsum']['_LoRAEinsum_0'] = adapters
  given['layer_1']['mlp']['_LoRAEinsum_linear'] = adapters
  given['layer_2']['empty'] = {}
  transform = gm.ckpts.SkipLoRA(wrapped=gm.ckpts.LoadCheckpoint(tmp_path / 'm'))
  new = transform.transform(State(given)).params
  assert jax.tree.structure(new) == jax.tree.structure(given)
  assert new['layer_1']['mlp'].pop('_LoRAEinsum_linear') == adapters
  assert new['layer_0']['attn']['q_einsum'].pop('_LoRAEinsum_0') == adapters
  assert new['layer_2'].pop('empty') == {}
  equal(new, CASE.params)
  state = State(new)
  assert transform.transform_after_optimizer(state) is state


def test_anchored_policy(tmp_path):
  gm.ckpts.save_params(CASE.params, tmp_path / 'p')
  other = jax.tree.map(lambda x: x + 1, CASE.params)
  gm.ckpts.save_params(other, tmp_path / 'a')
  policy = gm.ckpts.LoadCheckpoint(tmp_path / 'p')

  def state():
    return State({'policy': zeros(CASE.params), 'anchor': zeros(CASE.params)})

  both = gm.ckpts.AnchoredPolicyLoader(policy=policy).transform(state()).params
  equal(both['policy'], CASE.params)
  equal(both['anchor'], CASE.params)
  jax.tree.map(lambda x: x.delete(), both['policy'])
  equal(both['anchor'], CASE.params)  # A copy, not the same arrays.

  anchor = gm.ckpts.LoadCheckpoint(tmp_path / 'a')
  loader = gm.ckpts.AnchoredPolicyLoader(policy=policy, anchor=anchor)
  both = loader.transform(state()).params
  equal(both['policy'], CASE.params)
  equal(both['anchor'], other)


def test_anchored_policy_errors(tmp_path):
  gm.ckpts.save_params(CASE.params, tmp_path / 'm')
  loader = gm.ckpts.AnchoredPolicyLoader(
    policy=gm.ckpts.LoadCheckpoint(tmp_path / 'm')
  )
  with pytest.raises(ValueError, match="under \\['a'\\], not under"):
    loader.transform(State({'a': {}}))
  given = {
    'policy': zeros(CASE.params),
    'anchor': change(**{'final_norm/scale': None}),
  }
  with pytest.raises(ValueError, match="copy .*'final_norm/scale'"):
    loader.transform(State(given))
  assert not any(x.is_deleted() for x in jax.tree.leaves(given))
