"""What comes back besides text, and what happens when the cache is full."""

import dataclasses

import jax
import numpy as np
import pytest

import cases
from gemma import gm
from gemma.gm.text import _decode
from gemma.gm.text import _runner

CASE = cases.GEMMA2
RANDOM = gm.text.RandomSampling()
RECORDS = {'logprobs': 3, 'return_hidden_states': True}


@pytest.fixture(scope='module')
def sampler():
  return CASE.sampler()


@pytest.fixture(scope='module')
def prompt():
  return CASE.prompts(9)[0]


@pytest.fixture(scope='module')
def prompts():
  return CASE.prompts(9, 3, 14, 1)


def test_records_equal_an_uncached_pass(sampler, prompts):
  """Log-probabilities of the model itself, and the states they come from."""
  sampling = gm.text.TopkSampling(k=5, temperature=3.0)
  out = sampler.sample(prompts, sampling=sampling, rng=0, **RECORDS)
  whole = CASE.one_pass(
    [a + b for a, b in zip(prompts, out.token_ids, strict=True)]
  )
  for i, (logits, states) in enumerate(whole):
    steps = slice(len(prompts[i]) - 1, -1)
    logprobs = np.asarray(jax.nn.log_softmax(logits))[steps]
    chosen = logprobs[np.arange(16), out.token_ids[i]]
    np.testing.assert_allclose(out.logprobs[i], chosen, atol=1e-4, rtol=0)
    np.testing.assert_allclose(
      out.hidden_states[i], states[steps], atol=1e-4, rtol=0
    )
    for row, likely in zip(logprobs, out.top_logprobs[i], strict=True):
      assert [*likely] == np.argsort(-row)[:3].tolist()
      np.testing.assert_allclose(
        [*likely.values()], row[[*likely]], atol=1e-4, rtol=0
      )


def test_stream_with_all_that_is_known(sampler, prompts):
  """The last part of a stream has what a whole answer has."""
  fields = {'max_new_tokens': 9, **RECORDS}
  whole = sampler.sample(prompts, **fields)
  *parts, last = sampler.sample(prompts, stream=True, **fields)
  streamed = [[], [], [], []]
  for part in parts:
    assert part.usage is part.finish_reason is None
    for row, new in zip(streamed, part.token_ids, strict=True):
      row.extend(new)
  assert streamed == whole.token_ids
  assert (last.text, last.token_ids) == ([''] * 4, [[]] * 4)
  for name in ('usage', 'finish_reason', 'logprobs', 'top_logprobs'):
    assert getattr(last, name) == getattr(whole, name)
  np.testing.assert_array_equal(last.hidden_states, whole.hidden_states)
  more = [[5, 6]] * 4, {'max_new_tokens': 4, 'return_state': True}
  assert (
    sampler.sample(more[0], last_state=last.state, **more[1]).token_ids
    == sampler.sample(more[0], last_state=whole.state, **more[1]).token_ids
  )


@pytest.mark.slow
def test_records_with_guesses(sampler, prompts):
  """No alternatives with 0; the same numbers however tokens were found."""
  draft = gm.text.PromptLookup(num_tokens=2)
  guessing = dataclasses.replace(sampler, draft=draft)
  plain = sampler.sample(prompts, **RECORDS)
  guessed = guessing.sample(prompts, logprobs=0)
  assert guessed.top_logprobs is guessed.hidden_states is None
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
    cache_length=128,
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
  out = ended.sample([prompt] * 4, return_state=True)
  assert out.finish_reason == ['eos'] * 4
  assert out.token_ids == [[1]] * 4
  assert out.text == [''] * 4
  again = sampler.sample(prompt, last_state=greedy.state, return_state=True)
  assert again.usage.cached_tokens == 24  # The last one was never fed.
  assert again.usage.context_tokens == 25 + 25


