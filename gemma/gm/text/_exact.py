"""Exact token ids in messages of the model, checked against the message."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from gemma.gm.text import _formats
from gemma.gm.text import _message
from gemma.gm.text import _parts
from gemma.gm.text import _reply
from gemma.gm.text import _template
from gemma.gm.text import _tokenizer

# Control tokens that a model writes inside of its turn, if it has them.
_WRITTEN = (
  'START_OF_CHANNEL',
  'END_OF_CHANNEL',
  'BEGIN_OF_TOOL_CALL',
  'END_OF_TOOL_CALL',
  'QUOTE',
)


def can_be_given(tokenizer: _tokenizer.Tokenizer, ids: Sequence[int]) -> bool:
  """Whether `ids_of` takes these ids of an answer in a message."""
  readable = not _reply.parse_reply(tokenizer, ids).unreadable
  return readable and _refused(tokenizer).isdisjoint(ids)


def ids_of(
  tokenizer: _tokenizer.Tokenizer, message: _message.Message, i: int
) -> tuple[int, ...] | None:
  """The `token_ids` of a message of the model, without its end; None if absent.

  Args:
    tokenizer: The vocabulary.
    message: The message.
    i: Its turn, for errors.

  Raises:
    TypeError: If they are not a list of whole numbers.
    ValueError: If one is not in the vocabulary, or is a control token that no
      answer has, or if they say something else than the message.
  """
  given = message.get('token_ids')
  if given is None:
    return None
  whole = isinstance(given, Sequence | np.ndarray) and all(
    isinstance(token, int | np.integer) for token in given
  )
  if not whole:
    raise TypeError(
      f'Turn {i} has token_ids of type {type(given).__name__} that are not a '
      'list of whole numbers. Leave them out.'
    )
  ids = without_end(tokenizer, [int(token) for token in given])
  _check_tokens(tokenizer, ids, i)
  parts = _message.parts_of(i, {**message, 'role': 'model'})[1]
  if any(isinstance(part, _parts.Attachment) for part in parts):
    return None  # A model says text only: refused for this reason.
  canonical = _template.encode_parts(tokenizer, parts)
  if [*ids] != [*without_end(tokenizer, canonical)]:
    _check_same(_said(parts), _reply.parse_reply(tokenizer, ids), i)
  return ids


def without_end(
  tokenizer: _tokenizer.Tokenizer, ids: Sequence[int]
) -> tuple[int, ...]:
  """An answer without the token that ended it."""
  special = tokenizer.special_tokens
  names = ('EOS', *_formats.of(tokenizer).ends)
  ends = [special.__members__[name] for name in names]
  return tuple(ids[:-1] if ids and ids[-1] in ends else ids)


def _refused(tokenizer: _tokenizer.Tokenizer) -> frozenset[int]:
  """Control tokens that token ids of a message must not have."""
  special = tokenizer.special_tokens
  members = special.__members__
  written = {members[name] for name in _WRITTEN if name in members}
  own = {special.CUSTOM + i for i in tokenizer.custom_tokens}
  return tokenizer.control_ids - written - own


def _check_tokens(
  tokenizer: _tokenizer.Tokenizer, ids: Sequence[int], i: int
) -> None:
  size, refused = tokenizer.vocab_size, _refused(tokenizer)
  for token in ids:
    if not 0 <= token < size:
      raise ValueError(
        f'Turn {i} has {token} in its token_ids, but ids are 0 to {size - 1}. '
        'Leave token_ids out.'
      )
    if token in refused:
      raise ValueError(
        f'Turn {i} has the control token {token} '
        f'({tokenizer.tokens[token]!r}) in its token_ids, which could forge a '
        'turn. Leave token_ids out: the content is then encoded as text.'
      )


def _check_same(said: Mapping[str, Any], reply: _reply.Reply, i: int) -> None:
  """Raises unless token ids say what the message says."""
  found = {
    'content': reply.text.strip(),
    'reasoning_content': reply.thought or '',
    'tool_calls': [(c.name, c.arguments) for c in reply.tool_calls],
    'unreadable tool calls': [*reply.unreadable],
  }
  for key, value in found.items():
    if value != said[key]:
      raise ValueError(
        f'Turn {i} has token_ids that say something else than the message: '
        f'its {key} is {_short(said[key])}, and theirs {_short(value)}. Leave '
        'token_ids out, or restore the message as it was.'
      )


def _said(parts: Sequence[_parts.Part]) -> Mapping[str, Any]:
  """What a message says, by its keys."""
  thoughts = [p.text for p in parts if isinstance(p, _parts.Thought)]
  calls = [p for p in parts if isinstance(p, _parts.ToolCall)]
  return {
    'content': ''.join(p for p in parts if isinstance(p, str)).strip(),
    'reasoning_content': ''.join(thoughts).strip(),
    'tool_calls': [(call.name, call.arguments) for call in calls],
    'unreadable tool calls': [],
  }


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 60 else f'{text[:60]}...'
