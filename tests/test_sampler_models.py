"""Samplers of every model: the same answer whichever way it is asked for."""

import dataclasses

import jax
import numpy as np
import pytest

import cases
from gemma import gm

# One to five windows, in two batches of four.
LENGTHS = (1, 7, 20, 30), (2, 6, 13, 9)
METHODS = [
  gm.text.Greedy(),
  gm.text.RandomSampling(),
  gm.text.TopkSampling(k=40, temperature=2.0),
  gm.text.TopPSampling(p=0.95),
]


@pytest.fixture(scope='module', params=cases.DISTINCT, ids=str)
def case(request):
  return request.param


@pytest.fixture(scope='module')
def sampler(case):
  return case.sampler()


@pytest.fixture(scope='module')
def batches(case, sampler):
  """Prompts and answers of both batches, each row with its own method."""
  prompts = case.prompts(*LENGTHS[0], *LENGTHS[1])
  fields = {'sampling': METHODS, 'rng': 3, 'return_state': True}
  return [
    (rows, sampler.sample(rows, **fields))
    for rows in (prompts[:4], prompts[4:])
  ]


@pytest.mark.slow
def test_batch_and_stream_are_the_same(sampler, batches):
  """Ragged rows, each with its own method, whole and piece by piece."""
  for prompts, batch in batches:
    steps = [*sampler.sample(prompts, sampling=METHODS, rng=3, stream=True)]
    assert [''.join(row) for row in zip(*steps, strict=True)] == batch.text


@pytest.mark.slow
def test_row_is_the_same_in_other_company(sampler, batches):
  """Rows of the other batch beside it, longer and shorter ones."""
  (one, first), (two, second) = batches
  mixed = [one[0], two[1], one[2], two[3]]
  out = sampler.sample(mixed, sampling=METHODS, rng=3, return_state=True)
  for i, batch in enumerate((first, second) * 2):
    assert out.token_ids[i] == batch.token_ids[i]
    assert out.finish_reason[i] == batch.finish_reason[i]
    assert out.usage[i] == batch.usage[i]


# A batch of one row is another program.
ALONE = cases.GEMMA2, cases.NAMED['gemma4_experts']


@pytest.mark.slow
@pytest.mark.parametrize(
  'case',
  [
    case if case in ALONE else pytest.param(case, marks=pytest.mark.exhaustive)
    for case in cases.DISTINCT
  ],
  indirect=True,
  ids=str,
)
def test_row_is_the_same_alone(sampler, batches):
  for prompts, batch in batches:
    for i, (prompt, method) in enumerate(zip(prompts, METHODS, strict=True)):
      alone = sampler.sample(prompt, sampling=method, rng=3, return_state=True)
      assert alone.token_ids == batch.token_ids[i]
      assert alone.finish_reason == batch.finish_reason[i]
      assert alone.usage == batch.usage[i]


def test_turns_equal_one_pass(case, sampler):
  """What three turns leave behind equals one pass over all that was said."""
  said = [[] for _ in range(4)]
  out, state = None, None
  for turn in range(3):
    lengths = np.roll([14, 1, 9, 3], turn)
    prompts = [row[::-1] for row in case.prompts(*lengths)]
    out = sampler.sample(
      prompts,
      last_state=state,
      return_state=True,
      max_new_tokens=5,
      sampling=METHODS,
      rng=turn,
    )
    state = out.state
    for i, prompt in enumerate(prompts):
      said[i] += prompt + out.token_ids[i]
  assert state.contexts() == said
  whole = case.one_pass(said)
  for logits, (expected, _) in zip(case.after(state), whole, strict=True):
    np.testing.assert_allclose(logits, expected[-1], atol=1e-4, rtol=0)
  answer = np.array(whole[0][0][-1 - len(out.token_ids[0]) : -1])
  answer[:, [0, 110, 111]] = -np.inf
  assert out.token_ids[0] == answer.argmax(axis=-1).tolist()


def noisy(params):
  """Parameters of a draft that is often, but not always right."""
  rng = np.random.RandomState(0)
  return jax.tree.map(
    lambda x: x + rng.normal(0, 0.02, x.shape).astype(x.dtype), params
  )


def test_scores_equal_one_pass(case, sampler):
  """Ragged rows, in one chunk or several."""
  rows = case.prompts(23, 1, 8, 9)
  several = sampler.score(rows, chunk_length=8)
  for row, score, (logits, _) in zip(
    rows, several, case.one_pass(rows), strict=True
  ):
    total = np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    expected = (logits - total)[np.arange(len(row) - 1), row[1:]]
    assert score.token_ids == row
    np.testing.assert_allclose(score.logprobs, expected, atol=1e-4, rtol=0)
    assert score.total == pytest.approx(expected.sum(), abs=1e-3)
    mean = expected.mean() if len(row) > 1 else 0
    assert score.perplexity == pytest.approx(np.exp(-mean), rel=1e-4)


def test_guesses_change_no_greedy_answer(case, sampler):
  """Past the window, where rings wrap while tokens are taken back."""
  draft = gm.text.DraftModel(
    model=case.model, params=noisy(case.params), num_tokens=3
  )
  guessing = dataclasses.replace(sampler, draft=draft)
  for lengths in LENGTHS:
    prompts = case.prompts(*lengths)
    expected = sampler.sample(prompts, return_state=True).token_ids
    guessed = guessing.sample(prompts, return_state=True)
    assert guessed.token_ids == expected
