"""Conversations to token ids, in the format of the vocabulary.

What formats there are is in `_formats`. Only templates write control tokens;
content is spelled out, whatever it says.
"""

from collections.abc import Sequence
import dataclasses
import itertools
from typing import Any

from gemma.gm.text import _conversation
from gemma.gm.text import _formats
from gemma.gm.text import _parts
from gemma.gm.text import _tokenizer
from gemma.gm.text import _values

Turn = _conversation.Turn


def encode_chat(
  tokenizer: _tokenizer.Tokenizer,
  messages: _conversation.Messages,
  *,
  add_generation_prompt: bool = True,
  thinking: bool = False,
  tools: Sequence[Any] = (),
  empty_thought: bool = False,
) -> list[int]:
  r"""Token ids of a conversation, from `<bos>` on.

  For Gemma 1 to 3, a system message becomes the beginning of the first user
  turn, as these models were trained; for Gemma 4 it is a turn of its own. What
  messages say is text, whatever tags it has; an image is one placeholder, and
  the image itself goes to the sampler. Thoughts of Gemma 4 are left out once
  the user has spoken again.

  ```python
  >>> from gemma import gm
  >>> tokenizer = gm.text.Gemma3TinyTokenizer()
  >>> ids = gm.text.encode_chat(
  ...   tokenizer, [{'role': 'user', 'content': 'Hi'}]
  ... )
  >>> tokenizer.decode(ids)
  '<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n'
  >>> parts = [
  ...   {'type': 'text', 'text': 'What is this?'},
  ...   {'type': 'image'},
  ... ]
  >>> ids = gm.text.encode_chat(
  ...   tokenizer, [{'role': 'user', 'content': parts}]
  ... )
  >>> tokenizer.decode(ids).split('\n')[1]
  'What is this?<start_of_image><end_of_turn>'

  ```

  Args:
    tokenizer: The vocabulary.
    messages: Dicts with `role` (`system`, `user`, `assistant` or `model`) and
      `content`: a string, or a list of parts with a `type` (`text`, `image` or
      `audio`), each trimmed. For Gemma 4, those of the model may have their
      `reasoning_content` and `tool_calls`, and a `tool` may say what it
      responds, a string or a dict. Or a `dialog.Conversation`, taken verbatim
      but for thoughts.
    add_generation_prompt: Whether the model is to speak next: a turn is opened
      for it. A `dialog.Conversation` that ends with a turn of the model is left
      open instead, for the model to go on with it; so is a turn in which a tool
      spoke last.
    thinking: Whether the model is to think before it answers.
    tools: What it may call: dicts with `name`, `description` and `parameters`,
      a JSON schema; alone or as `{'type': 'function', 'function': {...}}`.
    empty_thought: Whether the model's turn is opened with an empty thought, if
      it is not to think. The larger sizes of Gemma 4 were trained so: 12B, 26B
      and 31B. Samplers know it of their model.

  Returns:
    The ids. Without `add_generation_prompt` they end with the last turn.

  Raises:
    ValueError: If roles do not alternate from `user` on, if a part is of no
      known type, or if the models of this vocabulary have no tags for it.
  """
  return encode_said(
    tokenizer,
    _conversation.said_in(messages),
    add_generation_prompt=add_generation_prompt,
    leave_open=isinstance(messages, _conversation.Conversation),
    thinking=thinking,
    tools=tools,
    empty_thought=empty_thought,
  )


def encode_said(
  tokenizer: _tokenizer.Tokenizer,
  said: Sequence[_conversation.Said],
  *,
  add_generation_prompt: bool = True,
  leave_open: bool = False,
  thinking: bool = False,
  tools: Sequence[Any] = (),
  empty_thought: bool = False,
) -> list[int]:
  """Token ids of what is said, from `<bos>` on; see `encode_chat`.

  Args:
    tokenizer: The vocabulary.
    said: Who says what.
    add_generation_prompt: Whether the model is to speak next.
    leave_open: Whether it then goes on with a last turn of its own.
    thinking: See `encode_chat`.
    tools: See `encode_chat`.
    empty_thought: See `encode_chat`.
  """
  form = _formats.of(tokenizer)
  turns = _conversation.turns_of(
    said, system_turn=form.system_turn, alternates=form.alternates
  )
  turns = [*instructed(tokenizer, turns, thinking=thinking, tools=tools)]
  if form.forgets:
    turns = forgotten(turns)
  ids: list[int] = [tokenizer.special_tokens.BOS]
  for turn in turns[:-1]:
    ids += encode_turn(tokenizer, turn) + turn_end(tokenizer)
  ids += encode_turn(tokenizer, turns[-1])
  last = turns[-1].parts[-1] if turns[-1].parts else ''
  if isinstance(last, _parts.ToolResponse):
    return ids  # The model's turn goes on.
  if isinstance(last, _parts.ToolCall):
    if add_generation_prompt and not leave_open:
      raise ValueError(
        f'The conversation ends with a call of {last.name!r}, and nothing that '
        "it responded. Add a message {'role': 'tool', 'content': ...}."
      )
    return [*ids, tokenizer.special_tokens.BEGIN_OF_TOOL_RESPONSE]
  if add_generation_prompt and leave_open and turns[-1].role == 'model':
    return ids
  ids += turn_end(tokenizer)
  if add_generation_prompt:
    ids += lead(tokenizer, empty_thought=empty_thought and not thinking)
  return ids


