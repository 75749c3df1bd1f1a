"""Conversations as those of the package `dialog`."""

from typing import Any

from gemma.gm.text import _conversation
from gemma.gm.text import _declaration
from gemma.gm.text import _history
from gemma.gm.text import _parts
from gemma.gm.text import _template
from gemma.gm.vision import _read


def to_dialog(history: _history.History) -> Any:
  """What was said as a `dialog.Conversation`.

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
  said = _conversation.said_in(history.messages)
  turns = _template.instructed(
    history.tokenizer,
    _conversation.turns_of(said, system_turn=True) if said else [],
    thinking=history.thinking,
    tools=history.tools,
  )
  return dialog.Conversation(
    *(
      kinds[turn.role](*(_chunk(dialog, part) for part in turn.parts))
      for turn in turns
    )
  )


def _chunk(dialog: Any, part: _parts.Part) -> Any:
  """A part as a chunk."""
  chunk: Any = part
  match part:
    case _parts.Attachment(media=_parts.Media.AUDIO):
      chunk = dialog.Audio(None)
    case _parts.Attachment(source=data):
      chunk = dialog.Image(None if data is None else _read.read_image(data))
    case _parts.Think():
      chunk = dialog.Think()
    case _parts.Thought(text=text):
      chunk = dialog.Thought(text)
    case _parts.Tool(name=name, declaration=fields):
      names = {'parameters': 'inputSchema', 'response': 'outputSchema'}
      renamed = {
        names.get(key, key): _declaration.with_upper_types(value)
        for key, value in fields.items()
      }
      chunk = dialog.Tool({'name': name, **renamed})
    case _parts.ToolCall(name=name, arguments=arguments):
      chunk = dialog.ToolCall({'name': name, 'arguments': dict(arguments)})
    case _parts.ToolResponse(name=name, response=response):
      content = response if isinstance(response, dict) else {'value': response}
      chunk = dialog.ToolResponse({'name': name, 'structuredContent': content})
  return chunk
