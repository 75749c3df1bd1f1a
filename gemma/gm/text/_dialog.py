"""Conversations as those of the package `dialog`."""

from collections.abc import Sequence
from typing import Any

from gemma.gm.text import _conversation
from gemma.gm.vision import _read


def to_dialog(messages: Sequence[_conversation.Message]) -> Any:
  """Messages as a `dialog.Conversation`.

  Raises:
    ImportError: If the package `dialog` is not installed.
  """
  try:
    import dialog
  except ImportError as e:
    raise ImportError(
      'A dialog.Conversation needs the package dialog: pip install dialog. '
      'ChatSampler.messages has the same without it.'
    ) from e
  kinds = {'system': dialog.System, 'user': dialog.User, 'model': dialog.Model}

  def chunk(part: _conversation.Part) -> Any:
    if isinstance(part, str):
      return part
    if part.media == _conversation.Media.AUDIO:
      return dialog.Audio(None)
    data = part.source
    return dialog.Image(None if data is None else _read.read_image(data))

  return dialog.Conversation(
    *(
      kinds[role](*map(chunk, parts))
      for role, parts in _conversation.said_in(messages)
    )
  )
