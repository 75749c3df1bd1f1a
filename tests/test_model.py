"""Properties that every model has, on the table of tiny models.

Each model is compiled four times: without a cache, with a cache for 8 tokens
and for 1, and with gradients. What varies is in the rows.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from gemma import gm

ALL = pytest.mark.parametrize('case', cases.CASES, ids=str)
# For properties that the layers have no part in.
SOME = pytest.mark.parametrize(
  'case', cases.some('gemma2_by_head_dim', 'gemma3n'), ids=str
)


def fed(case, chunks):
  """Logits and cache of chunks that are fed through the cache."""
  cache, logits = case.cache(), []
  for chunk in chunks:
    out = case.apply(chunk, cache=cache)
    cache = out.cache
    logits.append(np.asarray(out.logits))
  return logits, cache


def close(case, actual, expected):
  np.testing.assert_allclose(actual, expected, atol=case.noise, rtol=0)


@ALL
def test_chunks_and_single_tokens_equal_one_shot(case):
  """Chunks longer than the window, then tokens one by one."""
  tokens = case.tokens()
  whole = case.apply(tokens).logits
  chunks = [tokens[:, :8], tokens[:, 8:16], *np.split(tokens[:, 16:], 8, 1)]
  logits, cache = fed(case, chunks)
  close(case, np.concatenate(logits, axis=1), whole)
  np.testing.assert_array_equal(cache.length, [cases.LENGTH] * 3)


@ALL
def test_rows_keep_their_own_length(case):
  """Rows take 1, 7 or 8 tokens at a time; padding leaves no trace."""
  tokens = case.tokens()
  whole = case.apply(tokens).logits
  sizes, starts = np.array([7, 8, 1]), np.zeros(3, int)
  chunks, places = [], []
  for size in (sizes, sizes[::-1], sizes):
    chunk = np.zeros((3, 8), np.int32)
    for row, (start, n) in enumerate(zip(starts, size, strict=True)):
      begin = row if n == 1 else 0  # Padding on the left too.
      chunk[row, begin : begin + n] = tokens[row, start : start + n]
    chunks.append(chunk)
    places.append(starts.copy())
    starts = starts + size
  logits, cache = fed(case, chunks)
  np.testing.assert_array_equal(cache.length, starts)
  for chunk, out, place in zip(chunks, logits, places, strict=True):
    for row in range(3):
      got = out[row][chunk[row] != 0]
      close(case, got, whole[row, place[row] :][: len(got)])


@ALL
@pytest.mark.exhaustive
@pytest.mark.parametrize('size', [1, 7, cases.LENGTH])
def test_chunks_of_one_size_equal_one_shot(case, size):
  tokens = case.tokens()
  logits, _ = fed(case, np.split(tokens, range(size, cases.LENGTH, size), 1))
  close(case, np.concatenate(logits, axis=1), case.apply(tokens).logits)


@ALL
@pytest.mark.parametrize('side', ['left', 'right'])
def test_padding_changes_nothing(case, side):
  """Prompts of 9 and 2 tokens are as the beginning of a row of 24."""
  tokens = case.tokens()
  whole = case.apply(tokens).logits
  for row, length in ((1, 9), (2, 2)):
    real = tokens[row, :length].copy()
    place = slice(length) if side == 'right' else slice(-length, None)
    tokens[row] = 0
    tokens[row, place] = real
  cached, _ = fed(case, np.split(tokens, 3, axis=1))
  for out in (case.apply(tokens).logits, np.concatenate(cached, axis=1)):
    for row in range(3):
      got = out[row][tokens[row] != 0]
      close(case, got, whole[row, : len(got)])


@ALL
def test_rows_do_not_see_each_other(case):
  """A row between empty rows, and the same row three times."""
  tokens = case.tokens()
  whole = case.apply(tokens).logits[1]
  alone = np.zeros_like(tokens)
  alone[1] = tokens[1]
  close(case, case.apply(alone).logits[1], whole)
  for row in case.apply(np.stack([tokens[1]] * 3)).logits:
    close(case, row, whole)


@ALL
@pytest.mark.exhaustive
def test_one_row_without_padding(case):
  tokens = case.tokens()
  whole = case.apply(tokens).logits
  for row, length in enumerate((cases.LENGTH, 9, 2)):
    close(case, case.apply(tokens[row, :length]).logits, whole[row, :length])


# Those beyond `FAST` are compared with `transformers` in `test_parity.py`.
@pytest.mark.parametrize('case', cases.some(*cases.FAST), ids=str)
def test_bfloat16_is_close_to_float32(case):
  tokens = case.tokens()
  half = jax.tree.map(lambda x: np.asarray(x, jnp.bfloat16), case.params)
  rounded = jax.tree.map(lambda x: jnp.asarray(x, np.float32), half)
  exact = np.asarray(case.model.apply({'params': rounded}, tokens).logits)
  out = np.asarray(case.model.apply({'params': half}, tokens).logits)
  error = np.sqrt(np.mean(np.square(out - exact), axis=-1)) / np.std(exact)
  # Of most tokens: where a gate is cut or another expert taken, all changes.
  assert np.median(error) < case.rounding


@ALL
def test_gradients_are_finite_and_equal_with_padding(case):
  """Of the loss of 16 tokens: more tokens behind, or padding around."""
  tokens, traces = case.tokens(), []
  padded = np.zeros_like(tokens)
  padded[:, 3:19] = tokens[:, :16]
  first = np.zeros(tokens.shape, bool)
  first[:, :16] = True

  @jax.jit
  def grad(params, tokens, mask):
    traces.append(tokens.shape)

    def loss(params):
      logits = case.model.apply({'params': params}, tokens).logits
      return jnp.mean(jnp.square(logits), where=mask[..., None])

    return jax.grad(loss)(params)

  plain = grad(case.params, tokens, first)
  other = grad(case.params, padded, padded != 0)
  assert traces == [tokens.shape]  # One program for all values.
  leaves = [np.asarray(x) for x in jax.tree.leaves(plain)]
  # Some gradients are zero but for noise: the final norm undoes a last scalar.
  zero = 1e-6 * max(np.abs(x).max() for x in leaves)
  for a, b in zip(leaves, jax.tree.leaves(other), strict=True):
    assert np.isfinite(a).all()
    np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(a).max() + zero)


@SOME
def test_batch_dims(case):
  tokens = case.tokens()
  logits = np.asarray(case.apply(tokens).logits)
  vocab = case.config.num_embed
  shaped = case.apply(tokens.reshape(3, 1, -1)).logits
  assert shaped.shape == (3, 1, cases.LENGTH, vocab)
  np.testing.assert_array_equal(shaped[:, 0], logits)
  shaped = case.apply(tokens.reshape(1, 3, -1)).logits
  np.testing.assert_array_equal(shaped[0], logits)
  assert case.apply(tokens[0]).logits.shape == (cases.LENGTH, vocab)
  last = case.apply(tokens[0], return_last_only=True)
  assert last.logits.shape == (vocab,)
  close(case, last.logits, logits[0, -1])


@SOME
def test_return_last_only_takes_the_last_real_token(case):
  tokens = case.tokens()
  tokens[1, 5:] = 0
  tokens[2, :5] = 0
  logits = np.asarray(case.apply(tokens).logits)
  last = case.apply(tokens, return_last_only=True, return_hidden_states=True)
  expected = np.stack([logits[0, -1], logits[1, 4], logits[2, -1]])
  close(case, last.logits, expected)
  assert last.hidden_states.shape == (3, case.config.embed_dim)


@pytest.mark.parametrize(
  'case', cases.some('gemma2_by_head_dim', 'gemma4_per_layer'), ids=str
)
def test_dense_mask_in_place_of_causal(case):
  """The mask that would be built anyway gives the same numbers."""
  tokens = case.tokens()
  dense = np.tril(np.ones((cases.LENGTH, cases.LENGTH), bool))
  dense = np.broadcast_to(dense, (3, *dense.shape))
  whole = case.apply(tokens).logits
  masked = case.apply(tokens, attention_mask=dense).logits
  close(case, masked, whole)
  cache = case.cache()
  for begin in range(0, cases.LENGTH, 8):
    part = slice(begin, begin + 8)
    out = case.apply(
      tokens[:, part], cache=cache, attention_mask=dense[:, part]
    )
    cache = out.cache
    close(case, out.logits, whole[:, part])


def test_window_holds_the_query_and_those_before():
  """In one sliding layer of window 6, token 20 sees tokens 15 to 20."""
  case = cases.NAMED['gemma2_by_head_dim']
  types = case.config.attention_types[:1]
  one = cases.Case(
    'one', dataclasses.replace(case.config, attention_types=types)
  )
  tokens = np.repeat(one.tokens(rows=1), 3, axis=0)
  before = np.asarray(one.apply(tokens).logits[:, 20])
  for row, back in enumerate((5, 6, 7)):
    tokens[row, 20 - back] = tokens[row, 20 - back] % 299 + 1
  after = np.asarray(one.apply(tokens).logits[:, 20])
  np.testing.assert_array_equal((before == after).all(-1), [False, True, True])


def test_kauldron_finds_its_inputs():
  model = gm.nn.Gemma3_4B(tokens='batch.input', text_only=True)
  assert model.__kontext_keys__() == {
    'tokens': 'batch.input',
    'images': None,
    'positions': None,
    'attention_mask': None,
    'segment_ids': None,
  }


@pytest.mark.slow
def test_parameters_are_created_in_the_dtype_of_the_model():
  for dtype in (jnp.bfloat16, jnp.float32):
    model = gm.nn.Gemma3_1B(dtype=dtype)
    shapes = jax.eval_shape(
      model.init, jax.random.key(0), jnp.ones((1, 1), jnp.int32)
    )
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype(dtype)}
