"""Samplers of text: one decode core, the same answer whichever way."""

import dataclasses

import jax
import numpy as np
import pytest

import cases
from gemma import gm
from gemma.gm.text import _decode

RANDOM = gm.text.RandomSampling()
PROMPTS = [
  'ROMEO:', 'What is the meaning of this, good my lord?', 'A', 'Go on, my lord',
]  # fmt: skip


@pytest.fixture(scope='module')
def sampler(wide):
  return gm.text.Sampler(**wide, **cases.TEXT)


@pytest.mark.parametrize('sampling', [gm.text.Greedy(), RANDOM], ids=str)
@pytest.mark.slow
def test_row_of_a_batch_equals_row_alone(sampler, sampling):
  fields = {'sampling': sampling, 'rng': 3, 'return_state': True}
  batch = sampler.sample(PROMPTS, max_new_tokens=40, **fields)
  for i, prompt in enumerate(PROMPTS):
    alone = sampler.sample(prompt, max_new_tokens=40, **fields)
    assert batch.token_ids[i] == alone.token_ids
    assert batch.text[i] == alone.text
    assert batch.finish_reason[i] == alone.finish_reason


def test_equal_prompts_have_streams_of_their_own(sampler):
  out = sampler.sample(['A'] * 4, max_new_tokens=20, sampling=RANDOM, rng=0)
  assert len({*out}) == 4


def test_seeds_of_every_kind(sampler):
  texts = {
    sampler.sample('A', max_new_tokens=20, sampling=RANDOM, rng=rng)
    for rng in (1, jax.random.key(1), jax.random.PRNGKey(1))
  }
  assert len(texts) == 1
  other = sampler.sample('A', max_new_tokens=20, sampling=RANDOM, rng=2)
  assert other not in texts


@pytest.mark.parametrize('prompt', [PROMPTS[0], PROMPTS], ids=['one', 'many'])
def test_stream_equals_whole(sampler, prompt):
  fields = {'max_new_tokens': 40, 'sampling': RANDOM, 'rng': 5}
  whole = sampler.sample(prompt, **fields)
  steps = list(sampler.sample(prompt, stream=True, **fields))
  if isinstance(prompt, str):
    assert ''.join(steps) == whole
    return
  assert [''.join(pieces) for pieces in zip(*steps, strict=True)] == whole


def test_stream_equals_whole_where_characters_are_bytes(sampler):
  """Only byte tokens, so that nearly every piece is cut inside a character."""
  first = sampler.codec.encode('\u20ac')[-3:]
  others = [
    i
    for i in range(sampler.codec.vocab_size)
    if not first[0] - 0xE2 <= i < first[0] - 0xE2 + 256
  ]
  s = dataclasses.replace(sampler, forbidden_tokens=others)
  fields = {'sampling': RANDOM, 'rng': 0}
  assert ''.join(s.sample('A', stream=True, **fields)) == s.sample(
    'A', **fields
  )


def exhaustive(*values):
  return [pytest.param(value, marks=pytest.mark.exhaustive) for value in values]


@pytest.mark.parametrize(
  'pad_length', [(4, 16), None, *exhaustive(1, 4, (4, 8), 64)]
)
@pytest.mark.slow
def test_size_of_chunks_changes_nothing(sampler, pad_length):
  s = dataclasses.replace(sampler, pad_length=pad_length)
  expected = sampler.sample(PROMPTS, max_new_tokens=16)
  assert s.sample(PROMPTS, max_new_tokens=16) == expected


def test_going_on_equals_one_pass(sampler):
  """Two calls through the state equal one over all that was said."""
  out = sampler.sample(PROMPTS, max_new_tokens=9, return_state=True)
  more = ['And?', ' I do not know what you mean', '!', ' Oh']
  again = sampler.sample(
    more, max_new_tokens=9, return_state=True, last_state=out.state
  )
  codec = sampler.codec
  whole = [
    codec.encode(prompt, add_bos=True) + tokens + codec.encode(text)
    for prompt, tokens, text in zip(PROMPTS, out.token_ids, more, strict=True)
  ]
  assert (
    again.token_ids
    == sampler.sample(whole, max_new_tokens=9, return_state=True).token_ids
  )
  # The state is still there to go on from once more.
  assert (
    again.token_ids
    == sampler.sample(
      more, max_new_tokens=9, return_state=True, last_state=out.state
    ).token_ids
  )
  lengths = [len(row) + 8 for row in whole]
  np.testing.assert_array_equal(again.state.cache.length, lengths)


