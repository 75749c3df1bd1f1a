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

LENGTHS = (23, 1, 8, 9)


@pytest.fixture
def untyped():
  """Without checks of shape types, which take no stand-ins for arrays."""
  jaxtyping.config.update('jaxtyping_disable', True)
  yield
  jaxtyping.config.update('jaxtyping_disable', False)


@pytest.mark.parametrize('case', cases.DISTINCT, ids=str)
def test_scores_equal_one_pass(case):
  """Ragged rows, in one chunk or several."""
  sampler, rows = case.sampler(), case.prompts(*LENGTHS)
  several = sampler.score(rows, chunk_length=8)
  for row, score in zip(rows, several, strict=True):
    tokens = np.zeros((1, 24), np.int32)
    tokens[0, : len(row)] = row
    logprobs = jax.nn.log_softmax(case.apply(tokens).logits[0])
    expected = np.asarray(logprobs)[np.arange(len(row) - 1), row[1:]]
    assert score.token_ids == row
    np.testing.assert_allclose(score.logprobs, expected, atol=1e-4, rtol=0)
    assert score.total == pytest.approx(expected.sum(), abs=1e-3)
    mean = expected.mean() if len(row) > 1 else 0
    assert score.perplexity == pytest.approx(np.exp(-mean), rel=1e-4)


def test_size_of_chunks_and_batch_change_nothing():
  case = cases.CASES[3]
  sampler, (row,) = case.sampler(), case.prompts(23)
  whole = sampler.score(row)
  parts = sampler.score(row, chunk_length=5)
  assert isinstance(whole, gm.text.Score)
  np.testing.assert_allclose(whole.logprobs, parts.logprobs, atol=1e-4)


def test_text_is_scored_behind_its_beginning(tiny):
  sampler = gm.text.Sampler(
    model=tiny.model, params=tiny.params, tokenizer=tiny.tokenizer
  )
  good, bad = sampler.score(['ROMEO:', 'RO@#%^'], chunk_length=16)
  ids = tiny.tokenizer.encode('ROMEO:', add_bos=True)
  assert good.token_ids == ids
  assert len(good.logprobs) == len(ids) - 1
  assert good.perplexity < bad.perplexity


@pytest.mark.parametrize('chunk_length', [8, 64])
def test_vectors_by_hand(chunk_length):
  case = cases.CASES[3]
  sampler, rows = case.sampler(), case.prompts(*LENGTHS)
  states = [
    np.asarray(
      case.apply(np.array([row]), return_hidden_states=True).hidden_states[0]
    )
    for row in rows
  ]
  fields = {'chunk_length': chunk_length}
  mean = sampler.embed(rows, normalize=False, **fields)
  np.testing.assert_allclose(
    mean, [x.mean(axis=0) for x in states], atol=1e-4, rtol=0
  )
  last = sampler.embed(rows, pooling='last', normalize=False, **fields)
  np.testing.assert_allclose(last, [x[-1] for x in states], atol=1e-4, rtol=0)
  unit = sampler.embed(rows, **fields)
  assert unit.dtype == np.float32
  norms = np.linalg.norm(mean, axis=1, keepdims=True)
  np.testing.assert_allclose(unit, mean / norms, atol=1e-6)
  alone = sampler.embed(rows[0], **fields)
  np.testing.assert_allclose(alone, unit[0], atol=1e-5)


def test_logits_of_all_tokens_are_never_there_at_once(untyped):
  """Temporary memory stays far below that of logits, `B * L * V * 4` bytes."""
  config = dataclasses.replace(cases.CASES[3].config, num_embed=50_000)
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
    call(cases.CASES[0].sampler())
