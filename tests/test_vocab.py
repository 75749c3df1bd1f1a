"""Tables with more rows or fewer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from gemma import gm

CASE = cases.GEMMA3
ROWS = CASE.config.num_embed


def table_of(params):
  return np.asarray(params['embedder']['input_embedding'])


def resize(num_embed, tokens=None, dtype='float32', **fields):
  """The old table, and what `resize_vocab` makes."""
  config = dataclasses.replace(CASE.config, vocab_size=tokens)
  params = jax.tree.map(lambda x: x.astype(dtype), CASE.params)
  model = CASE.model.clone(config=config)
  return table_of(params), *gm.ckpts.resize_vocab(
    model, params, num_embed, **fields
  )


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_added_rows_are_the_mean(dtype):
  old, model, params = resize(ROWS + 5, dtype=dtype)
  new = table_of(params)
  assert new.dtype == dtype and new.shape[0] == ROWS + 5
  np.testing.assert_array_equal(new[:ROWS], old)
  mean = old.astype(np.float32).mean(axis=0)
  error = np.abs(new[ROWS:].astype(np.float32) - mean)
  assert error.max() <= (1e-6 if dtype == 'float32' else 2e-4)
  assert model.config.num_embed == ROWS + 5
  assert params['final_norm']['scale'].dtype == dtype


def test_old_tokens_keep_their_logits():
  _, model, params = resize(ROWS + 5)
  tokens = CASE.tokens()
  new = model.apply({'params': params}, tokens).logits
  old = CASE.apply(tokens).logits
  np.testing.assert_allclose(new[..., :ROWS], old, atol=1e-5)
  # A new token is as likely as an average one.
  np.testing.assert_allclose(new[..., ROWS], old.mean(-1), atol=1e-4)


def test_padding_is_no_token():
  """Of 290 tokens in 300 rows: 2 more tokens are rows that were padding."""
  old, model, params = resize(ROWS, tokens=ROWS - 10, vocab_size=ROWS - 8)
  new = table_of(params)
  mean = old[: ROWS - 10].mean(axis=0)
  np.testing.assert_array_equal(new[: ROWS - 10], old[: ROWS - 10])
  np.testing.assert_allclose(new[ROWS - 10 : ROWS - 8] - mean, 0, atol=1e-6)
  np.testing.assert_array_equal(new[ROWS - 8 :], old[ROWS - 8 :])
  assert model.config.vocab_size == ROWS - 8


def test_fewer_rows():
  with pytest.raises(ValueError, match='the last 10 would be lost'):
    resize(ROWS - 10)
  old, model, params = resize(ROWS - 10, allow_fewer=True)
  np.testing.assert_array_equal(table_of(params), old[:-10])
  # Rows of padding are no tokens, and go unasked.
  old, model, params = resize(ROWS - 10, tokens=ROWS - 10)
  np.testing.assert_array_equal(table_of(params), old[:-10])
  assert model.config.num_embed == ROWS - 10


@pytest.mark.parametrize(
  'num_embed, fields, message',
  [
    (0, {'allow_fewer': True}, 'num_embed=0'),
    (ROWS, {'vocab_size': ROWS + 1}, f'vocab_size={ROWS + 1}'),
  ],
)
def test_numbers_that_cannot_be(num_embed, fields, message):
  with pytest.raises(ValueError, match=message):
    resize(num_embed, **fields)


def test_params_of_another_model():
  other = CASE.model.clone(
    config=dataclasses.replace(CASE.config, num_embed=ROWS + 1)
  )
  with pytest.raises(ValueError, match='Give the params of the model'):
    gm.ckpts.resize_vocab(other, CASE.params, ROWS + 5)


@pytest.mark.parametrize('case', cases.CASES, ids=str)
def test_saved_and_read_back(case, tmp_path):
  fields = {'vocab_size': ROWS + 3}
  model, params = gm.ckpts.resize_vocab(
    case.model, case.params, ROWS + 8, **fields
  )
  gm.ckpts.save_hf(tmp_path / 'm', model=model, params=params)
  read = gm.from_pretrained(tmp_path / 'm')
  np.testing.assert_array_equal(table_of(read.params), table_of(params))
  assert read.model.config.num_embed == ROWS + 8
  assert read.model.config.vocab_size == ROWS + 3


@pytest.mark.parity
@pytest.mark.filterwarnings('ignore')
def test_others_read_it(tmp_path):
  hf = pytest.importorskip('hf', reason='needs torch and transformers')
  model, params = gm.ckpts.resize_vocab(
    CASE.model, CASE.params, ROWS + 8, vocab_size=ROWS + 3
  )
  gm.ckpts.save_hf(tmp_path / 'm', model=model, params=params)
  tokens = CASE.tokens()
  tokens[:, 3] = ROWS + 2
  theirs = hf.logits(hf.read_model(tmp_path / 'm'), tokens)
  ours = model.apply({'params': params}, jnp.asarray(tokens)).logits
  np.testing.assert_allclose(ours, theirs, atol=5e-5)
