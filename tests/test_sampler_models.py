"""Samplers of every model: the same answer whichever way it is asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from gemma import gm

LENGTHS = (1, 2, 6, 7, 13, 20, 30, 9)  # One to five windows.
METHODS = [
  gm.text.Greedy(),
  gm.text.RandomSampling(),
  gm.text.TopkSampling(k=40, temperature=2.0),
  gm.text.TopPSampling(p=0.95),
] * 2


@pytest.fixture(scope='module', params=cases.DISTINCT, ids=str)
def case(request):
  return request.param


@pytest.fixture(scope='module')
def sampler(case):
  return case.sampler()


def uncached(case, rows):
  """Logits of whole rows in one pass, each without its padding."""
  tokens = np.zeros((len(rows), 64), np.int32)
  for i, row in enumerate(rows):
    tokens[i, : len(row)] = row
  logits = np.asarray(case.apply(tokens).logits)
  return [x[: len(row)] for x, row in zip(logits, rows, strict=True)]


@pytest.mark.slow
def test_batch_alone_and_stream_are_the_same(case, sampler):
  """Ragged rows, each with its own method, whole and piece by piece."""
  prompts = case.prompts(*LENGTHS)
  batch = sampler.sample(prompts, sampling=METHODS, rng=3, return_state=True)
  steps = [*sampler.sample(prompts, sampling=METHODS, rng=3, stream=True)]
  assert [''.join(row) for row in zip(*steps, strict=True)] == batch.text
  for i, (prompt, method) in enumerate(zip(prompts, METHODS, strict=True)):
    alone = sampler.sample(prompt, sampling=method, rng=3, return_state=True)
    assert alone.token_ids == batch.token_ids[i]
    assert alone.finish_reason == batch.finish_reason[i]
    assert alone.usage == batch.usage[i]


def test_turns_equal_one_pass(case, sampler):
  """What three turns leave behind equals one pass over all that was said."""
  said = [[] for _ in LENGTHS]
  out, state = None, None
  for turn in range(3):
    lengths = np.roll([3, 14, 1, 9, 8, 5, 12, 10], turn)
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
  whole = uncached(case, said)
  last = case.apply(state.last_token[:, None], cache=state.cache).logits[:, 0]
  for i in range(len(said)):
    np.testing.assert_allclose(last[i], whole[i][-1], atol=1e-4, rtol=0)
  for i in (0, 4):  # Greedy rows.
    answer = np.array(whole[i][-1 - len(out.token_ids[i]) : -1])
    answer[:, [0, 110, 111]] = -np.inf
    assert out.token_ids[i] == answer.argmax(axis=-1).tolist()


def noisy(params):
  """Parameters of a draft that is often, but not always right."""
  rng = np.random.RandomState(0)
  return jax.tree.map(
    lambda x: x + jnp.asarray(rng.normal(0, 0.02, x.shape), x.dtype), params
  )


SLOW = [pytest.param(case, marks=pytest.mark.slow) for case in cases.CASES[::2]]


@pytest.mark.parametrize('case', [*cases.CASES[1::2], *SLOW], ids=str)
def test_guesses_change_no_greedy_answer(case):
  """Past the window, where rings wrap while tokens are taken back."""
  draft = gm.text.DraftModel(
    model=case.model, params=noisy(case.params), num_tokens=3
  )
  prompts = case.prompts(*LENGTHS)
  expected = case.sampler().sample(prompts, return_state=True).token_ids
  guessed = case.sampler(draft=draft).sample(prompts, return_state=True)
  assert guessed.token_ids == expected
