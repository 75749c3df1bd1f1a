"""Samplers of text: one decode core, the same answer whichever way."""

import dataclasses

import jax
import numpy as np
import pytest

import cases
from gemma import gm
from gemma.gm.text import _decode

RANDOM = gm.text.RandomSampling()
PROMPTS = ['ROMEO:', 'What is the meaning of this, good my lord?', 'A']


@pytest.fixture(scope='module')
def sampler(wide):
  return gm.text.Sampler(
    **wide,
    cache_length=128,
    max_out_length=48,
    pad_length=16,
  )


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
  out = sampler.sample(['A'] * 3, max_new_tokens=20, sampling=RANDOM, rng=0)
  assert len({*out}) == 3


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
  s = dataclasses.replace(
    sampler,
    cache_length=64,
    max_out_length=48,
    forbidden_tokens=others,
  )
  fields = {'sampling': RANDOM, 'rng': 0}
  assert ''.join(s.sample('A', stream=True, **fields)) == s.sample(
    'A', **fields
  )


@pytest.mark.parametrize('pad_length', [1, 4, (4, 8), 64, None])
@pytest.mark.slow
def test_size_of_chunks_changes_nothing(sampler, pad_length):
  s = dataclasses.replace(
    sampler,
    cache_length=128,
    max_out_length=16,
    pad_length=pad_length,
  )
  expected = sampler.sample(PROMPTS, max_new_tokens=16)
  assert s.sample(PROMPTS, max_new_tokens=16) == expected


def test_going_on_equals_one_pass(sampler):
  """Two calls through the state equal one over all that was said."""
  out = sampler.sample(PROMPTS, max_new_tokens=9, return_state=True)
  more = ['And?', ' I do not know what you mean', '!']
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
  codec = sampler.codec
  greedy = sampler.sample('ROMEO:', max_new_tokens=9, return_state=True)
  assert greedy.finish_reason == 'length'
  assert len(greedy.token_ids) == 9
  stop = greedy.token_ids[4]
  s = dataclasses.replace(
    sampler,
    cache_length=20,
    max_out_length=48,
    stop_tokens=[stop],
  )
  out = s.sample('ROMEO:', return_state=True)
  assert out.finish_reason == 'stop'
  assert out.token_ids == greedy.token_ids[: greedy.token_ids.index(stop) + 1]
  s = dataclasses.replace(
    sampler,
    cache_length=20,
    max_out_length=48,
  )
  rows = ['ROMEO:', 'A']
  out = s.sample(rows, return_state=True)
  assert out.finish_reason == ['cache_full'] * 2
  for text, tokens in zip(rows, out.token_ids, strict=True):
    # The last token needs no room.
    assert len(tokens) == 20 - len(codec.encode(text, add_bos=True)) + 1


def test_forbidden_tokens_never_come(sampler):
  greedy = sampler.sample('ROMEO:', max_new_tokens=20, return_state=True)
  banned = {*greedy.token_ids}
  s = dataclasses.replace(
    sampler,
    cache_length=64,
    max_out_length=48,
    forbidden_tokens=[*banned],
  )
  out = s.sample('ROMEO:', max_new_tokens=20, return_state=True)
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
  s = dataclasses.replace(
    sampler,
    cache_length=100,
    max_out_length=40,
    pad_length=(8, 16),
  )
  before = _decode._prefill_chunk._cache_size(), _decode.decode._cache_size()
  for count, words in ((3, 1), (20, 5), (40, 12), (7, 20)):
    s.sample('word ' * words, max_new_tokens=count)
    list(s.sample('word ' * words, max_new_tokens=count, stream=True))
  after = _decode._prefill_chunk._cache_size(), _decode.decode._cache_size()
  assert np.subtract(after, before).tolist() == [2, 1]


def test_padding_rows_of_the_table_are_never_sampled():
  """Zero rows have logit 0, which may well be the largest."""
  case = cases.CASES[0]
  config = case.config
  params = jax.tree.map(lambda x: x, case.params)
  table = params['embedder']['input_embedding']
  params['embedder']['input_embedding'] = table.at[200:].set(0)
  model = gm.nn.Transformer(
    config=type(config)(**{**vars(config), 'vocab_size': 200})
  )
  s = gm.text.Sampler(
    model=model,
    params=params,
    cache_length=64,
    max_out_length=32,
    tokenizer=gm.text.Gemma3TinyTokenizer(),
  )
  out = s.sample([[2, 5, 9]], sampling=RANDOM, rng=0, return_state=True)
  assert max(out.token_ids[0]) < 200


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


def test_stream_with_all_that_is_known(sampler):
  """The last part of a stream has what a whole answer has."""
  fields = {'max_new_tokens': 9, 'logprobs': 1}
  whole = sampler.sample(PROMPTS[0], **fields)
  *parts, last = sampler.sample(PROMPTS[0], stream=True, **fields)
  assert [i for part in parts for i in part.token_ids] == whole.token_ids
  assert all(part.usage is part.finish_reason is None for part in parts)
  assert (last.text, last.token_ids) == ('', [])
  for name in ('usage', 'finish_reason', 'logprobs', 'top_logprobs'):
    assert getattr(last, name) == getattr(whole, name)
  more = {'max_new_tokens': 4, 'return_state': True}
  assert (
    sampler.sample('So', last_state=last.state, **more).token_ids
    == sampler.sample('So', last_state=whole.state, **more).token_ids
  )
