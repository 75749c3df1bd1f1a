"""How Hugging Face folders are read: which bytes, in what pieces."""

import pathlib

import jax
import numpy as np
import pytest
import safetensors.numpy

import cases
from gemma import gm
from gemma.gm.ckpts import _load_hf
from gemma.gm.ckpts import _safetensors
from gemma.gm.ckpts import _source

CASE = cases.GEMMA3


@pytest.fixture
def folder(tmp_path):
  """A model in several files."""
  path = tmp_path / 'model'
  gm.ckpts.save_hf(
    path, model=CASE.model, params=CASE.params, max_shard_bytes=30_000
  )
  assert len(list(path.glob('*.safetensors'))) > 2
  return path


def equal(left, right):
  jax.tree.map(np.testing.assert_array_equal, left, right)


def bytes_read():
  """What this process has read from files so far (Linux)."""
  lines = pathlib.Path('/proc/self/io').read_text().splitlines()
  return int(lines[0].removeprefix('rchar: '))


def test_text_only_reads_the_text_only(tmp_path):
  path = tmp_path / 'model'
  gm.ckpts.save_hf(path, model=CASE.model, params=CASE.params)
  file = path / 'model.safetensors'
  text = safetensors.numpy.load_file(file)
  picture = {'vision_tower.w': np.zeros(10**7, np.float32)}
  safetensors.numpy.save_file(picture | text, file)
  size = sum(x.nbytes for x in text.values())
  gm.ckpts.load_params(path, text_only=True)  # Whatever is imported is read.
  before = bytes_read()
  read = gm.ckpts.load_params(path, text_only=True)
  assert size < bytes_read() - before < size + 100_000
  equal(read, CASE.params)


@pytest.mark.slow
@pytest.mark.parametrize('piece', [1, 999, 10**9])
def test_pieces_make_the_whole(folder, piece, monkeypatch):
  ints = gm.ckpts.load_params(folder, quantize='int8')
  monkeypatch.setattr(_source, '_PIECE', piece)
  equal(gm.ckpts.load_params(folder), CASE.params)
  rounded = jax.tree.map(lambda x: x.astype('bfloat16'), CASE.params)
  equal(gm.ckpts.load_params(folder, dtype='bfloat16'), rounded)
  equal(gm.ckpts.load_params(folder, quantize='int8'), ints)


@pytest.mark.parametrize('threads', [1, 3])
def test_progress_whatever_the_threads(folder, threads, monkeypatch):
  monkeypatch.setattr(_load_hf, '_THREADS', threads)
  steps = []
  gm.ckpts.load_params(folder, on_progress=lambda *step: steps.append(step))
  total = sum(x.nbytes for x in jax.tree.leaves(CASE.params))
  assert steps == sorted(steps) and steps[-1] == (total, total)


def test_an_array_is_taken_without_a_copy():
  x = _safetensors.aligned((1000, 100), np.float32)
  x[:] = 1
  device = jax.devices()[0]
  assert jax.device_put(x, device).unsafe_buffer_pointer() == x.ctypes.data


def test_a_file_that_shrinks_while_it_is_read(folder):
  tensors = _safetensors.open_folder(folder)
  for file in folder.glob('*.safetensors'):
    file.write_bytes(file.read_bytes()[:2000])
  with pytest.raises(ValueError, match='was cut short while it was read'):
    for tensor in tensors.values():
      tensor.read()


def test_an_error_in_a_thread_is_the_error(folder):
  def broken(done, total):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    gm.ckpts.load_params(folder, on_progress=broken)