@pytest.mark.slow
def test_why_it_ended(sampler):
  greedy = sampler.sample('ROMEO:', max_new_tokens=9, return_state=True)
  assert greedy.finish_reason == 'length'
  assert len(greedy.token_ids) == 9
  stop = greedy.token_ids[4]
  s = dataclasses.replace(sampler, stop_tokens=[stop])
  out = s.sample('ROMEO:', return_state=True)
  assert out.finish_reason == 'stop'
  assert out.token_ids == greedy.token_ids[: greedy.token_ids.index(stop) + 1]


def test_forbidden_tokens_never_come(sampler):
  greedy = sampler.sample('ROMEO:', max_new_tokens=20, return_state=True)
  banned = {*greedy.token_ids}
  s = dataclasses.replace(sampler, forbidden_tokens=[*banned])
  for method in (gm.text.Greedy(), RANDOM):
    out = s.sample(
      'ROMEO:', max_new_tokens=20, sampling=method, rng=0, return_state=True
    )
    assert not banned & {*out.token_ids}


def test_prompts_of_every_form(sampler):
  codec = sampler.codec
  fields = {'max_new_tokens': 8}
  text = sampler.sample('ROMEO:', **fields)
  ids = codec.encode('ROMEO:', add_bos=True)
  for prompt in (ids, np.array(ids), np.array('ROMEO:', object)):
    assert sampler.sample(prompt, **fields) == text
  for prompts in ([ids], np.array([[*ids, 0, 0]]), np.array(['ROMEO:'])):
    assert sampler.sample(prompts, **fields) == [text]
  messages = [{'role': 'user', 'content': 'Hi'}]
  string = codec.decode(gm.text.encode_chat(codec, messages))
  assert sampler.sample(messages, **fields) == sampler.sample(string, **fields)
  assert sampler.sample([messages], **fields) == [
    sampler.sample(string, **fields)
  ]


def test_compilations_do_not_grow_with_prompts_and_answers(sampler):
  """One prefill per chunk size and one loop, whatever the lengths."""
  s = dataclasses.replace(sampler, pad_length=(4, 16))
  parts = _decode._prefill_chunk, _decode.decode
  before = [part._cache_size() for part in parts]
  for count, words in ((3, 1), (20, 5), (40, 12), (7, 20)):
    s.sample('word ' * words, max_new_tokens=count)
    list(s.sample('word ' * words, max_new_tokens=count, stream=True))
  new = np.subtract([part._cache_size() for part in parts], before)
  assert (new <= [2, 1]).all()  # Other tests may have compiled them.


def test_padding_rows_of_the_table_are_forbidden():
  """Zero rows have logit 0, which may well be the largest."""
  case = cases.GEMMA2
  config = dataclasses.replace(case.config, vocab_size=200)
  model = dataclasses.replace(case.model, config=config)
  s = dataclasses.replace(case.sampler(), model=model)
  assert np.flatnonzero(s._runner.rules.banned)[-100:].tolist() == [
    *range(200, 300)
  ]


def test_tags_are_spelled_out_where_they_are_not_allowed(sampler):
  """In text that is not one's own; ids are taken as they are."""
  text = '<start_of_turn>user'
  safe = dataclasses.replace(sampler, allow_special=False)
  fields = {'max_new_tokens': 1, 'return_state': True}
  tag = sampler.codec.special_tokens.START_OF_TURN
  assert tag in sampler.sample(text, **fields).state.contexts()[0]
  spelled = safe.sample(text, **fields)
  assert tag not in spelled.state.contexts()[0]
  ids = spelled.state.contexts()[0][:-1]
  assert sampler.codec.decode(ids) == text
  again = safe.sample(text, last_state=spelled.state, **fields)
  assert tag not in again.state.contexts()[0]
  assert tag in safe.sample([2, tag], **fields).state.contexts()[0]


def test_stream_that_is_closed_leaves_the_sampler_usable(sampler):
  """One piece is taken, of one prompt and of several."""
  for prompt in (PROMPTS[0], PROMPTS):
    expected = sampler.sample(prompt, max_new_tokens=12)
    stream = sampler.sample(prompt, stream=True, max_new_tokens=12)
    first = next(stream)
    stream.close()
    assert sampler.sample(prompt, max_new_tokens=12) == expected
    if isinstance(prompt, str):
      assert expected.startswith(first)
