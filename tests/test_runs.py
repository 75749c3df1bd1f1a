"""Checkpoints of whole runs: bit for bit, or an error; never half of one."""

import contextlib
import errno
import os
import pathlib
import resource
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gemma import gm
import run_states

HERE = pathlib.Path(__file__).parent
STATE = {'w': np.arange(5000.0), 'b': np.ones((3, 2), np.int8)}


def saved(folder, steps=(1, 2, 3), **options):
  """A folder with a checkpoint of each step; its arrays hold the step."""
  with gm.ckpts.RunCheckpoints(folder, keep=None, **options) as ckpts:
    for step in steps:
      ckpts.save(step, state_at(step), data={'row': step})


def state_at(step):
  return jax.tree.map(lambda x: (x + step).astype(x.dtype), STATE)


def assert_resumes(folder, step):
  ckpts = gm.ckpts.RunCheckpoints(folder, read_only=True)
  out = ckpts.resume(like=STATE)
  assert (out.step, out.data) == (step, {'row': step})
  run_states.assert_same(out.state, state_at(step))


def test_every_kind_of_leaf_comes_back_as_it_was(tmp_path):
  state = run_states.everything()
  with gm.ckpts.RunCheckpoints(tmp_path) as ckpts:
    ckpts.save(7, state)
    back, step, data = ckpts.resume(like=state)
  assert (step, data) == (7, None)
  run_states.assert_same(back, state)


def test_shapes_are_enough_to_restore(tmp_path):
  wide = run_states.sharding((4,), 'd', 'd')
  state = run_states.sharded(0, wide, wide)
  saved_by = gm.ckpts.RunCheckpoints(tmp_path)
  saved_by.save(1, state)
  like = jax.tree.map(
    lambda x: (
      jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=wide)
      if x.ndim
      else jax.ShapeDtypeStruct(x.shape, x.dtype)
    ),
    state,
  )
  run_states.assert_same(saved_by.resume(like).state, state)


POSITIONS = [
  None,
  {'epoch': 2, 'files': ['a', 'b'], 'share': 0.1, 3: None},
  {'rng': np.random.default_rng(5).bit_generator.state},
  {'offsets': np.arange(4, dtype=np.int16), 'at': np.float32(2), 'raw': b'\0'},
  (1, [(), {}, {'a': (b'',)}]),
]


@pytest.mark.parametrize('data', POSITIONS, ids=lambda x: type(x).__name__)
def test_position_of_the_data_has_a_structure_of_its_own(data, tmp_path):
  ckpts = gm.ckpts.RunCheckpoints(tmp_path)
  ckpts.save(1, STATE, data=data)
  back = ckpts.resume(STATE).data
  np.testing.assert_equal(back, data)
  assert repr(back) == repr(data)


def test_loop_goes_on_where_it_was_interrupted(tmp_path):
  """The same numbers as without the interruption, random keys included."""

  @jax.jit
  def train_step(state):
    key, sub = jax.random.split(state['key'])
    w = state['w'] * 0.9 + jax.random.normal(sub, (3,), jnp.bfloat16)
    return {'w': w, 'key': key}

  start = {'w': jnp.ones(3, jnp.bfloat16), 'key': jax.random.key(0)}
  whole = start
  for _ in range(6):
    whole = train_step(whole)
  for stop in (3, 6):
    with gm.ckpts.RunCheckpoints(tmp_path) as ckpts:
      state, first, _ = ckpts.resume(like=start)
      for _ in range(first, stop):
        state = train_step(state)
      ckpts.save(stop, state)
  run_states.assert_same(state['w'], whole['w'])


def test_nothing_saved_gives_what_was_given(tmp_path):
  ckpts = gm.ckpts.RunCheckpoints(tmp_path / 'new')
  state, step, data = ckpts.resume(like=STATE)
  assert state is STATE
  assert (step, data, ckpts.steps) == (0, None, ())


@pytest.mark.parametrize('keep, left', [(1, (5,)), (3, (3, 4, 5)), (None, 5)])
def test_the_newest_stay(keep, left, tmp_path):
  with gm.ckpts.RunCheckpoints(tmp_path, keep=keep) as ckpts:
    for step in range(1, 6):
      ckpts.save(step, STATE)
    assert ckpts.steps == (left or ()) or len(ckpts.steps) == left


MESHES = [((4,), 'd', 'd'), ((4,), 'd', (None, 'd')), ((2, 2), 'ab', 'ba'),
          ((2,), 'd', ('d',)), ((1,), 'd', ()), ((4,), 'd', ())]  # fmt: skip


@pytest.mark.parametrize('written', MESHES[:3], ids=str)
def test_any_sharding_reads_any_other(written, tmp_path):
  keys = run_states.sharding((4,), 'd', 'd')
  ckpts = gm.ckpts.RunCheckpoints(tmp_path)
  state = run_states.sharded(1, run_states.sharding(*written), keys)
  ckpts.save(1, state)
  file = tmp_path / 'step_00000001' / 'shards-0.bin'
  assert file.stat().st_size < 20_000  # Each piece once.
  for read in MESHES:
    like = run_states.sharded(2, run_states.sharding(*read), keys)
    expected = run_states.sharded(1, run_states.sharding(*read), keys)
    run_states.assert_same(ckpts.resume(like).state, expected)


