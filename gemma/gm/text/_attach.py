"""Images in messages: where they go, and how they are kept and written."""

import base64
from collections.abc import Sequence
import io
import os
import pathlib
import re
from typing import Any

import numpy as np
from PIL import Image

from gemma.gm.text import _content
from gemma.gm.text import _conversation
from gemma.gm.text import _images
from gemma.gm.text import _message
from gemma.gm.text import _parts
from gemma.gm.text import _tokenizer
from gemma.gm.vision import _read

_TAG = re.compile(r'<start_of_image>|<\|image\|>')


def with_images(
  messages: _conversation.Messages, images: Sequence[Any]
) -> list[_conversation.Said]:
  """What messages say, every image in its place.

  Images that were given beside the messages go where these have an image part
  without one, or the tag of an image in what the user says. If there is no such
  place at all, they go before the newest message. Without images, tags are just
  text.

  Args:
    messages: The messages.
    images: What was given beside them.

  Raises:
    ValueError: If messages have images of their own besides, or not as many
      places as there are images.
  """
  said = _conversation.said_in(messages)
  if not images:
    return said
  parts = [part for _, parts in said for part in parts]
  own = sum(_conversation.is_image(p) and p.source is not None for p in parts)
  if own:
    raise ValueError(
      f'{own} of the images are in the messages, and images= has '
      f'{len(images)} more. Give all of them in one place.'
    )
  said = [
    (role, parts if role in ('model', 'assistant') else _split(parts))
    for role, parts in said
  ]
  places = sum(map(_conversation.is_image, (p for _, ps in said for p in ps)))
  users = [i for i, (role, _) in enumerate(said) if role == 'user']
  if not places and users:
    role, parts = said[users[-1]]
    place = _parts.Attachment(_parts.Media.IMAGE)
    said[users[-1]] = role, [*[place] * len(images), *parts]
  elif places != len(images):
    raise _images.count_error(len(images), places, 'the prompt')
  rest = iter(images)
  return [
    (role, [_filled(p, rest) if _conversation.is_image(p) else p for p in ps])
    for role, ps in said
  ]


def fill(
  messages: Sequence[_message.Message], images: Sequence[Any]
) -> list[_message.Message]:
  """Messages with images in their places; see `with_images`."""
  if not images:
    return [*messages]
  said = with_images(messages, images)
  return [
    {**message, 'content': _content.as_content(parts)}
    if any(map(_conversation.is_image, parts))
    else message
    for message, (_, parts) in zip(messages, said, strict=True)
  ]


def encode_text(tokenizer: _tokenizer.Tokenizer, text: str) -> list[int]:
  """Token ids of a text in which only the tag of an image is a tag."""
  first, *rest = _TAG.split(text)
  ids = tokenizer.spell(first)
  for part in rest:
    ids.append(int(tokenizer.special_tokens.IMAGE_PLACEHOLDER))
    ids += tokenizer.spell(part)
  return ids


def kept(content: Any) -> Any:
  """The content of a message with images that nobody can change any more.

  Files are read now, because they may be others later.
  """
  if isinstance(content, str):
    return content
  out = []
  for part in content:
    (source,) = _conversation.images_of([part]) or [None]
    if source is None:
      out.append(part)
    else:
      out.append({'type': 'image', 'image': _kept(source)})
  return out


def as_json(value: Any) -> str:
  """An image of a message as a `data:` URL, for `json.dumps(default=)`.

  Raises:
    TypeError: If it is no image.
  """
  if isinstance(value, bytes):
    return f'data:;base64,{base64.b64encode(value).decode()}'
  if isinstance(value, np.ndarray):
    file = io.BytesIO()
    Image.fromarray(value).save(file, 'PNG')
    data = base64.b64encode(file.getvalue()).decode()
    return f'data:image/png;base64,{data}'
  raise TypeError(
    f'A message has a {type(value).__name__}, which no JSON file can hold.'
  )


def _kept(source: Any) -> Any:
  if isinstance(source, str) and source[:5].lower() == 'data:':
    return source
  if isinstance(source, bytes | bytearray | memoryview):
    return bytes(source)
  if isinstance(source, str | os.PathLike) and os.path.isfile(source):
    return pathlib.Path(source).read_bytes()
  return np.array(_read.read_image(source))


def _split(parts: Sequence[_parts.Part]) -> list[_parts.Part]:
  """Parts in which the tag of an image is one."""
  out: list[_parts.Part] = []
  for part in parts:
    if not isinstance(part, str) or not _TAG.search(part):
      out.append(part)
      continue
    first, *rest = (text.strip() for text in _TAG.split(part))
    texts: list[_parts.Part] = [first]
    for text in rest:
      texts += [_parts.Attachment(_parts.Media.IMAGE), text]
    out += [text for text in texts if text != '']
  return out


def _filled(place: Any, rest: Any) -> _parts.Attachment:
  return _parts.Attachment(place.media, next(rest))
