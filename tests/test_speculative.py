"""Speculative decoding: other ways to the same answers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from gemma import gm
from gemma.gm.text import _drafts
from gemma.gm.text import _runner
from gemma.gm.text import _speculative

CASE = cases.GEMMA2  # Sliding and global layers.
LENGTHS = (3, 14, 9, 1)


def noisy(params, std):
  """Parameters of a draft that is often, but not always right."""
  rng = np.random.RandomState(0)
  return jax.tree.map(
    lambda x: x + rng.normal(0, std, x.shape).astype(x.dtype), params
  )


def draft_model(case, std, num_tokens=3):
  return gm.text.DraftModel(
    model=case.model, params=noisy(case.params, std), num_tokens=num_tokens
  )


DRAFTS = {
  'lookup': gm.text.PromptLookup(num_tokens=2),
  'itself': draft_model(CASE, 0.0),
  'similar': draft_model(CASE, 0.02),
}


def three_turns(sampler, prompts):
  """Answers of three turns, and the state behind them."""
  state, answers = None, []
  for turn in range(3):
    out = sampler.sample(
      [row[turn:] or row for row in prompts],
      last_state=state,
      return_state=True,
    )
    state = out.state
    answers.append(out.token_ids)
  return answers, state


def exhaustive(*values):
  return pytest.param(*values, marks=pytest.mark.exhaustive)


@pytest.mark.parametrize(
  'name, capacity',
  [('lookup', 512), ('similar', 64), exhaustive('lookup', 64)],
)
@pytest.mark.slow
def test_turns_and_growth_of_the_cache(name, capacity, monkeypatch):
  """Rings wrap, and the cache grows, while guesses are taken back."""
  prompts = CASE.prompts(*LENGTHS)
  expected, plain = three_turns(CASE.sampler(), prompts)
  monkeypatch.setattr(_runner, '_CAPACITY', capacity)
  monkeypatch.setattr(_runner, '_ANSWER', 1)
  sampler = CASE.sampler(draft=DRAFTS[name])
  answers, state = three_turns(sampler, prompts)
  assert answers == expected
  assert state.contexts() == plain.contexts()
  np.testing.assert_array_equal(state.cache.length, plain.cache.length)
  assert state.cache.cache_length == 128
  last = CASE.after(state)
  whole = CASE.one_pass(plain.contexts())
  for logits, (expected, _) in zip(last, whole, strict=True):
    np.testing.assert_allclose(logits, expected[-1], atol=1e-4, rtol=0)


def test_a_draft_that_is_right_saves_passes():
  """Of 13 tokens the first costs no pass, and 4 come out of each other."""
  prompts = CASE.prompts(*LENGTHS)
  sampler = CASE.sampler(draft=DRAFTS['itself'])
  request = sampler._new_request(
    prompts, limits=[13] * 4, sampling=gm.text.Greedy(), key=jax.random.key(0),
    logprobs=None, hidden_states=False, logits_mask=None, sharding=None,
  )  # fmt: skip
  state, _ = sampler._runner.begin(request)
  for count in (5, 9, 13):
    state = sampler._runner.advance(state, request, 1)
    assert state.count.tolist() == [count] * 4


def test_state_of_a_sampler_without_the_draft():
  """It has no room to take guesses back: everything is computed anew."""
  prompts = CASE.prompts(*LENGTHS)
  plain = CASE.sampler()
  fields = {'max_new_tokens': 12, 'return_state': True}
  first = plain.sample(prompts, **fields)
  expected = plain.sample(prompts, last_state=first.state, **fields)
  for draft in (DRAFTS['lookup'], DRAFTS['itself']):
    guessing = CASE.sampler(draft=draft)
    out = guessing.sample(prompts, last_state=first.state, **fields)
    assert out.token_ids == expected.token_ids
    back = plain.sample(prompts, last_state=out.state, **fields)
    assert back.usage[0].cached_tokens == 0
  assert back.state.contexts()[0][: len(prompts[0])] == prompts[0]


@pytest.mark.parametrize(
  'context, guesses',
  [
    ([5, 6, 7, 8, 5, 6], [7, 8, 5]),
    ([5, 6, 7, 9, 6, 8, 5, 6], [7, 9, 6]),  # The longest match wins,
    ([6, 7, 6, 8, 6], [8, 6]),  # and of these the newest.
    ([5, 5, 5], [5]),
    ([5, 6, 7], []),
    ([5], []),
  ],
)
def test_lookup_finds_what_followed(context, guesses):
  padded = jnp.asarray(context + [0] * (10 - len(context)))
  draft = gm.text.PromptLookup(num_tokens=3, ngram=2)
  tokens, count = _speculative._look_up(padded, jnp.int32(len(context)), draft)
  assert tokens[: int(count)].tolist() == guesses


ROWS = 2000


@pytest.fixture(scope='module')
def toy():
  """A model of 12 tokens, where all pairs of tokens can be counted."""
  case = cases.GEMMA2
  fields = {**vars(case.config), 'num_embed': 12}
  fields['attention_types'] = case.config.attention_types[:1]
  return cases.Case('toy', type(case.config)(**fields))


PENALTIES = gm.text.Penalties(presence=2.0)
TOP_K = gm.text.TopkSampling(k=4, temperature=1.5)


@pytest.mark.parametrize(
  'sampling',
  [
    gm.text.Chain(TOP_K, PENALTIES),
    exhaustive(gm.text.RandomSampling()),
    exhaustive(TOP_K),
    exhaustive(gm.text.Chain(gm.text.RandomSampling(), PENALTIES)),
  ],
  ids=['all', 'random', 'top-k', 'penalties'],
)
@pytest.mark.slow
def test_guesses_leave_the_distribution_as_it_is(toy, sampling):
  """Counts of pairs of tokens differ by chance only, with either draft."""
  fields = {'cache_length': 8, 'max_out_length': 3, 'max_batch_size': ROWS}

  def counts(draft, rng):
    sampler = toy.sampler(draft=draft, **fields)
    out = sampler.sample(
      [[2, 5, 7, 5]] * ROWS, sampling=sampling, rng=rng, return_state=True
    )
    a, b, c = out.tokens.T
    table = np.zeros((2, 12, 12))
    np.add.at(table[0], (a, b), 1)
    np.add.at(table[1], (b, c), 1)
    return table

  plain = counts(None, 0)
  assert (plain[0].sum(axis=1) > 100).sum() >= 3
  for draft in (
    draft_model(toy, 0.1, num_tokens=2),
    gm.text.PromptLookup(num_tokens=2, ngram=1),
  ):
    guessed = counts(draft, 1)
    for x, y in zip(plain, guessed, strict=True):
      often = x + y >= 10
      chi = ((x - y) ** 2)[often] / (x + y)[often]
      freedom = often.sum() - 1
      assert chi.sum() < freedom + 4 * np.sqrt(2 * freedom)


def test_a_draft_needs_the_same_vocabulary(toy):
  with pytest.raises(ValueError, match='has 12 tokens.*the same vocabulary'):
    CASE.sampler(draft=draft_model(toy, 0.0))
  named = gm.nn.Gemma3_1B(), gm.nn.Gemma2_2B()
  wide = [
    type(model)(config=dataclasses.replace(CASE.config)) for model in named
  ]
  with pytest.raises(ValueError, match='tokenizer 2, the model 300 of 3'):
    _drafts.check(gm.text.DraftModel(model=wide[1], params={}), wide[0])


@pytest.mark.parametrize(
  'make, message',
  [
    (lambda: gm.text.PromptLookup(ngram=0), 'ngram=0.*at least 1 of each'),
    (
      lambda: gm.text.DraftModel(model=CASE.model, params={}, num_tokens=0),
      'num_tokens=0 must be at least 1',
    ),
  ],
)
def test_settings_of_drafts_that_are_none(make, message):
  with pytest.raises(ValueError, match=message):
    make()