@pytest.mark.slow
def test_files_do_not_remember_the_machine(tmp_path):
  """Written on 8 devices; read on 4, here, and on 1."""
  command = [sys.executable, HERE / 'run_devices.py', tmp_path]
  out = subprocess.run(command, capture_output=True, text=True, check=False)
  assert out.returncode == 0, out.stderr
  here = run_states.sharding((2, 2), 'ab', (None, ('a', 'b')))
  keys = run_states.sharding((2, 2), 'ab', 'b')
  ckpts = gm.ckpts.RunCheckpoints(tmp_path)
  out = ckpts.resume(run_states.sharded(0, here, keys)).state
  run_states.assert_same(out, run_states.sharded(3, here, keys))


def test_all_that_does_not_fit_is_in_one_error(tmp_path):
  ckpts = gm.ckpts.RunCheckpoints(tmp_path)
  ckpts.save(1, {'a': jnp.ones(3), 'b': 1, 'k': jax.random.key(0), 'old': 2.0})
  before = sorted(tmp_path.rglob('*'))
  like = {
    'a': jnp.ones((3, 1), jnp.bfloat16),
    'b': jnp.ones((), jnp.int32),
    'k': jax.random.PRNGKey(0),
    'new': None,
    'more': [jnp.zeros(2)],
  }
  with pytest.raises(ValueError, match='5 leaves of `like` do not') as error:
    ckpts.resume(like)
  for line in (
    "not in the checkpoint: state['more'][0], float32[2]",
    "only in the checkpoint: state['old'], float",
    "float32[3] in the checkpoint: state['a'], bfloat16[3,1]",
    "int in the checkpoint: state['b'], int32[]",
    "key<fry>[] in the checkpoint: state['k'], uint32[2]",
  ):
    assert line in str(error.value)
  assert sorted(tmp_path.rglob('*')) == before


def flip(path, at):
  raw = bytearray(path.read_bytes())
  raw[at] ^= 16
  path.write_bytes(raw)


FILES = ('index.json', 'shards-0.json', 'shards-0.bin')
DAMAGE = {
  'no longer what was written|checksum of .* differs': lambda p: flip(p, 40),
  'checksum of .* differs|no longer what': lambda p: flip(p, -9),
  'no longer what was written|bytes and had': (
    lambda p: p.write_bytes(p.read_bytes()[:-30])
  ),
  'no longer what was written|0 bytes and had': lambda p: p.write_bytes(b''),
  'is missing': lambda p: p.unlink(),
}


@pytest.mark.parametrize('file', FILES)
@pytest.mark.parametrize('reason', DAMAGE)
def test_damage_is_named_and_passed_over(file, reason, tmp_path):
  saved(tmp_path)
  DAMAGE[reason](tmp_path / 'step_00000003' / file)
  with pytest.warns(UserWarning, match=rf'step_00000003: .*({reason})'):
    assert_resumes(tmp_path, 2)


def test_every_byte_is_under_a_checksum(tmp_path):
  state = {'w': jnp.arange(3.0), 'n': 5, 'key': jax.random.key(0)}
  ckpts = gm.ckpts.RunCheckpoints(tmp_path)
  ckpts.save(1, state, data=(1, b'x'))
  for path in (tmp_path / 'step_00000001').iterdir():
    whole = path.read_bytes()
    for at in range(len(whole)):
      flip(path, at)
      with pytest.raises(ValueError, match='All checkpoints'):
        ckpts.resume(state)
      path.write_bytes(whole)
  assert ckpts.resume(state).step == 1


def test_when_all_are_damaged_all_are_listed(tmp_path):
  saved(tmp_path, (1, 2))
  for folder in tmp_path.glob('step_*'):
    (folder / 'index.json').unlink()
  with pytest.raises(ValueError, match='All checkpoints') as error:
    gm.ckpts.RunCheckpoints(tmp_path).resume(STATE)
  for step in (1, 2):
    assert f'step_0000000{step}: index.json is missing' in str(error.value)


def test_damaged_ones_are_set_aside_and_count_no_more(tmp_path):
  saved(tmp_path)
  flip(tmp_path / 'step_00000003' / 'shards-0.bin', 0)
  with gm.ckpts.RunCheckpoints(tmp_path, keep=1) as ckpts:
    with pytest.warns(UserWarning, match='passed over'):
      assert ckpts.resume(STATE).step == 2
    ckpts.save(3, state_at(3), data={'row': 3})
    assert ckpts.steps == (3,)
  assert (tmp_path / 'damaged-step_00000003').is_dir()
  assert_resumes(tmp_path, 3)


