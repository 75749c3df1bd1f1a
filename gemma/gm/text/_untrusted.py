"""Messages that come from others, whose images may not be any local file."""

import os
import pathlib
from typing import Any

from gemma.gm.text import _conversation
from gemma.gm.text import _keys
from gemma.gm.text import _message

_MAX_BYTES = 64 * 2**20


def read_untrusted(
  messages: _conversation.Messages,
  *,
  image_folder: str | os.PathLike[str] | None = None,
) -> list[dict[str, Any]]:
  """Messages that name no local file any more.

  A message may name any file of the machine as its image. So a server passes
  what it gets through this function first: images in `data:` URLs stay, paths
  are read, if they lie below one folder, and become the bytes of their file.

  ```python
  >>> from gemma import gm
  >>> image = {'type': 'image', 'path': '/etc/passwd'}
  >>> try:
  ...   gm.text.read_untrusted([{'role': 'user', 'content': [image]}])
  ... except ValueError as e:
  ...   print(str(e)[:48])
  Message 0 names a local file as an image: '/etc/

  ```

  Args:
    messages: Dicts with `role` and `content`, or a `dialog.Conversation`.
    image_folder: The folder with the files that messages may name, by relative
      or absolute paths; a link may not lead out of it. None forbids all paths.

  Returns:
    The messages, for `sample`, `chat` or `encode_chat`.

  Raises:
    ValueError: If a path is not allowed, or there is no file of at most 64 MiB;
      or if a message is of no known form.
  """
  folder = None
  if image_folder is not None:
    folder = pathlib.Path(image_folder).resolve()
  return [
    _read(i, message, folder)
    for i, message in enumerate(_conversation.as_messages(messages))
  ]


def _read(
  i: int, message: _message.Message, folder: pathlib.Path | None
) -> dict[str, Any]:
  content = message.get('content')
  if not isinstance(content, list | tuple):
    return dict(message)
  return {
    **message,
    'content': [_read_part(i, part, folder) for part in content],
  }


def _read_part(i: int, part: Any, folder: pathlib.Path | None) -> Any:
  (source,) = _conversation.images_of([part]) or [None]
  if not _is_path(source):
    return part
  name = _keys.short(os.fspath(source))
  where = f'Message {i} names a local file as an image: {name}'
  return {'type': 'image', 'image': _bytes_of(source, folder, where)}


def _is_path(source: Any) -> bool:
  if isinstance(source, str):
    return source[:5].lower() != 'data:'
  return isinstance(source, os.PathLike)


def _bytes_of(source: Any, folder: pathlib.Path | None, where: str) -> bytes:
  """A file below a folder. Errors do not tell whether another file exists."""
  if folder is None:
    raise ValueError(
      f'{where}. Local files are not allowed here; give a data: URL.'
    )
  try:
    path = (folder / source).resolve()
  except (OSError, RuntimeError, ValueError):  # Odd names, loops of links.
    path = folder
  if not path.is_relative_to(folder) or path == folder:
    raise ValueError(f'{where}, which is not below {folder}.')
  try:
    if path.is_file() and path.stat().st_size <= _MAX_BYTES:  # No pipe.
      return path.read_bytes()
  except OSError as e:
    raise ValueError(f'{where}, which cannot be read: {e.strerror}.') from e
  raise ValueError(
    f'{where}, which is no file of at most {_MAX_BYTES // 2**20} MiB.'
  )
