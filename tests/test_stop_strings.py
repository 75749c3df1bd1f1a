"""Texts that end an answer, in whatever tokens they are."""

import dataclasses
import itertools
import random

import numpy as np
import pytest

from gemma import gm
from gemma.gm.text import _stop_strings

TINY = gm.text.Gemma3TinyTokenizer()
FIELDS = {
  'cache_length': 256, 'max_out_length': 24, 'pad_length': 32,
}  # fmt: skip
PROMPT = 'ROMEO:'


@pytest.fixture(scope='module')
def sampler(wide):
  return gm.text.Sampler(**wide, **FIELDS)


@pytest.fixture(scope='module')
def whole(sampler):
  return sampler.sample(PROMPT, return_state=True)


def stops_in(text):
  """Stop strings within a text: whole words, parts of tokens, overlaps."""
  half = len(text) // 2
  yield [text[half : half + 9]]
  yield [text[half + 1 : half + 4]]
  yield [text[half : half + 9], text[half + 2 : half + 5]]
  yield [text[:2]]
  yield ['\N{SNOWMAN} not there', text[half] + '\N{SNOWMAN}']


def first(text, stops):
  """The definition: the text before the first that ends, or the longer one."""
  for n in range(len(text) + 1):
    ending = [s for s in stops if text[:n].endswith(s)]
    if ending:
      return text[: n - max(map(len, ending))]
  return text


@pytest.mark.parametrize('i', range(5))
def test_text_ends_before_it(sampler, whole, i):
  """Whole, streamed, and in a batch beside a prompt that goes on."""
  stops = [*stops_in(whole.text)][i]
  expected = first(whole.text, stops)
  stopping = dataclasses.replace(sampler, stop_strings=stops)
  out = stopping.sample(PROMPT, return_state=True)
  assert out.text == expected
  assert out.token_ids == whole.token_ids[: len(out.token_ids)]
  cut = expected != whole.text
  assert out.finish_reason == ('stop' if cut else whole.finish_reason)
  assert out.state.contexts()[0][-len(out.token_ids) :] == out.token_ids
  pieces = []
  for piece in stopping.sample(PROMPT, stream=True):
    pieces.append(piece)
    assert expected.startswith(''.join(pieces))
  assert ''.join(pieces) == expected


def test_rows_and_guesses(sampler, whole):
  stops = [whole.text[8:14]]
  stopping = dataclasses.replace(
    sampler, stop_strings=stops, draft=gm.text.PromptLookup(num_tokens=3)
  )
  other = sampler.sample([5, 6, 7])
  texts = stopping.sample([PROMPT, [5, 6, 7]])
  assert texts == [first(whole.text, stops), first(other, stops)]


def test_conversation_goes_on_without_it(wide):
  """What is recorded is the answer; the state holds what is before it."""
  fields = {**wide, **FIELDS, 'multi_turn': True}
  plain = gm.text.ChatSampler(**fields)
  answer = plain.chat('Say hello.', max_new_tokens=12)
  stops = [answer[3:6]]
  chat = gm.text.ChatSampler(**fields, stop_strings=stops)
  assert chat.chat('Say hello.', max_new_tokens=12) == answer[:3]
  assert chat.finish_reason == 'stop'
  assert chat.messages[-1]['content'] == answer[:3]
  assert chat.usage.context_tokens == len(chat.last_state.contexts()[0])
  other = gm.text.ChatSampler(**fields)
  other.restore(chat.messages)
  streamed = gm.text.ChatSampler(**fields, stop_strings=stops)
  said = ''.join(streamed.stream('Say hello.', max_new_tokens=12))
  assert (said, streamed.messages) == (answer[:3], chat.messages)
  for each in (chat, other, streamed):
    each.chat('And?', max_new_tokens=3)
  assert chat.usage.cached_tokens > 0
  assert chat.messages[-2:] == streamed.messages[-2:]
  assert other.last_state.contexts() == chat.last_state.contexts()


def test_stream_that_is_closed_records_what_was_shown(wide):
  """Not what was held back."""
  fields = {**wide, **FIELDS, 'multi_turn': True}
  answer = gm.text.ChatSampler(**fields).chat('Say hello.', max_new_tokens=9)
  stops = [answer[2:] + ' and never more']
  chat = gm.text.ChatSampler(**fields, stop_strings=stops)
  stream = chat.stream('Say hello.', max_new_tokens=9)
  shown = next(stream)
  stream.close()
  assert chat.messages[-1]['content'] == shown
  assert ''.join(chat.stream('Say hello.', multi_turn=False,
                             max_new_tokens=9)) == answer  # fmt: skip


@pytest.mark.parametrize('seed', range(40))
def test_automaton_is_the_definition(seed):
  """On texts of few letters, cut into tokens at random."""
  rng = random.Random(seed)
  letters = 'ab\N{SNOWMAN}'
  text = ''.join(rng.choices(letters, k=30))
  stops = [''.join(rng.choices(letters, k=rng.randint(1, 4))) for _ in range(3)]
  ids = []
  at = 0
  while at < len(text):
    n = rng.randint(1, 3)
    ids += TINY.encode(text[at : at + n])
    at += n
  finder = _stop_strings.StopStrings(TINY, stops)
  expected = first(text, stops)
  assert TINY.decode(finder.cut(ids)) == expected
  held = _stop_strings.Held(finder)
  table, state, out = finder.table(2048), 0, []
  assert table.dtype == np.int16 and len(table) % 32 == 0
  for token in ids:
    out += held.add(token)
    assert expected.startswith(
      TINY.decode(out).rstrip('\N{REPLACEMENT CHARACTER}')
    )
    state = table[state, token]
    if state == len(table) - 1:
      break
  assert (state == len(table) - 1) == (expected != text)
  assert TINY.decode(out + held.end()) == expected


@pytest.mark.parametrize(
  'stops, message',
  [
    ('the end', "stop_strings='the end' is one string. Give a list"),
    ([''], "stop_strings has ''"),
    (['x' * 300], 'stop_strings have 300 bytes in all; the most is 256'),
  ],
)
def test_refused(wide, stops, message):
  for kind in (gm.text.Sampler, gm.text.ChatSampler):
    with pytest.raises(ValueError, match=message):
      kind(**wide, stop_strings=stops)


def test_pieces_are_the_text():
  """Tags are shown, and what the text does not show is nothing."""
  finder = _stop_strings.StopStrings(TINY, ['x'])
  ids = TINY.encode('To be \N{SNOWMAN} <start_of_turn>\n  <unused3>')
  joined = b''.join(finder.pieces[i] for i in [2, 0, *ids, 1])
  assert joined.decode() == TINY.decode(ids)
  assert len([*itertools.chain(finder.pieces)]) == TINY.vocab_size