@contextlib.contextmanager
def largest_file(nbytes):
  """Writing more to a file fails in the middle, as on a full disk."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize('asynchronous', [False, True])
def test_full_disk_leaves_the_earlier_ones(asynchronous, tmp_path):
  saved(tmp_path, (1, 2))
  options = {'keep': 1, 'asynchronous': asynchronous}
  with gm.ckpts.RunCheckpoints(tmp_path, **options) as ckpts:
    with largest_file(10_000), pytest.raises(OSError) as error:
      ckpts.save(3, state_at(3))
      ckpts.wait()
    assert 'Step 3 was not saved' in error.value.__notes__[0]
    assert ckpts.steps == (1, 2)
    assert not [*tmp_path.glob('.saving-*')]
    assert_resumes(tmp_path, 2)
    ckpts.save(3, state_at(3), data={'row': 3})
  assert_resumes(tmp_path, 3)


CALLS = [(os, 'fsync', 1), (os, 'fsync', 2), (os, 'fsync', 3),
         (os, 'fsync', 4), (pathlib.Path, 'rename', 1)]  # fmt: skip


@pytest.mark.parametrize('module, name, at', CALLS)
def test_failure_at_any_call_leaves_the_earlier_ones(
  module, name, at, tmp_path, monkeypatch
):
  saved(tmp_path, (1, 2))
  real, calls = getattr(module, name), []

  def failing(*args):
    calls.append(args)
    if len(calls) == at:
      raise OSError(errno.EIO, 'no disk')
    return real(*args)

  with monkeypatch.context() as patch:
    patch.setattr(module, name, failing)
    with pytest.raises(OSError, match='no disk'):
      gm.ckpts.RunCheckpoints(tmp_path).save(3, STATE)
  assert_resumes(tmp_path, 2)


def test_in_the_background(tmp_path, monkeypatch):
  """`save` returns before the write, and what it saves can change."""
  go, real = threading.Event(), os.fsync

  def slow(handle):
    assert go.wait(10)
    real(handle)

  monkeypatch.setattr(os, 'fsync', slow)
  mine = {'w': np.zeros(3), 'x': jnp.ones(3)}
  with gm.ckpts.RunCheckpoints(tmp_path, asynchronous=True) as ckpts:
    ckpts.save(1, mine)
    mine['w'][:] = 9
    mine['x'] = jax.jit(lambda x: x + 9, donate_argnums=0)(mine['x'])
    assert ckpts.steps == ()
    go.set()
    ckpts.wait()
    state = ckpts.resume(mine).state
  np.testing.assert_array_equal(state['w'], np.zeros(3))
  np.testing.assert_array_equal(state['x'], np.ones(3))


def test_a_folder_has_one_run(tmp_path):
  one, two = (gm.ckpts.RunCheckpoints(tmp_path) for _ in range(2))
  one.save(1, STATE)
  for use in (lambda: two.save(2, STATE), lambda: two.resume(STATE)):
    with pytest.raises(RuntimeError, match=f'in use by process {os.getpid()}'):
      use()
  reader = gm.ckpts.RunCheckpoints(tmp_path, read_only=True)
  assert reader.resume(STATE).step == 1
  with pytest.raises(ValueError, match='read_only'):
    reader.save(2, STATE)
  del one  # As when a notebook's cell runs again.
  two.save(2, STATE)


def test_a_run_that_did_not_resume_overwrites_nothing(tmp_path):
  saved(tmp_path)
  for step in (1, 3):
    with pytest.raises(FileExistsError, match='has step 3 already'):
      gm.ckpts.RunCheckpoints(tmp_path).save(step, STATE)
  assert_resumes(tmp_path, 3)


def test_what_cannot_be_saved_is_named(tmp_path):
  ckpts = gm.ckpts.RunCheckpoints(tmp_path)
  with pytest.raises(TypeError, match=r"state\['f'\] is a builtins.object"):
    ckpts.save(1, {'f': object()})
  with pytest.raises(TypeError, match=r"state\['o'\] is an array of dtype"):
    ckpts.save(1, {'o': np.array([None])})
  with pytest.raises(TypeError, match=r'data.* is a .*ArrayImpl'):
    ckpts.save(1, STATE, data={'x': jnp.ones(1)})
  with pytest.raises(ValueError, match='step=-1'):
    ckpts.save(-1, STATE)
  with pytest.raises(ValueError, match='keep=0'):
    gm.ckpts.RunCheckpoints(tmp_path, keep=0)
  with pytest.raises(ValueError, match='is remote'):
    gm.ckpts.RunCheckpoints('gs://bucket/run')
  assert ckpts.steps == ()


@pytest.mark.slow
@pytest.mark.parametrize(
  'lives', [40, pytest.param(100, marks=pytest.mark.exhaustive)]
)
def test_a_run_may_be_killed_at_any_moment(lives, tmp_path):
  """Many lives, each killed while saving."""
  command = [sys.executable, HERE / 'run_killed.py', tmp_path, str(lives)]
  out = subprocess.run(command, capture_output=True, text=True, check=False)
  assert out.returncode == 0, out.stdout + out.stderr
  print(out.stdout)
