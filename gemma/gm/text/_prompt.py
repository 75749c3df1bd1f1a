"""Prompts of every form to rows of token ids."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from gemma.gm.nn import _transformer
from gemma.gm.text import _conversation
from gemma.gm.text import _template
from gemma.gm.text import _tokenizer


@dataclasses.dataclass(frozen=True)
class Prompts:
  """The rows of one call.

  Attributes:
    rows: Token ids of each prompt, without padding.
    batched: Whether the caller gave several; otherwise results are unpacked.
  """

  rows: list[list[int]]
  batched: bool


def encode(
  tokenizer: _tokenizer.Tokenizer,
  prompt: Any,
  *,
  add_bos: bool,
  num_embed: int,
  allow_special: bool,
) -> Prompts:
  """Token ids of a prompt, or of several.

  Args:
    tokenizer: The vocabulary.
    prompt: A string, taken verbatim; a list of ids, or a 1-d array of them; a
      conversation, as a list of dicts; or a list or array of these.
    add_bos: Whether strings begin with `<bos>`. Ids are taken as they are, and
      conversations bring it along.
    num_embed: Rows of the model's table.
    allow_special: Whether tags in strings become control tokens.

  Raises:
    ValueError: If a prompt is empty, or has an id outside of the table.
    TypeError: If a prompt is none of these.
  """
  if isinstance(prompt, np.ndarray | jax.Array):
    prompt = np.asarray(prompt).tolist()
  batched = not _is_single(prompt)
  prompts = prompt if batched else [prompt]
  if not prompts:
    raise ValueError('The list of prompts is empty. Give at least one.')
  rows = [
    _encode_one(tokenizer, p, add_bos=add_bos, allow_special=allow_special)
    for p in prompts
  ]
  for i, (row, given) in enumerate(zip(rows, prompts, strict=True)):
    _check(row, given, where=f'Prompt {i}' if batched else 'The prompt')
    bad = [token for token in row if not 0 < token < num_embed]
    if bad:
      raise ValueError(
        f'Token id {bad[0]} in prompt {i} is not between 1 and '
        f'{num_embed - 1}, the rows of the table (0 is padding).'
      )
  return Prompts(rows=rows, batched=batched)


def pad(rows: Sequence[Sequence[int]]) -> np.ndarray:
  """Rows as one array, `int32[B, L]`, padded on the right."""
  out = np.full((len(rows), max(map(len, rows))), _transformer.PAD, np.int32)
  for i, row in enumerate(rows):
    out[i, : len(row)] = row
  return out


def _is_single(prompt: Any) -> bool:
  """A string, a conversation, or a list of ids."""
  if isinstance(prompt, str) or _conversation.is_conversation(prompt):
    return True
  if not isinstance(prompt, Sequence):
    raise TypeError(
      f'prompt is a {type(prompt).__name__}. Give a string, token ids, a '
      'conversation (a list of dicts with role and content), or a list of '
      'these.'
    )
  return bool(prompt) and isinstance(prompt[0], int | np.integer)


def _encode_one(
  tokenizer: _tokenizer.Tokenizer,
  prompt: Any,
  *,
  add_bos: bool,
  allow_special: bool,
) -> list[int]:
  if isinstance(prompt, str):
    return tokenizer.encode(
      prompt, add_bos=add_bos, allow_special=allow_special
    )
  if _conversation.is_conversation(prompt):
    return _template.encode_chat(tokenizer, prompt)
  # Padding around ids is what a batch as one array has.
  return np.trim_zeros(np.asarray(prompt, np.int32)).tolist()


def _check(row: list[int], given: Any, where: str) -> None:
  if not row or given == '':
    raise ValueError(f'{where} is empty. Give at least one token of text.')