@pytest.mark.slow
def test_state_reads_as_published(sampler, prompt):
  out = sampler.sample([prompt, prompt[:4]] * 2, return_state=True)
  state = out.state
  assert out.tokens.shape == state.predicted_tokens.shape == (4, 16)
  assert out.tokens.dtype == np.int32
  alone = sampler.sample(prompt, return_state=True, max_new_tokens=3)
  assert alone.tokens.shape == (16,)
  assert alone.tokens.tolist() == out.token_ids[0][:3] + [0] * 13
  assert int(state.step) == 16
  assert state.done.tolist() == [False] * 4
  assert state.last_token.tolist() == [row[-1] for row in out.token_ids]
  assert state.last_token_pos.tolist() == [9 + 15, 4 + 15] * 2
  assert state.used_cache_length.tolist() == [25, 20] * 2
  assert int(state.init_cache_length) == 9
  assert state.full_attention_mask.sum(axis=1).tolist() == [24, 19] * 2
  assert state.attention_mask_for_step.sum(axis=1).tolist() == [25, 20] * 2
  info = state.cache_info
  assert info.end_index.tolist() == [24, 19] * 2
  assert info.total_cache_length == 128
  assert not info.is_full
  assert state.rng.shape == (4,)


def test_last_state_of_other_rows(sampler, prompt):
  state = sampler.sample([prompt] * 4, return_state=True).state
  with pytest.raises(ValueError, match='1 prompts cannot follow a last_state'):
    sampler.sample(prompt, last_state=state)


@pytest.mark.parametrize('length', [1, 9, 20, 21])
def test_full_cache_stops_or_raises(prompt, length):
  """A cache of 21 tokens: as many go in, and one more comes out."""
  prompt = CASE.prompts(21)[0][:length]
  sampler = CASE.sampler(**cases.TIGHT)
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


def test_full_cache_stops_each_row():
  """The last token needs no room."""
  lengths = 1, 9, 20, 21
  prompts = [CASE.prompts(21)[0][:length] for length in lengths]
  out = CASE.sampler(**cases.TIGHT).sample(prompts, return_state=True)
  assert [*map(len, out.token_ids)] == [16, 21 - 9 + 1, 2, 1]
  assert out.finish_reason == ['length', *['cache_full'] * 3]


@pytest.mark.parametrize('on_full', ['stop', 'error'])
def test_too_long_from_the_start(on_full):
  sampler = CASE.sampler(**cases.TIGHT, on_full=on_full)
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
  sampler = CASE.sampler(**cases.TIGHT, on_full='roll', draft=draft)
  prompts = CASE.prompts(15, 4, 9, 2)
  out = sampler.sample(prompts, return_state=True)
  for i, prompt in enumerate(prompts):
    context, answer, dropped = rolled(prompt, 16, CASE.sampler())
    assert out.state.contexts()[i] == context
    assert out.token_ids[i] == answer
    assert out.usage[i].dropped_tokens == dropped
  dropped = [usage.dropped_tokens > 0 for usage in out.usage]
  assert dropped == [True, False, True, False]
  assert out.finish_reason == ['length'] * 4


def test_rolling_takes_what_is_too_long():
  sampler = CASE.sampler(**cases.TIGHT, on_full='roll')
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
  prompts = [prompt, prompt[:2]] * 2
  expected = CASE.sampler().sample(prompts, **fields)
  monkeypatch.setattr(_runner, '_CAPACITY', 12)
  monkeypatch.setattr(_runner, '_ANSWER', 1)
  out = CASE.sampler(**cases.TIGHT).sample(prompts, **fields)
  assert out.state.cache.cache_length == 21
  assert out.token_ids[::2] == [row[:13] for row in expected.token_ids[::2]]
  assert out.token_ids[1::2] == expected.token_ids[1::2]
  assert out.finish_reason[:2] == ['cache_full', 'length']


def test_nothing_is_compiled_after_warmup(monkeypatch):
  """Other lengths, turns, seeds and methods take the same programs."""
  monkeypatch.setattr(_runner, '_CAPACITY', 64)
  sampler = CASE.sampler(pad_length=(4, 8))
  sampler.warmup()

  def programs():
    parts = _decode.start, _decode.decode, _decode._prefill_chunk
    return [part._cache_size() for part in parts]

  before = programs()
  for length in (1, 5, 17, 33, 60, 90):
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
