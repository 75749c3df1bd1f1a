"""What comes back besides text, and what happens when the cache is full."""

import dataclasses

import jax
import numpy as np
import pytest

import cases
from gemma import gm
from gemma.gm.text import _decode
from gemma.gm.text import _runner

CASE = cases.CASES[3]
RANDOM = gm.text.RandomSampling()


@pytest.fixture(scope='module')
def sampler():
  return CASE.sampler()


@pytest.fixture(scope='module')
def prompt():
  return CASE.prompts(9)[0]


def uncached(tokens, **kwargs):
  return CASE.apply(np.array([tokens]), **kwargs)


def test_records_equal_an_uncached_pass(sampler, prompt):
  """Log-probabilities of the model itself, and the states they come from."""
  sampling = gm.text.TopkSampling(k=5, temperature=3.0)
  out = sampler.sample(
    prompt, sampling=sampling, rng=0, logprobs=3, return_hidden_states=True
  )
  whole = uncached(prompt + out.token_ids, return_hidden_states=True)
  steps = slice(len(prompt) - 1, -1)
  logprobs = np.asarray(jax.nn.log_softmax(whole.logits[0]))[steps]
  chosen = logprobs[np.arange(16), out.token_ids]
  np.testing.assert_allclose(out.logprobs, chosen, atol=1e-4, rtol=0)
  np.testing.assert_allclose(
    out.hidden_states, whole.hidden_states[0, steps], atol=1e-4, rtol=0
  )
  for row, likely in zip(logprobs, out.top_logprobs, strict=True):
    assert [*likely] == np.argsort(-row)[:3].tolist()
    np.testing.assert_allclose(
      [*likely.values()], row[[*likely]], atol=1e-4, rtol=0
    )


@pytest.mark.slow
def test_records_of_a_batch_and_with_guesses(sampler, prompt):
  """No alternatives with 0; the same numbers however tokens were found."""
  draft = gm.text.PromptLookup(num_tokens=2)
  guessing = dataclasses.replace(sampler, draft=draft)
  prompts = [prompt, prompt[:3]]
  plain = sampler.sample(prompts, logprobs=0)
  guessed = guessing.sample(prompts, logprobs=0)
  assert plain.top_logprobs is plain.hidden_states is None
  assert guessed.token_ids == plain.token_ids
  for a, b in zip(plain.logprobs, guessed.logprobs, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4, rtol=0)
  nothing = sampler.sample(prompts, return_state=True)
  assert nothing.logprobs is None


def test_why_it_ended_and_what_it_took(sampler, prompt):
  greedy = sampler.sample(prompt, return_state=True)
  assert greedy.finish_reason == 'length'
  assert greedy.usage == gm.text.Usage(
    prompt_tokens=9,
    completion_tokens=16,
    cached_tokens=0,
    dropped_tokens=0,
    context_tokens=25,
    cache_length=64,
  )
  random = {'sampling': RANDOM, 'rng': 1, 'return_state': True}
  whole = sampler.sample(prompt, **random)
  stop = whole.token_ids[6]
  stopping = dataclasses.replace(sampler, stop_tokens=[stop])
  out = stopping.sample(prompt, **random)
  end = whole.token_ids.index(stop) + 1
  assert out.finish_reason == 'stop'
  assert out.token_ids == whole.token_ids[:end]
  assert out.usage.completion_tokens == end
  # EOS is all that is left.
  others = [i for i in range(300) if i != 1]
  ended = dataclasses.replace(sampler, forbidden_tokens=others)
  out = ended.sample([prompt, prompt], return_state=True)
  assert out.finish_reason == ['eos', 'eos']
  assert out.token_ids == [[1], [1]]
  assert out.text == ['', '']
  again = sampler.sample(prompt, last_state=greedy.state, return_state=True)
  assert again.usage.cached_tokens == 24  # The last one was never fed.
  assert again.usage.context_tokens == 25 + 25


@pytest.mark.slow
def test_state_reads_as_published(sampler, prompt):
  out = sampler.sample([prompt, prompt[:4]], return_state=True)
  state = out.state
  assert out.tokens.shape == state.predicted_tokens.shape == (2, 16)
  assert out.tokens.dtype == np.int32
  alone = sampler.sample(prompt, return_state=True, max_new_tokens=3)
  assert alone.tokens.shape == (16,)
  assert alone.tokens.tolist() == out.token_ids[0][:3] + [0] * 13
  assert int(state.step) == 16
  assert state.done.tolist() == [False, False]
  assert state.last_token.tolist() == [row[-1] for row in out.token_ids]
  assert state.last_token_pos.tolist() == [9 + 15, 4 + 15]
  assert state.used_cache_length.tolist() == [25, 20]
  assert int(state.init_cache_length) == 9
  assert state.full_attention_mask.sum(axis=1).tolist() == [24, 19]
  assert state.attention_mask_for_step.sum(axis=1).tolist() == [25, 20]
  info = state.cache_info
  assert info.end_index.tolist() == [24, 19]
  assert info.total_cache_length == 64
  assert not info.is_full
  assert state.rng.shape == (2,)


def test_last_state_of_other_rows(sampler, prompt):
  state = sampler.sample([prompt, prompt[:4]], return_state=True).state
  with pytest.raises(ValueError, match='1 prompts cannot follow a last_state'):
    sampler.sample(prompt, last_state=state)


