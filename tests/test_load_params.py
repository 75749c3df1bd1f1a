"""Checkpoints in: from every layout, into any dtype and shards."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from gemma import gm
import make_golden_checkpoints
from trees import CASE
from trees import LAYOUTS
from trees import WIDE
from trees import cast
from trees import dtypes
from trees import equal
from trees import over
from trees import with_vision
from trees import zeros

# What comes out.


@pytest.mark.parametrize(
  'name', ['flat', 'stacked', 'trainer/checkpoints/ckpt_3']
)
def test_written_by_others(name):
  """`make_golden_checkpoints.py` says by what."""
  folder = make_golden_checkpoints.FOLDER / name
  equal(gm.ckpts.load_params(folder), make_golden_checkpoints.params())


@pytest.mark.kauldron
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
      'layer_4': {**{key: over(1) for key in CASE.params['layer_4']}},
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
    assert set(jax.tree.leaves(where['layer_4'])) == {over(1)}
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
  where['layer_2']['mlp']['linear'] = over(2)
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
