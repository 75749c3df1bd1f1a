r"""The chat format of Gemma 1, 2 and 3: conversations to token ids.

`<start_of_turn>ROLE\nCONTENT<end_of_turn>\n`, roles `user` and `model`. Only
this file writes control tokens; content is spelled out, whatever it says.
"""

from collections.abc import Sequence
import itertools

from gemma.gm.text import _conversation
from gemma.gm.text import _tokenizer


def encode_chat(
  tokenizer: _tokenizer.Tokenizer,
  messages: _conversation.Messages,
  *,
  add_generation_prompt: bool = True,
) -> list[int]:
  r"""Token ids of a conversation, from `<bos>` on.

  A system message becomes the beginning of the first user turn, as these models
  were trained. What messages say is text, whatever tags it has; an image is one
  placeholder, and the image itself goes to the sampler.

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
      `audio`), each trimmed. Or a `dialog.Conversation`, taken verbatim.
    add_generation_prompt: Whether the model is to speak next: a turn is opened
      for it. A `dialog.Conversation` that ends with a turn of the model is left
      open instead, for the model to go on with it.

  Returns:
    The ids. Without `add_generation_prompt` they end with the last turn.

  Raises:
    ValueError: If roles do not alternate from `user` on, if a part is of no
      known type, or if the vocabulary has no placeholder for it.
  """
  turns = _conversation.turns_of(_conversation.said_in(messages))
  return encode_turns(
    tokenizer,
    turns,
    add_generation_prompt=add_generation_prompt,
    leave_open=isinstance(messages, _conversation.Conversation),
  )


def encode_turns(
  tokenizer: _tokenizer.Tokenizer,
  turns: Sequence[_conversation.Turn],
  *,
  add_generation_prompt: bool = True,
  leave_open: bool = False,
) -> list[int]:
  """Token ids of turns, from `<bos>` on; see `encode_chat`.

  Args:
    tokenizer: The vocabulary.
    turns: What is said.
    add_generation_prompt: Whether the model is to speak next.
    leave_open: Whether it then goes on with a last turn of its own.
  """
  goes_on = add_generation_prompt and leave_open and turns[-1].role == 'model'
  ids: list[int] = [tokenizer.special_tokens.BOS]
  end = [tokenizer.special_tokens.END_OF_TURN, *tokenizer.encode('\n')]
  for turn in turns:
    ids += _open_turn(tokenizer, turn) + end
  if goes_on:
    return ids[: -len(end)]
  if add_generation_prompt:
    ids += _open_turn(tokenizer, _conversation.Turn('model', ()))
  return ids


def _open_turn(
  tokenizer: _tokenizer.Tokenizer, turn: _conversation.Turn
) -> list[int]:
  """Token ids of one turn, without its end tag."""
  ids: list[int] = [tokenizer.special_tokens.START_OF_TURN]
  parts = (f'{turn.role}\n', *turn.parts)
  for media, group in itertools.groupby(parts, _media):
    if media is None:  # Texts side by side are one text.
      ids += tokenizer.encode(''.join(map(str, group)), allow_special=False)
    else:
      ids += [_placeholder(tokenizer, media) for _ in group]
  return ids


def _media(part: _conversation.Part) -> _conversation.Media | None:
  return None if isinstance(part, str) else part.media


def _placeholder(
  tokenizer: _tokenizer.Tokenizer, media: _conversation.Media
) -> int:
  members = tokenizer.special_tokens.__members__
  if media.value not in members:
    raise ValueError(
      f'The conversation has an {media.name.lower()}, but '
      f'{type(tokenizer).__name__} has no token for it. Leave it out, or take '
      'a model that was trained with it.'
    )
  return members[media.value]