@pytest.mark.parametrize('length', [1, 9, 20, 21])
def test_full_cache_stops_or_raises(prompt, length):
  """A cache of 21 tokens: as many go in, and one more comes out."""
  prompt = CASE.prompts(21)[0][:length]
  sampler = CASE.sampler(cache_length=21)
  whole = CASE.sampler().sample(prompt, return_state=True)
  out = sampler.sample(prompt, return_state=True)
  assert out.token_ids == whole.token_ids[: 22 - length]
  full = length > 5
  assert out.finish_reason == ('cache_full' if full else 'length')
  assert bool(out.state.cache_info.is_full) == full
  strict = dataclasses.replace(sampler, on_full='error')
  if not full:
    assert strict.sample(prompt) == out.text
    return
  message = (
    f'Prompt 0 filled the cache of 21 tokens after {22 - length} sampled'
  )
  with pytest.raises(ValueError, match=message):
    strict.sample(prompt)


@pytest.mark.parametrize('on_full', ['stop', 'error'])
def test_too_long_from_the_start(on_full):
  sampler = CASE.sampler(cache_length=21, on_full=on_full)
  with pytest.raises(ValueError, match="Row 0 has 22 tokens.*on_full='roll'"):
    sampler.sample(CASE.prompts(22)[0])
  out = sampler.sample(CASE.prompts(9)[0], max_new_tokens=4, return_state=True)
  with pytest.raises(ValueError, match='Row 0 has 23 tokens'):
    sampler.sample(CASE.prompts(10)[0], last_state=out.state)


def rolled(prompt, count, fresh):
  """The definition: what is said, the answer, and how much was dropped."""
  context, answer, dropped = [*prompt], [], 0
  while True:
    more = min(22 - len(context), count - len(answer))
    out = fresh.sample(context, max_new_tokens=more, return_state=True)
    context, answer = context + out.token_ids, answer + out.token_ids
    if len(answer) == count:
      return context, answer, dropped
    kept = context[:1] + context[-10:]
    dropped += len(context) - len(kept)
    context = kept


@pytest.mark.slow
@pytest.mark.parametrize('draft', [None, gm.text.PromptLookup(num_tokens=2)])
def test_rolling_goes_on_from_what_is_kept(draft):
  """After each roll, as if the first token and the newest were a prompt."""
  sampler = CASE.sampler(cache_length=21, on_full='roll', draft=draft)
  prompts = CASE.prompts(15, 4)
  out = sampler.sample(prompts, return_state=True)
  for i, prompt in enumerate(prompts):
    context, answer, dropped = rolled(prompt, 16, CASE.sampler())
    assert out.state.contexts()[i] == context
    assert out.token_ids[i] == answer
    assert out.usage[i].dropped_tokens == dropped
  assert out.usage[0].dropped_tokens > 0 == out.usage[1].dropped_tokens
  assert out.finish_reason == ['length', 'length']


def test_rolling_takes_what_is_too_long():
  sampler = CASE.sampler(cache_length=21, on_full='roll')
  prompt = CASE.prompts(30)[0]
  out = sampler.sample(prompt, max_new_tokens=4, return_state=True)
  kept = prompt[:1] + prompt[-10:]
  fresh = sampler.sample(kept, max_new_tokens=4, return_state=True)
  assert out.token_ids == fresh.token_ids
  assert out.usage.dropped_tokens == 30 - 11
  more = sampler.sample(
    [5] * 10, last_state=out.state, max_new_tokens=4, return_state=True
  )
  said = kept + out.token_ids + [5] * 10
  assert more.usage.dropped_tokens == len(said) - 11
  assert more.state.contexts()[0][:11] == said[:1] + said[-10:]


@pytest.mark.slow
def test_growth_changes_nothing(monkeypatch, prompt):
  """Of a cache that begins small, and ends at no power of two."""
  fields = {'sampling': RANDOM, 'rng': 0, 'return_state': True}
  prompts = [prompt, prompt[:2]]
  expected = CASE.sampler(cache_length=50).sample(prompts, **fields)
  monkeypatch.setattr(_runner, '_CAPACITY', 12)
  monkeypatch.setattr(_runner, '_ANSWER', 1)
  growing = CASE.sampler(cache_length=23)
  out = growing.sample(prompts, **fields)
  assert out.state.cache.cache_length == 23
  assert out.token_ids[0] == expected.token_ids[0][:15]
  assert out.token_ids[1] == expected.token_ids[1]
  assert out.finish_reason == ['cache_full', 'length']


def test_nothing_is_compiled_after_warmup(monkeypatch):
  """Other lengths, turns, seeds and methods take the same programs."""
  monkeypatch.setattr(_runner, '_CAPACITY', 32)
  sampler = CASE.sampler(cache_length=50, pad_length=(4, 16))
  sampler.warmup()

  def programs():
    parts = _decode.start, _decode.decode, _decode._prefill_chunk
    return [part._cache_size() for part in parts]

  before = programs()
  for length in (1, 5, 17, 33, 45):
    (prompt,) = CASE.prompts(length)
    sampler.sample(prompt, rng=length, max_new_tokens=2 + length % 7)
  fields = {'max_new_tokens': 5, 'return_state': True}
  (prompt,) = CASE.prompts(12)
  for method in (
    gm.text.RandomSampling(temperature=0.3),
    gm.text.TopPSampling(p=0.4),
    gm.text.Chain(gm.text.MinP(), gm.text.TopkSampling(k=7)),
  ):
    out = sampler.sample(prompt, sampling=method, **fields)
    sampler.sample(prompt, last_state=out.state, **fields)
    assert [*sampler.sample(prompt, sampling=method, stream=True)]
  assert programs() == before