def instructed(
  tokenizer: _tokenizer.Tokenizer,
  turns: Sequence[Turn],
  *,
  thinking: bool,
  tools: Sequence[Any],
) -> Sequence[Turn]:
  """Turns with a system turn that says whether to think, and with what tools.

  Args:
    tokenizer: The vocabulary.
    turns: What is said; the first may be a system turn.
    thinking: See `encode_chat`.
    tools: See `encode_chat`.

  Raises:
    ValueError: If the models of this vocabulary can do neither.
  """
  if not thinking and not tools:
    return turns
  if not _formats.of(tokenizer).system_turn:
    what = f'thinking={thinking}' if thinking else f'tools={tools!r}'
    raise ValueError(
      f'{what}, but models with a {type(tokenizer).__name__} have no tags for '
      'thoughts and tools: those of Gemma 4 do. Leave it out.'
    )
  parts: tuple[_parts.Part, ...] = ()
  if turns and turns[0].role == 'system':
    parts, turns = turns[0].parts, turns[1:]
  if thinking and _parts.Think() not in parts:
    parts = (_parts.Think(), '\n', *parts)
  return [Turn('system', (*parts, *map(_formats.tool_of, tools))), *turns]


def encode_turn(tokenizer: _tokenizer.Tokenizer, turn: Turn) -> list[int]:
  """Token ids of one turn, without its end tag."""
  start: int = tokenizer.special_tokens.START_OF_TURN
  return [start, *encode_parts(tokenizer, (f'{turn.role}\n', *turn.parts))]


def turn_end(tokenizer: _tokenizer.Tokenizer) -> list[int]:
  """What stands behind a turn."""
  return [tokenizer.special_tokens.END_OF_TURN, *tokenizer.encode('\n')]


def lead(
  tokenizer: _tokenizer.Tokenizer, *, empty_thought: bool = False
) -> list[int]:
  """What opens a turn for the model."""
  thought = (_parts.Thought(''),) if empty_thought else ()
  return encode_turn(tokenizer, Turn('model', thought))


def encode_parts(
  tokenizer: _tokenizer.Tokenizer, parts: Sequence[_parts.Part]
) -> list[int]:
  """Token ids of parts of a turn."""
  form, special = _formats.of(tokenizer), tokenizer.special_tokens
  pieces: list[_values.Piece] = []
  for part in parts:
    if isinstance(part, _parts.Attachment):
      pieces.append(_placeholder(tokenizer, part.media))
    else:
      pieces += form.pieces(special, part)
  ids: list[int] = []
  for is_text, group in itertools.groupby(pieces, lambda p: isinstance(p, str)):
    if is_text:  # Texts side by side are one text.
      ids += tokenizer.spell(''.join(map(str, group)))
    else:
      ids += map(int, group)
  return ids


def forgotten(turns: Sequence[Turn]) -> list[Turn]:
  """Turns without the thoughts before the user's last one.

  Args:
    turns: What is said.
  """
  users = [-1, *(i for i, turn in enumerate(turns) if turn.role == 'user')]
  return [
    dataclasses.replace(turn, parts=_without_thoughts(turn.parts))
    if i < users[-1]
    else turn
    for i, turn in enumerate(turns)
  ]


def _without_thoughts(
  parts: Sequence[_parts.Part],
) -> tuple[_parts.Part, ...]:
  return tuple(p for p in parts if not isinstance(p, _parts.Thought))


def _placeholder(tokenizer: _tokenizer.Tokenizer, media: _parts.Media) -> int:
  members = tokenizer.special_tokens.__members__
  if media.value not in members:
    raise ValueError(
      f'The conversation has an {media.name.lower()}, but '
      f'{type(tokenizer).__name__} has no token for it. Leave it out, or take '
      'a model that was trained with it.'
    )
  return members[media.value]
