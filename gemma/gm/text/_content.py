"""The content of a message: text, or a list of parts."""

from collections.abc import Mapping
from collections.abc import Sequence
import os
from typing import Any
import urllib.parse

from gemma.gm.text import _keys
from gemma.gm.text import _parts

_TEXT = ('text', 'input_text', 'output_text')
_IMAGE = ('image', 'image_url', 'input_image')
_AUDIO = ('audio', 'input_audio')
# Keys of an image in a part of a message.
_SOURCES = ('image', 'url', 'path', 'base64', 'image_url')
_IGNORED = ('id', 'index', 'annotations', 'logprobs', 'cache_control', 'detail')
_ELSEWHERE = 'Give each part a dict of its own, with its type.'
_KEYS = {
  'text': _keys.Keys(
    kind='a text part',
    read=('type', 'text'),
    ignored=_IGNORED,
    refused=dict.fromkeys((*_SOURCES, 'audio', 'input_audio'), _ELSEWHERE),
  ),
  'image': _keys.Keys(
    kind='an image part',
    read=('type', *_SOURCES),
    ignored=_IGNORED,
    refused={
      **dict.fromkeys(('text', 'audio', 'input_audio'), _ELSEWHERE),
      'file_id': 'Give the image as image, path, base64 or a data: URL.',
    },
  ),
  'audio': _keys.Keys(
    kind='an audio part',
    read=('type', 'audio', 'input_audio', 'url', 'path', 'base64'),
    ignored=_IGNORED,
    refused=dict.fromkeys(('text', 'image', 'image_url'), _ELSEWHERE),
  ),
}


def parts_of(where: str, content: Any, *, trim: bool) -> list[_parts.Part]:
  """Texts and media of a content.

  Args:
    where: The place of the message, for errors.
    content: Text, or a list of parts.
    trim: Whether texts are trimmed.

  Raises:
    ValueError: If it is neither, or a part is of no known form.
  """
  if isinstance(content, str):
    content = [{'type': 'text', 'text': content}]
  if isinstance(content, bytes) or not isinstance(content, Sequence):
    raise ValueError(
      f'{where} has content of type {type(content).__name__}, but needs a '
      "string, or a list of parts such as {'type': 'text', 'text': ...}."
    )
  parts = [_part_of(where, part) for part in content]
  if trim:
    parts = [p.strip() if isinstance(p, str) else p for p in parts]
  return parts


def as_content(parts: Sequence[_parts.Part]) -> Any:
  """Texts and media as the content of a message: text, or a list of dicts.

  Other parts are left out: they have keys of their own.
  """
  kept = [p for p in parts if isinstance(p, str | _parts.Attachment)]
  if all(isinstance(part, str) for part in kept):
    return ''.join(map(str, kept))
  out: list[dict[str, Any]] = []
  for part in kept:
    if isinstance(part, str):
      out.append({'type': 'text', 'text': part})
    else:
      kind = part.media.name.lower()
      source = {} if part.source is None else {kind: part.source}
      out.append({'type': kind, **source})
  return out


def data_url(url: Any, where: str) -> Any:
  """A URL of an image, which has its bytes in it.

  Args:
    url: The URL. Anything but a string is returned as it is.
    where: Its place, for the error.

  Raises:
    ValueError: If its scheme is not `data`.
  """
  if not isinstance(url, str) or url[:5].lower() == 'data:':
    return url
  scheme = urllib.parse.urlsplit(url).scheme
  if scheme:
    raise ValueError(
      f'{where} has url {_keys.short(url)}, which is an address of scheme '
      f'{scheme!r}: images are not fetched. Give a data: URL, or the bytes of '
      'the image as image.'
    )
  raise ValueError(
    f'{where} has url {_keys.short(url)}, which is no data: URL. Give the path '
    'of a local image as path.'
  )


def _part_of(where: str, part: Any) -> _parts.Part:
  kind = part.get('type') if isinstance(part, Mapping) else None
  if kind in _TEXT and isinstance(part.get('text'), str):
    _KEYS['text'].check(f'A part of {where}', part)
    return part['text']
  if kind in _IMAGE:
    return _parts.Attachment(_parts.Media.IMAGE, _source(where, part))
  if kind in _AUDIO:
    _KEYS['audio'].check(f'A part of {where}', part)
    return _parts.Attachment(_parts.Media.AUDIO)
  raise ValueError(
    f'{where} has a part {_keys.short(part)} of type {_keys.short(kind)}. '
    "Parts are {'type': 'text', 'text': ...}, {'type': 'image', 'image': ...} "
    "and {'type': 'audio'}."
  )


def _source(where: str, part: Mapping[str, Any]) -> Any:
  """The image of a part, under any of the keys that chat formats have."""
  _KEYS['image'].check(f'A part of {where}', part)
  found = [key for key in _SOURCES if part.get(key) is not None]
  if len(found) > 1:
    raise ValueError(
      f'{where} has an image part with {" and ".join(found)}. Give the image '
      'once.'
    )
  if not found:
    return None
  (key,) = found
  source = part[key]
  if key == 'image_url' and isinstance(source, Mapping):
    source = source.get('url')
  if key in ('url', 'image_url') and source is not None:
    return data_url(source, where)
  wanted = {'path': str | os.PathLike, 'base64': str, 'image_url': str}
  if key in wanted and not isinstance(source, wanted[key]):
    raise ValueError(
      f'{where} has an image part with {key} of type '
      f'{type(part[key]).__name__}, {_keys.short(part[key])}. Give a string.'
    )
  return f'data:;base64,{source}' if key == 'base64' else source
