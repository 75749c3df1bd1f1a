"""Which tokens are never sampled, and which end a text."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from gemma.gm.nn import _config
from gemma.gm.nn import _like
from gemma.gm.text import _state
from gemma.gm.text import _step
from gemma.gm.text import _stop_strings
from gemma.gm.text import _tokenizer

Tokens = Sequence[str | int] | None


def resolve_tokenizer(
  model: _like.TransformerLike, tokenizer: _tokenizer.Tokenizer | None
) -> _tokenizer.Tokenizer:
  """The tokenizer of a model, or the given one if the two go together."""
  version = model.INFO.tokenizer_version
  if tokenizer is None:
    if not version:
      raise ValueError(
        f'{type(model).__name__} does not say which tokenizer it has. Give '
        'tokenizer=, such as gm.from_pretrained(folder).tokenizer.'
      )
    return _tokenizer.Tokenizer.from_version(version)
  if version and tokenizer.VERSION and version != tokenizer.VERSION:
    raise ValueError(
      f'Incompatible model and tokenizer: {type(model).__name__} needs version '
      f'{version}, {type(tokenizer).__name__} is {tokenizer.VERSION}.'
    )
  return tokenizer


def make_rules(
  tokenizer: _tokenizer.Tokenizer,
  config: _config.TransformerConfig,
  *,
  forbidden: Tokens,
  stops: Tokens,
  texts: _stop_strings.StopStrings | None,
) -> _step.Rules:
  """Roles of tokens.

  Args:
    tokenizer: The vocabulary, with its own forbidden tokens and end tags.
    config: The model's table.
    forbidden: Tokens that are never sampled besides.
    stops: Tokens that end a text besides.
    texts: What finds texts that end a text.

  Raises:
    ValueError: If one is not a single token, or outside of the table, or all
      tokens are forbidden.
  """
  special, size = tokenizer.special_tokens, config.num_embed
  real = min(tokenizer.vocab_size, config.vocab_size or size)
  banned = np.arange(size) >= real  # Rows of the table without a token.
  banned[[_state.PAD, *_ids(tokenizer, forbidden, size)]] = True
  # A small model may have no row for an image token.
  generation = tokenizer.generation
  never = *tokenizer.FORBIDDEN_TOKENS, *generation.suppressed
  banned[[i for i in never if i < size]] = True
  if banned.all():
    raise ValueError(
      f'All {real} tokens are forbidden. Take at least one out of '
      'forbidden_tokens.'
    )
  ends = [special.EOS, special.END_OF_TURN, *generation.ends]
  # A call of a tool ends the model's turn too, where the vocabulary has one.
  tool = special.__members__.get('BEGIN_OF_TOOL_RESPONSE')
  if tool is not None and tool - special.CUSTOM not in tokenizer.custom_tokens:
    ends.append(tool)
  stopping = np.zeros(size, bool)
  stopping[[i for i in ends if i < size] + _ids(tokenizer, stops, size)] = True
  return _step.Rules(
    banned=jnp.asarray(banned),
    stops=jnp.asarray(stopping),
    end=jnp.int32(special.EOS),
    texts=None if texts is None else jnp.asarray(texts.table(size)),
  )


def _ids(
  tokenizer: _tokenizer.Tokenizer, tokens: Tokens, size: int
) -> list[int]:
  if isinstance(tokens, str):
    raise ValueError(f'{tokens!r} is one string. Give a list of tokens.')
  return [_single_id(tokenizer, token, size) for token in tokens or ()]


def _single_id(
  tokenizer: _tokenizer.Tokenizer, token: str | int, size: int
) -> int:
  if not isinstance(token, str):
    if not 0 <= token < size:
      raise ValueError(
        f'Stop or forbidden token {token} is outside of the table of {size} '
        'rows.'
      )
    return int(token)
  ids = tokenizer.encode(token)
  if len(ids) != 1:
    raise ValueError(
      f'Stop and forbidden tokens must map to single token ids; {token!r} is '
      f'{tokenizer.split(token)}. To stop at a text, use stop_strings.'
    )
  return ids[0]
