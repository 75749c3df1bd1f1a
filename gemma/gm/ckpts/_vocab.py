"""Embedding tables with more rows or fewer.

Published tables of one vocabulary differ in their rows: 256,000 tokens come in
tables of 256,000 or 256,128 rows, 262,144 in tables of 262,144 or 262,208. The
rule, one way for all:

- A Hugging Face table has the rows that its `config.json` says, and all are
  read: fine-tunes use those behind the text. Another number is an error.
- Given `params` with a table of 262,144 rows, the first rows of a longer table
  of Gemma 3 or 3n are read, with a warning.
- An Orbax table is read whole: 256,128 rows stay, and are for a model that has
  as many.
- Rows from `config.vocab_size` on stand for no token, and are never sampled.
- To another number of rows, `resize_vocab`.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from gemma.gm.nn import _per_layer
from gemma.gm.nn import _transformer


def resize_vocab(
  model: _transformer.Transformer,
  params: Mapping[str, Any],
  num_embed: int,
  *,
  vocab_size: int | None = None,
  allow_fewer: bool = False,
) -> tuple[_transformer.Transformer, dict[str, Any]]:
  """Gives the embedding table another number of rows, and those of layers.

  A new row is the mean of the rows that stand for a token, so that a token
  never seen begins as likely as an average one, and not far from all others.
  The table is the output head too; what else has a row for each token are the
  per-layer tables of Gemma 3n and 4.

  ```python
  >>> from gemma import gm
  >>> tiny = gm.from_pretrained(gm.ckpts.CheckpointPath.GEMMA3_TINY_IT)
  >>> model, params = gm.ckpts.resize_vocab(tiny.model, tiny.params, 2064)
  >>> params['embedder']['input_embedding'].shape, model.config.num_embed
  ((2064, 192), 2064)

  ```

  Args:
    model: The model; it is not changed.
    params: Its parameters, NESTED; they are not changed, and all but the tables
      are shared with the result.
    num_embed: Rows to have. A multiple of 128 is best where the table is
      sharded or multiplied on an accelerator.
    vocab_size: How many of these stand for a token, if the others are padding.
      By default all, if there are more rows than before. Rows that stood for
      no token and now do become the mean too.
    allow_fewer: Whether rows may be dropped, with the tokens that they stand
      for.

  Returns:
    The model and the parameters, tables in the dtype that they had.

  Raises:
    ValueError: If tokens would be dropped without `allow_fewer`, the numbers
      are impossible, or the table is not that of the model.
  """
  config = model.config
  table = params['embedder']['input_embedding']
  if table.shape != (config.num_embed, config.embed_dim):
    raise ValueError(
      f'The table has shape {table.shape}, but the model '
      f'{(config.num_embed, config.embed_dim)}. Give the params of the model.'
    )
  tokens = config.vocab_size or config.num_embed
  if vocab_size is None and num_embed <= config.num_embed:
    vocab_size = config.vocab_size and min(config.vocab_size, num_embed)
  _check(tokens, num_embed, vocab_size, allow_fewer)
  embedder = dict(params['embedder'])
  for name in ('input_embedding', *_per_layer.TABLES):
    if name in embedder:
      whole = _with_all_rows(embedder[name], config.num_embed)
      embedder[name] = _resize(
        whole, tokens, num_embed, vocab_size or num_embed
      )
  config = dataclasses.replace(
    config, num_embed=num_embed, vocab_size=vocab_size, per_layer_rows=None
  )
  return model.clone(config=config), {**params, 'embedder': embedder}


def _check(
  tokens: int, num_embed: int, vocab_size: int | None, allow_fewer: bool
) -> None:
  """Raises on numbers that are impossible, or that lose tokens unasked."""
  new = num_embed if vocab_size is None else vocab_size
  if not 1 <= new <= num_embed:
    raise ValueError(
      f'num_embed={num_embed} and vocab_size={vocab_size}: there must be at '
      'least 1 token, and a row for each.'
    )
  if new < tokens and not allow_fewer:
    raise ValueError(
      f'{new} tokens are fewer than the {tokens} of the model: the last '
      f'{tokens - new} would be lost. Pass allow_fewer=True if that is meant.'
    )


def _with_all_rows(table: jax.Array, rows: int) -> jax.Array:
  """A per-layer table with a row for each token: that of padding."""
  missing = rows - table.shape[0]
  if not missing:
    return table
  return jnp.concatenate([table, jnp.repeat(table[:1], missing, axis=0)])


def _resize(
  table: jax.Array, tokens: int, rows: int, new_tokens: int
) -> jax.Array:
  """The table with its tokens' rows first, then their mean.

  Padding that stays padding stays as it is.
  """
  mean = jnp.mean(table[:tokens], axis=0, keepdims=True, dtype=jnp.float32)
  mean = mean.astype(table.dtype)
  kept = table[: min(tokens, rows)]
  added = jnp.repeat(mean, max(new_tokens - tokens, 0), axis=0)
  start = kept.shape[0] + added.shape[0]
  padding = table[start:rows]
  more = jnp.repeat(mean, rows - start - padding.shape[0], axis=0)
  return jnp.concatenate([kept, added, padding, more])
