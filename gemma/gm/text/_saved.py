"""Conversations as JSON files."""

from collections.abc import Sequence
import json
import os
import pathlib
import secrets
import shutil
from typing import Any

from gemma.gm.text import _attach


def write(
  path: str | os.PathLike[str], messages: Sequence[dict[str, Any]]
) -> None:
  """Writes messages, all of them or nothing.

  Another file is written first, and put in place of an old one, whose mode it
  takes over. If that fails, it is removed.

  Raises:
    TypeError: If a message has something that JSON cannot hold.
    OSError: If the file cannot be written, as on a full disk.
  """
  text = json.dumps(
    {'messages': messages},
    ensure_ascii=False,
    indent=1,
    default=_attach.as_json,
  )
  data = text.encode()
  file = pathlib.Path(os.path.realpath(path))
  new = file.with_name(f'.{secrets.token_hex(8)}.tmp')
  try:
    with new.open('xb') as out:
      out.write(data)
      out.flush()
      os.fsync(out.fileno())
    if file.exists():
      shutil.copymode(file, new)
    os.replace(new, file)
  except BaseException:
    new.unlink(missing_ok=True)
    raise


def read(path: str | os.PathLike[str]) -> list[Any]:
  """The messages that `write` wrote.

  Raises:
    ValueError: If the file is not such a conversation.
  """
  text = pathlib.Path(path).read_text(encoding='utf-8')
  try:
    messages = json.loads(text)['messages']
    if not isinstance(messages, list):
      raise TypeError(f'messages are a {type(messages).__name__}')
    return messages
  except (ValueError, KeyError, TypeError) as e:
    raise ValueError(
      f'{path} is not a saved conversation: {e!r}. Give a file that '
      'ChatSampler.save wrote.'
    ) from e
