"""Scores and vectors of texts, equal to one pass over each."""

import dataclasses

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import cases
from gemma import gm
from gemma.gm.text import _scoring

CASE = cases.GEMMA2
ROWS = CASE.prompts(23, 1, 8, 9)


@pytest.fixture
def untyped():
  """Without checks of shape types, which take no stand-ins for arrays."""
  jaxtyping.config.update('jaxtyping_disable', True)
  yield
  jaxtyping.config.update('jaxtyping_disable', False)


@pytest.fixture(scope='module')
def whole():
  """Logits and states of each row in one pass."""
  return CASE.one_pass(ROWS)


@pytest.mark.parametrize('chunk_length', [8, 64])
def test_size_of_chunks_changes_nothing(whole, chunk_length):
  scores = CASE.sampler().score(ROWS, chunk_length=chunk_length)
  for row, score, (logits, _) in zip(ROWS, scores, whole, strict=True):
    logprobs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    expected = logprobs[np.arange(len(row) - 1), row[1:]]
    np.testing.assert_allclose(score.logprobs, expected, atol=1e-4, rtol=0)


def test_text_is_scored_behind_its_beginning(tiny):
  sampler = gm.text.Sampler(
    model=tiny.model, params=tiny.params, tokenizer=tiny.tokenizer
  )
  good, bad = (sampler.score(x, chunk_length=16) for x in ('ROMEO:', 'RO@#%^'))
  assert isinstance(good, gm.text.Score)
  ids = tiny.tokenizer.encode('ROMEO:', add_bos=True)
  assert good.token_ids == ids
  assert len(good.logprobs) == len(ids) - 1
  assert good.perplexity < bad.perplexity


@pytest.mark.parametrize('chunk_length', [8, 64])
def test_vectors_by_hand(whole, chunk_length):
  sampler = CASE.sampler()
  states = [x for _, x in whole]
  fields = {'chunk_length': chunk_length}
  mean = sampler.embed(ROWS, normalize=False, **fields)
  np.testing.assert_allclose(
    mean, [x.mean(axis=0) for x in states], atol=1e-4, rtol=0
  )
  last = sampler.embed(ROWS, pooling='last', normalize=False, **fields)
  np.testing.assert_allclose(last, [x[-1] for x in states], atol=1e-4, rtol=0)
  unit = sampler.embed(ROWS, **fields)
  assert unit.dtype == np.float32
  norms = np.linalg.norm(mean, axis=1, keepdims=True)
  np.testing.assert_allclose(unit, mean / norms, atol=1e-6)


def test_vector_of_a_row_alone():
  sampler = CASE.sampler()
  alone = sampler.embed(ROWS[0], chunk_length=8)
  batch = sampler.embed(ROWS, chunk_length=8)
  np.testing.assert_allclose(alone, batch[0], atol=1e-5)


def test_logits_of_all_tokens_are_never_there_at_once(untyped):
  """Temporary memory stays far below that of logits, `B * L * V * 4` bytes."""
  config = dataclasses.replace(CASE.config, num_embed=50_000)
  model = gm.nn.Transformer(config=config, dtype=jnp.float32)
  rows, length = 2, 256
  logits = rows * length * model.config.num_embed * 4
  tokens = jax.ShapeDtypeStruct((rows, length), jnp.int32)
  params = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 1), int))
  params = params['params']
  hidden = jax.ShapeDtypeStruct(
    (rows, length, model.config.embed_dim), jnp.float32
  )
  cache = model.init_cache(
    batch_size=rows, dtype=jnp.float32, cache_length=length
  )
  for lowered in (
    _scoring._logprobs.lower(model, params, hidden, tokens),
    _scoring._next_hidden.lower(model, params, tokens, None, cache),
  ):
    memory = lowered.compile().memory_analysis()
    assert memory.temp_size_in_bytes < logits / 4


@pytest.mark.parametrize(
  'call, message',
  [
    (lambda s: s.score([5], chunk_length=0), 'chunk_length=0 must be at least'),
    (lambda s: s.score([]), 'list of prompts is empty'),
    (lambda s: s.score([5, 300]), 'Token id 300 in prompt 0'),
  ],
)
def test_what_cannot_be_scored(call, message):
  with pytest.raises(ValueError, match=message):
    call(CASE.sampler())
