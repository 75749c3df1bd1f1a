"""Prompts that begin alike: computed once, with the same answers."""

import dataclasses

import jax
import numpy as np
import pytest

import cases
from gemma import gm

CASE = cases.GEMMA2  # Windows of 6 tokens.
PREFIX = CASE.prompts(40)[0]
ENDS = ([7, 8, 9], [11], [12, 13, 14, 15], [7, 8, 9, 10])


@pytest.fixture(scope='module')
def plain():
  return CASE.sampler()


@pytest.fixture
def sampler(plain):
  """With a prefix cache of its own in each test."""
  return dataclasses.replace(plain, prefix_cache=gm.text.PrefixCache())


def cached(sampler, prompt, **fields):
  """Tokens of the prompt that did not have to be computed."""
  out = sampler.sample(prompt, return_state=True, **fields)
  usage = out.usage if isinstance(out.usage, list) else [out.usage]
  return [row.cached_tokens for row in usage]


@pytest.mark.slow
def test_rings_forget_until_a_prefix_is_seen_twice(plain):
  """Misses, then hits of what is shared; the same answers all along."""
  cache = gm.text.PrefixCache(max_entries=99)
  sampler = dataclasses.replace(plain, prefix_cache=cache)
  hits = []
  for end in (*ENDS, *ENDS):
    prompt = PREFIX + end
    hits += cached(sampler, prompt)
    for _ in range(2):
      again = sampler.sample(prompt, return_state=True)
      assert (
        again.token_ids == plain.sample(prompt, return_state=True).token_ids
      )
  # The second prompt computes the prefix anew, and keeps it.
  assert hits[0] == 0
  assert hits[1:4] == [40, 40, 40 + 3]


@pytest.mark.slow
def test_whole_prompt_but_its_last_token(sampler):
  """That one is computed: what follows is predicted from it."""
  short = PREFIX[:5]  # Rings have not wrapped.
  assert cached(sampler, short) == [0]
  assert cached(sampler, short) == [4]
  assert cached(sampler, [*short, 9, 10]) == [5]
  assert cached(sampler, [*short[:3], 9, 10]) == [3]
  assert cached(sampler, [99, *short]) == [0]


def test_entries_stay_good_after_use(sampler, plain):
  """Sampling reuses buffers, but not those that are kept."""
  prompt = PREFIX[:5]
  sampler.sample(prompt)
  entries = sampler.prefix_cache._entries
  kept = {
    ids: [*map(np.array, jax.tree.leaves(caches))]
    for ids, caches in entries.items()
  }
  expected = plain.sample([*prompt, 9])
  for _ in range(3):
    assert sampler.sample([*prompt, 9]) == expected
  for ids, caches in kept.items():
    for old, now in zip(caches, jax.tree.leaves(entries[ids]), strict=True):
      np.testing.assert_array_equal(old, now)


@pytest.mark.slow
def test_a_batch_shares_its_prefix(sampler, plain):
  """Computed once for all rows, and kept for the next call."""
  prompts = [PREFIX + end for end in ENDS]
  expected = plain.sample(prompts, return_state=True)
  out = sampler.sample(prompts, return_state=True)
  assert out.token_ids == expected.token_ids
  assert [row.cached_tokens for row in out.usage] == [40] * 4
  assert cached(sampler, [*PREFIX, 99]) == [40]
  alike = [PREFIX[:20]] * 2
  assert cached(sampler, alike) == [0, 0]  # Too short to be kept.


def test_turns(sampler, plain):
  fields = {'max_new_tokens': 3, 'return_state': True}
  first = sampler.sample(PREFIX[:9], **fields)
  again = sampler.sample([7, 8], last_state=first.state, **fields)
  assert again.usage.cached_tokens == 9 + 2
  other = plain.sample(PREFIX[:9], **fields)
  other = plain.sample([7, 8], last_state=other.state, **fields)
  assert again.token_ids == other.token_ids


@pytest.mark.slow
def test_a_queue_shares_its_prefix(sampler, plain):
  prompts = [PREFIX + end for end in ENDS] * 2
  queued = dataclasses.replace(sampler, max_batch_size=4)
  out = queued.sample(prompts, progress=False, return_state=True)
  assert out.token_ids == plain.sample(prompts, return_state=True).token_ids
  assert [row.cached_tokens for row in out.usage][4:] == [40, 40, 40, 43]


def test_the_least_recently_used_goes_first(plain):
  cache = gm.text.PrefixCache(max_entries=2)
  sampler = dataclasses.replace(plain, prefix_cache=cache)
  a, b, c = [5, 6, 7, 8], [15, 16, 17, 18], [25, 26, 27, 28]
  sampler.sample(a)
  one = cache.nbytes
  assert one == CASE.cache(1, 128).nbytes
  sampler.sample(b)
  assert cache.nbytes == 2 * one
  assert cached(sampler, a) == [3]
  sampler.sample(c)  # b goes.
  assert cache.nbytes == 2 * one
  assert cached(sampler, a) == [3]
  assert cached(sampler, b) == [0]
  cache.clear()
  assert cache.nbytes == 0


def test_warming_up_keeps_nothing(sampler):
  sampler.warmup(max_length=16)
  assert sampler.prefix_cache.nbytes == 0


def test_other_parameters(sampler):
  """Keys of other parameters, or of another draft, are of no use."""
  sampler.sample(PREFIX)
  params = jax.tree.map(lambda x: x * 2, CASE.params)
  other = dataclasses.replace(sampler, params=params)
  with pytest.raises(ValueError, match='of other parameters.*call clear'):
    other.sample(PREFIX)
  draft = gm.text.PromptLookup(num_tokens=2)
  guessing = dataclasses.replace(sampler, draft=draft)
  with pytest.raises(ValueError, match='or another draft'):
    guessing.sample(PREFIX)
  sampler.prefix_cache.clear()
  assert other.sample(PREFIX)


@pytest.mark.slow
def test_with_guesses(plain):
  """The draft model's cache is kept too."""
  draft = gm.text.DraftModel(model=CASE.model, params=CASE.params, num_tokens=3)
  sampler = dataclasses.replace(
    plain, draft=draft, prefix_cache=gm.text.PrefixCache()
  )
  prompts = [PREFIX + end for end in ENDS]
  expected = plain.sample(prompts, return_state=True)
  for _ in range(2):
    out = sampler.sample(prompts, return_state=True)
    assert out.token_ids == expected.token_ids
    assert [row.cached_tokens for row in out.usage] == [40] * 4


@pytest.mark.slow
def test_samplers_of_the_same_parameters_share(sampler):
  sampler.sample(PREFIX[:5])
  other = dataclasses.replace(sampler, stop_tokens=[9])
  assert cached(other, PREFIX[:5]) == [4]
