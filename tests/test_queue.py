"""More prompts than a batch may have: the same answers, in order."""

import dataclasses

import numpy as np
import pytest

import cases
from gemma import gm
from gemma.gm.text import _decode

CASE = cases.GEMMA2
COUNT = 37
METHODS = (
  gm.text.Greedy(),
  gm.text.RandomSampling(),
  gm.text.Chain(
    gm.text.RandomSampling(),
    gm.text.Penalties(frequency=1.0),
    gm.text.LogitBias(bias={9: 3.0}),
  ),
  gm.text.Chain(gm.text.Greedy(), gm.text.LogitBias(bias={7: 3.0})),
)


@pytest.fixture(scope='module')
def prompts():
  lengths = np.random.RandomState(0).randint(1, 20, COUNT)
  return CASE.prompts(*lengths)


@pytest.fixture(scope='module')
def sampler():
  """Some texts end early, at a stop token; others are cut."""
  return CASE.sampler(
    **cases.TIGHT, max_batch_size=4, stop_tokens=[*range(200, 220)]
  )


@pytest.mark.slow
def test_queue_equals_one_by_one(sampler, prompts):
  """With methods of their own, penalties, stop tokens, full caches."""
  methods = [METHODS[i % 4] for i in range(COUNT)]
  parts = _decode._prefill_chunk, _decode.decode
  before = [part._cache_size() for part in parts]
  out = sampler.sample(
    prompts, sampling=methods, rng=5, return_state=True, progress=False
  )
  # Batches of four, and one prompt at a time that takes its turn.
  new = np.subtract([part._cache_size() for part in parts], before)
  assert (new <= [2, 1]).all()  # Other tests may have compiled them.
  assert {*out.finish_reason} >= {'stop', 'length', 'cache_full'}
  assert out.tokens.shape == (COUNT, 16)
  # All rows have the stages of all methods, so that one batch may have both.
  groups = [out.token_ids[i : i + 4] for i in range(0, COUNT, 4)]
  for i, expected in enumerate(groups):
    rows = slice(4 * i, 4 * i + 4)
    batch = sampler.sample(
      prompts[rows], sampling=methods[rows], rng=5, return_state=True
    )
    assert batch.token_ids == expected
    assert batch.usage == out.usage[rows]
    assert batch.text == out.text[rows]
  for i in range(3):
    alone = sampler.sample(
      prompts[i], sampling=methods[i], rng=5, return_state=True
    )
    assert alone.token_ids == out.token_ids[i]


@pytest.mark.slow
def test_queue_with_guesses(sampler, prompts):
  plain = sampler.sample(prompts, return_state=True, progress=False)
  guessing = dataclasses.replace(
    sampler, draft=gm.text.PromptLookup(num_tokens=2)
  )
  out = guessing.sample(prompts, return_state=True, progress=False)
  assert out.token_ids == plain.token_ids
  assert out.finish_reason == plain.finish_reason
  with pytest.raises(ValueError, match='states of 37 prompts are not kept'):
    _ = out.state


def test_limits_of_their_own(sampler, prompts):
  """Slots that are free early take the next prompts."""
  limits = [1 + i % 16 for i in range(COUNT)]
  whole = sampler.sample(prompts, return_state=True, progress=False)
  out = sampler.sample(
    prompts, max_new_tokens=limits, return_state=True, progress=False
  )
  for short, long, limit in zip(
    out.token_ids, whole.token_ids, limits, strict=True
  ):
    assert short == long[:limit]


def test_prompt_too_long_is_found_before_anything_is_sampled(sampler, prompts):
  prompts = [*prompts[:20], [5] * 22, *prompts[20:]]
  with pytest.raises(ValueError, match='Row 20 has 22 tokens.*holds 21'):
    sampler.sample(prompts, progress=False)


def test_progress_bar_leaves_nothing_behind(sampler, prompts, capsys):
  quiet = sampler.sample(prompts[:6], max_new_tokens=2, progress=False)
  assert sampler.sample(prompts[:6], max_new_tokens=2) == quiet
  assert not capsys.readouterr().err
