"""Where checkpoints are: the published ones, the one that ships, and others."""

import enum
import os
import pathlib
from typing import Any

from gemma.gm.ckpts import _hub

_BUCKET = 'gs://gemma-data/checkpoints/'
# What reads each kind of bucket, and what copies a folder out of it.
_BUCKETS = {
  'gs': ('gcsfs', 'gcloud storage cp -r'),
  's3': ('s3fs', 'aws s3 cp --recursive'),
}
_SHIPPED = pathlib.Path(__file__).parents[2] / 'models'


class CheckpointPath(enum.StrEnum):
  """Paths of checkpoints. A member is a string and goes wherever a path does.

  `PT` is pre-trained, `IT` instruction-tuned.
  """

  GEMMA2_2B_PT = _BUCKET + 'gemma2-2b-pt'
  GEMMA2_2B_IT = _BUCKET + 'gemma2-2b-it'
  GEMMA2_9B_PT = _BUCKET + 'gemma2-9b-pt'
  GEMMA2_9B_IT = _BUCKET + 'gemma2-9b-it'
  GEMMA2_27B_PT = _BUCKET + 'gemma2-27b-pt'
  GEMMA2_27B_IT = _BUCKET + 'gemma2-27b-it'

  GEMMA3_TINY_IT = str(_SHIPPED / 'gemma3-tiny-it')
  GEMMA3_270M_PT = _BUCKET + 'gemma3-270m-pt'
  GEMMA3_270M_IT = _BUCKET + 'gemma3-270m-it'
  GEMMA3_1B_PT = _BUCKET + 'gemma3-1b-pt'
  GEMMA3_1B_IT = _BUCKET + 'gemma3-1b-it'
  GEMMA3_4B_PT = _BUCKET + 'gemma3-4b-pt'
  GEMMA3_4B_IT = _BUCKET + 'gemma3-4b-it'
  GEMMA3_12B_PT = _BUCKET + 'gemma3-12b-pt'
  GEMMA3_12B_IT = _BUCKET + 'gemma3-12b-it'
  GEMMA3_27B_PT = _BUCKET + 'gemma3-27b-pt'
  GEMMA3_27B_IT = _BUCKET + 'gemma3-27b-it'

  GEMMA3N_E2B_PT = _BUCKET + 'gemma3n-e2b-pt'
  GEMMA3N_E2B_IT = _BUCKET + 'gemma3n-e2b-it'
  GEMMA3N_E4B_PT = _BUCKET + 'gemma3n-e4b-pt'
  GEMMA3N_E4B_IT = _BUCKET + 'gemma3n-e4b-it'

  GEMMA4_E2B_PT = _BUCKET + 'gemma4-e2b-pt'
  GEMMA4_E2B_IT = _BUCKET + 'gemma4-e2b-it'
  GEMMA4_E4B_PT = _BUCKET + 'gemma4-e4b-pt'
  GEMMA4_E4B_IT = _BUCKET + 'gemma4-e4b-it'
  GEMMA4_26B_A4B_PT = _BUCKET + 'gemma4-26b-a4b-pt'
  GEMMA4_26B_A4B_IT = _BUCKET + 'gemma4-26b-a4b-it'
  GEMMA4_31B_PT = _BUCKET + 'gemma4-31b-pt'
  GEMMA4_31B_IT = _BUCKET + 'gemma4-31b-it'


class CheckpointNotFoundError(FileNotFoundError, ValueError):
  """There is no checkpoint where one should be."""


def folder_of(path: str | os.PathLike[str]) -> Any:
  """A path to a folder, which need not exist: absolute, or remote.

  Args:
    path: A local path, which may be relative or begin with `~`; or a URL of a
      bucket, such as `gs://bucket/folder`.

  Returns:
    A `pathlib.Path`, or for a URL an `epath.Path`, which has the same methods.

  Raises:
    ValueError: If nothing that is installed reads such URLs.
  """
  name = os.fspath(path)
  scheme, separator, _ = name.partition('://')
  if not separator:
    return pathlib.Path(name).expanduser().absolute()
  from etils import epath

  if scheme not in _BUCKETS:
    raise ValueError(
      f'{name} is remote. Download it, and give its local path; '
      f'{scheme}:// is not read from, only {[*_BUCKETS]}.'
    )
  package, command = _BUCKETS[scheme]
  try:
    folder = epath.Path(name)
    folder.exists()  # Only now is the file system looked for.
  except ImportError as e:
    raise ValueError(
      f'{name} is remote. Download it with `{command}` and give '
      f'its local path, or to read it there: `pip install {package}`.'
    ) from e
  except Exception as e:
    raise ValueError(
      f'{name} cannot be reached ({type(e).__name__}: {e}). Is there a '
      'network, and are you logged in? If not, download it.'
    ) from e
  return folder


def existing_folder(path: str | os.PathLike[str]) -> Any:
  """The folder at `path`, absolute or remote; one of the Hub is fetched.

  Raises:
    FileNotFoundError: If there is none. It is a `ValueError` too.
    ValueError: If it is remote and cannot be read from here.
  """
  name = os.fspath(path)
  if _hub.is_hub(name):
    return _hub.folder(name)
  folder = folder_of(path)
  if not folder.is_dir():
    raise CheckpointNotFoundError(
      f'No folder {folder}. Give the folder of a checkpoint, with its '
      'config.json (Hugging Face) or its metadata (Orbax) in it.'
    )
  return folder
