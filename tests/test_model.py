"""Properties that every model has, on the table of tiny models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from gemma import gm

ALL = pytest.mark.parametrize('case', cases.CASES, ids=str)


def in_chunks(case, tokens, size, cache=None):
  """Logits of all tokens, fed `size` at a time through the cache."""
  rows, length = tokens.shape
  cache = case.cache(rows, length) if cache is None else cache
  logits = []
  for begin in range(0, length, size):
    out = case.apply(tokens[:, begin : begin + size], cache=cache)
    cache = out.cache
    logits.append(out.logits)
  return np.concatenate(logits, axis=1), cache


@ALL
@pytest.mark.parametrize('size', [1, 7, cases.LENGTH])
def test_chunked_equals_one_shot(case, size):
  tokens = case.tokens()
  logits, cache = in_chunks(case, tokens, size)
  np.testing.assert_allclose(
    logits, case.apply(tokens).logits, atol=case.noise, rtol=0
  )
  np.testing.assert_array_equal(cache.length, [cases.LENGTH] * 3)


@ALL
@pytest.mark.parametrize('side', ['left', 'right'])
def test_padding_changes_nothing(case, side):
  tokens = case.tokens()
  for row, length in enumerate((cases.LENGTH, 9, 2)):
    real = tokens[row, :length].copy()
    tokens[row] = 0
    tokens[row, slice(length) if side == 'right' else slice(-length, None)] = (
      real
    )
  batch = case.apply(tokens).logits
  cached, _ = in_chunks(case, tokens, 8)
  for row in range(3):
    real = tokens[row] != 0
    alone = case.apply(tokens[row][real]).logits
    np.testing.assert_allclose(batch[row][real], alone, atol=case.noise, rtol=0)
    np.testing.assert_allclose(
      cached[row][real], alone, atol=case.noise, rtol=0
    )


@ALL
def test_rows_keep_their_own_length(case):
  """A row that got padding goes on as if the padding had not been there."""
  tokens = case.tokens(rows=2)
  first, second = tokens[:, :10].copy(), tokens[:, 10:]
  first[1, 4:] = 0
  cache = case.apply(first, cache=case.cache(2)).cache
  out = case.apply(second, cache=cache)
  whole = np.concatenate([tokens[1, :4], tokens[1, 10:]])
  np.testing.assert_array_equal(out.cache.length, [24, 18])
  np.testing.assert_allclose(
    out.logits[1], case.apply(whole).logits[4:], atol=case.noise, rtol=0
  )


@ALL
def test_bfloat16_is_close_to_float32(case):
  tokens = case.tokens()
  exact = case.apply(tokens).logits
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), case.params)
  rounded = jax.tree.map(lambda x: x.astype(jnp.float32), half)
  exact = case.model.apply({'params': rounded}, tokens).logits
  out = case.model.apply({'params': half}, tokens).logits
  error = np.sqrt(np.mean(np.square(out - exact), axis=-1)) / np.std(exact)
  # Of most tokens: where a gate is cut or another expert taken, all changes.
  assert np.median(error) < case.rounding


@ALL
def test_gradients_are_finite_and_equal_with_padding(case):
  tokens = case.tokens()
  padded = np.pad(tokens, [(0, 0), (3, 5)])

  def loss(params, tokens):
    logits = case.model.apply({'params': params}, tokens).logits
    mask = (tokens != 0)[..., None]
    return jnp.mean(jnp.square(logits), where=mask)

  plain = jax.grad(loss)(case.params, tokens)
  other = jax.grad(loss)(case.params, padded)
  leaves = jax.tree.leaves(plain)
  # Some gradients are zero but for noise: the final norm undoes a last scalar.
  zero = 1e-6 * max(np.abs(x).max() for x in leaves)
  for a, b in zip(leaves, jax.tree.leaves(other), strict=True):
    assert np.isfinite(a).all()
    np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(a).max() + zero)


@ALL
def test_batch_dims(case):
  tokens = case.tokens(rows=6)
  logits = case.apply(tokens).logits
  vocab = case.config.num_embed
  shaped = case.apply(tokens.reshape(2, 3, -1)).logits
  assert shaped.shape == (2, 3, cases.LENGTH, vocab)
  np.testing.assert_array_equal(shaped.reshape(logits.shape), logits)
  assert case.apply(tokens[0]).logits.shape == (cases.LENGTH, vocab)
  last = case.apply(tokens[0], return_last_only=True)
  assert last.logits.shape == (vocab,)
  np.testing.assert_allclose(
    last.logits, logits[0, -1], atol=case.noise, rtol=0
  )


@ALL
def test_return_last_only_takes_the_last_real_token(case):
  tokens = case.tokens()
  tokens[1, 5:] = 0
  tokens[2, :5] = 0
  logits = case.apply(tokens).logits
  last = case.apply(tokens, return_last_only=True, return_hidden_states=True)
  expected = np.stack([logits[0, -1], logits[1, 4], logits[2, -1]])
  np.testing.assert_allclose(last.logits, expected, atol=case.noise, rtol=0)
  assert last.hidden_states.shape == (3, case.config.embed_dim)


@ALL
def test_dense_mask_in_place_of_causal(case):
  """The mask that would be built anyway gives the same numbers."""
  tokens = case.tokens()
  dense = np.tril(np.ones((cases.LENGTH, cases.LENGTH), bool))
  dense = np.broadcast_to(dense, (3, *dense.shape))
  whole = case.apply(tokens).logits
  masked = case.apply(tokens, attention_mask=dense).logits
  np.testing.assert_allclose(masked, whole, atol=case.noise, rtol=0)
  cache = case.cache()
  for begin in range(0, cases.LENGTH, 8):
    part = slice(begin, begin + 8)
    out = case.apply(
      tokens[:, part], cache=cache, attention_mask=dense[:, part]
    )
    cache = out.cache
    np.testing.assert_allclose(
      out.logits, whole[:, part], atol=case.noise, rtol=0
    )


@pytest.mark.parametrize('back, seen', [(5, True), (6, False), (7, False)])
def test_window_holds_the_query_and_those_before(back, seen):
  """In one sliding layer of window 6, token 20 sees tokens 15 to 20."""
  case = next(c for c in cases.CASES if c.name == 'gemma2_by_head_dim')
  config = case.config
  one = cases.Case(
    'one',
    type(config)(
      **{**vars(config), 'attention_types': config.attention_types[:1]}
    ),
  )
  tokens = one.tokens(rows=1)
  changed = tokens.copy()
  changed[0, 20 - back] = changed[0, 20 - back] % 299 + 1
  before = one.apply(tokens).logits[0, 20]
  after = one.apply(changed).logits[0, 20]
  assert bool(np.array_equal(before, after)) == (not seen)


@ALL
def test_one_compilation_for_all_values(case):
  """Calls of one shape share a trace, whatever the tokens."""
  traces = []

  @jax.jit
  def forward(params, tokens):
    traces.append(tokens.shape)
    return case.model.apply({'params': params}, tokens).logits

  for seed in range(3):
    tokens = np.random.RandomState(seed).randint(0, 300, (2, 8))
    forward(case.params, tokens)
  assert traces == [(2, 8)]


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
