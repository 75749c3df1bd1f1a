"""Folders of the Hugging Face Hub, by way of its own client and its cache."""

import os
import pathlib
import re
import types

_SCHEME = 'hf://'
_NAME = re.compile(r'([\w.-]+/[\w.-]+)(?:@(.+))?')
_OFFLINE = ('GEMMA_OFFLINE', 'HF_HUB_OFFLINE')
_FILES = ('*.safetensors', '*.json', 'tokenizer.model', 'chat_template.jinja')
CONFIG = ('config.json',)


def is_hub(path: str) -> bool:
  return path.startswith(_SCHEME)


def name_of(path: str) -> str:
  """The repository of a path, `org/name[@revision]`."""
  return path.removeprefix(_SCHEME).rstrip('/')


def offline() -> str | None:
  """The environment variable that forbids the network, if one is set."""
  on = ('1', 'true', 'yes', 'on')
  set_ = [name for name in _OFFLINE if os.environ.get(name, '').lower() in on]
  return set_[0] if set_ else None


def folder(path: str, files: tuple[str, ...] = _FILES) -> pathlib.Path:
  """The local copy of a repository, fetched if it is not in the cache.

  The client keeps the cache (`HF_HOME`), knows who asks (`HF_TOKEN`, or the
  login) and goes through proxies. `GEMMA_OFFLINE=1` or `HF_HUB_OFFLINE=1` keeps
  to what is in the cache.

  Args:
    path: `hf://org/name`, or `hf://org/name@revision` for a branch, a tag or a
      commit.
    files: Patterns of the files to fetch, of those at the top.

  Returns:
    The folder in the cache. It may hold other files besides.

  Raises:
    FileNotFoundError: If there is no copy and it cannot be fetched; the message
      says why, and what helps.
    ImportError: If huggingface_hub is not installed.
    ValueError: If the path is not of this form.
  """
  match = _NAME.fullmatch(name_of(path))
  if match is None:
    raise ValueError(
      f'{path} is not of the form hf://org/name or hf://org/name@revision, '
      'such as hf://google/gemma-3-1b-it.'
    )
  hub = _client(path)
  name, revision = match.groups()
  try:
    copy = hub.snapshot_download(
      name,
      revision=revision,
      allow_patterns=list(files),
      ignore_patterns=['*/*'],
      local_files_only=offline() is not None,
      library_name='gemma',
    )
  except Exception as e:  # The client lets errors of its transports through.
    raise FileNotFoundError(
      f'{path} cannot be opened: {_why(e, name, revision)} A folder that you '
      'have already can be given by its path.'
    ) from e
  return pathlib.Path(copy)


def _client(path: str) -> types.ModuleType:
  try:
    import huggingface_hub
  except ImportError as e:
    raise ImportError(
      f'{path} needs huggingface_hub: pip install "gemma[hub]". Or download '
      'the folder, and give its local path.'
    ) from e
  return huggingface_hub


def _why(error: Exception, name: str, revision: str | None) -> str:
  """What went wrong, and what helps."""
  from huggingface_hub import constants
  from huggingface_hub import errors

  page = f'{constants.ENDPOINT}/{name}'
  login = 'log in with `hf auth login` or set HF_TOKEN'
  if isinstance(error, errors.GatedRepoError):
    return (
      f'it is gated. Accept the licence at {page}, then {login} with a token '
      'that may read it.'
    )
  if isinstance(error, errors.RepositoryNotFoundError):
    return f'there is no {page} for you. Check the name; if private, {login}.'
  if isinstance(error, errors.RevisionNotFoundError):
    return f'it has no revision {revision}. See {page}/tree/main for those.'
  cache = constants.HF_HUB_CACHE
  if off := offline():
    return (
      f'not all of its files are in {cache}, and {off} is set. Unset it once '
      'to download them, or set HF_HOME to the cache that has them.'
    )
  return (
    f'not all of its files are in {cache}, and fetching them failed '
    f'({_first_cause(error)}). Check the network, the proxy and the disk.'
  )


def _first_cause(error: BaseException) -> str:
  """The error that the others wrap, on one line."""
  while cause := error.__cause__:
    error = cause
  return f'{type(error).__name__}: {" ".join(str(error).split())}'
