"""Where checkpoints are, and saving them there."""

import sys

import pytest

from gemma import gm
from gemma.gm.ckpts import _paths
from trees import CASE
from trees import LAYOUTS
from trees import equal

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
