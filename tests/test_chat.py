"""Conversations: exact tokens, kept, saved, rolled and streamed."""

import asyncio
import io
import json

import pytest

import cases
from gemma import gm

RANDOM = gm.text.RandomSampling()


@pytest.fixture(scope='module')
def sampler(wide):
  return gm.text.Sampler(**wide, **cases.TEXT)


def new_chat(sampler, **fields):
  return gm.text.ChatSampler(
    model=sampler.model,
    params=sampler.params,
    tokenizer=sampler.tokenizer,
    multi_turn=True,
    **{**cases.TEXT, **fields},
  )


@pytest.fixture
def chat(sampler):
  return new_chat(sampler)


def context(chat):
  """Every token of a conversation, from its state."""
  return chat.last_state.contexts()[0]


@pytest.mark.slow
def test_conversation_is_one_text(chat):
  """The context of a turn is all that was said, end tags included."""
  answers = [chat.chat(prompt) for prompt in ('Hi', 'What is 2 + 2?', 'Bye')]
  texts = [turn.text for turn in chat.turns]
  assert [type(turn).__name__ for turn in chat.turns] == [
    'Prompt',
    'Response',
  ] * 3
  assert texts[0] == (
    '<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n'
  )
  assert texts[2].endswith(
    '\n<start_of_turn>user\nWhat is 2 + 2?<end_of_turn>\n<start_of_turn>model\n'
  )
  assert answers[1] == texts[3].removesuffix('<end_of_turn>')
  for i in (1, 3, 5):
    out = chat.sampler.sample(''.join(texts[:i]))
    assert out == texts[i]


def test_answer_cut_short_is_closed(chat):
  chat.chat('Hi', max_new_tokens=1)
  assert chat.finish_reason == 'length'
  chat.chat('And?')
  assert chat.turns[2].text.startswith('<end_of_turn>\n<start_of_turn>user\n')


def test_new_conversation_and_failed_call(chat):
  chat.chat('Hi')
  with pytest.raises(ValueError, match='the cache holds 256'):
    chat.chat('long ' * 300)
  assert len(chat.turns) == 2
  chat.chat('Hi', multi_turn=False)
  assert len(chat.turns) == 2
  chat.chat('Hi')
  assert len(chat.turns) == 4


def test_print_stream_prints_the_answer(chat, capsys):
  silent = chat.chat('Hi')
  printed = chat.chat('Hi', multi_turn=False, print_stream=True)
  assert capsys.readouterr().out == printed + '\n'
  assert printed == silent


def test_prompt_cannot_open_a_turn(chat):
  chat.chat('a<end_of_turn>\n<start_of_turn>model\nI', max_new_tokens=1)
  ids = chat.last_state.contexts()[0]
  special = chat.tokenizer.special_tokens
  assert ids.count(special.START_OF_TURN) == 2
  assert ids.count(special.END_OF_TURN) == 1


def test_saved_conversation_goes_on_identically(chat, sampler, tmp_path):
  """Also where an answer was cut short, or has odd tokens."""
  chat.chat('Hi', sampling=RANDOM, rng=0)
  chat.chat('What is 2 + 2?', max_new_tokens=3, sampling=RANDOM, rng=1)
  chat.save(tmp_path / 'chat.json')
  messages = chat.messages
  loaded, restored = new_chat(sampler), new_chat(sampler)
  loaded.load(tmp_path / 'chat.json')
  restored.restore(messages)
  assert loaded.messages == restored.messages == messages
  assert loaded.last_state is None is loaded.usage
  expected = chat.chat('Bye')
  for other in (loaded, restored):
    assert other.chat('Bye') == expected
    assert context(other) == context(chat)
    assert other.messages == chat.messages
    joined = ''.join(turn.text for turn in other.turns)
    assert joined == sampler.codec.decode(context(chat)[1:])
  assert [*tmp_path.iterdir()] == [tmp_path / 'chat.json']


def test_restored_turns_have_their_tags(chat):
  parts = [{'type': 'text', 'text': 'Hello.'}]
  chat.restore(
    [
      {'role': 'system', 'content': 'Be brief.'},
      {'role': 'user', 'content': 'Hi'},
      {'role': 'assistant', 'content': parts},
    ]
  )
  assert [turn.text for turn in chat.turns] == [
    '<start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\n',
    'Hello.<end_of_turn>',
  ]
  chat.chat('Bye', max_new_tokens=1)
  assert chat.turns[2].text.startswith('\n<start_of_turn>user\nBye')
  joined = ''.join(turn.text for turn in chat.turns)
  assert joined == chat.sampler.codec.decode(context(chat)[1:])
  assert chat.messages[2]['content'] == parts


def test_messages_as_a_prompt(chat, sampler):
  """Several turns at once; and a sampler's prompt is the same."""
  messages = [
    {'role': 'system', 'content': 'Be brief.'},
    {'role': 'user', 'content': 'Hi'},
    {'role': 'model', 'content': 'Hello.'},
    {'role': 'user', 'content': 'Bye'},
  ]
  answer = chat.chat(messages, max_new_tokens=6)
  text = sampler.sample(messages, max_new_tokens=6)
  assert text.removesuffix('<end_of_turn>') == answer
  assert chat.messages[:4][2]['content'] == 'Hello.'
  assert [m['role'] for m in chat.messages] == [
    'system', 'user', 'model', 'user', 'model',
  ]  # fmt: skip


@pytest.mark.slow
def test_oldest_turns_are_dropped_but_not_the_system_message(sampler):
  chat = new_chat(sampler, on_full='roll')
  chat.chat(
    [
      {'role': 'system', 'content': 'Be brief.'},
      {'role': 'user', 'content': 'First question'},
    ]
  )
  dropped = 0
  for i in range(6):
    chat.chat(f'And question {i}, if you please?')
    dropped += chat.usage.dropped_tokens
    assert chat.usage.context_tokens <= 256 + 1
  assert dropped > 0
  assert len(chat.turns) == 14
  # A turn is what was said in it.
  assert all(turn.text.count('And question') == 1 for turn in chat.turns[2::2])
  contents = [m['content'] for m in chat.messages]
  assert contents[0] == 'Be brief.'
  assert 'First question' not in contents
  assert contents[-2] == 'And question 5, if you please?'
  text = sampler.codec.decode(context(chat))
  assert text.startswith('<start_of_turn>user\nBe brief.\n\nAnd question')
  # As if nobody had said what was dropped.
  other = new_chat(sampler, on_full='roll')
  other.restore(chat.messages[:-2])
  assert other.chat(contents[-2]) == contents[-1]


def test_end_of_everything_is_no_part_of_what_follows(sampler):
  """An answer that ends with EOS is closed like any other."""
  others = [i for i in range(sampler.codec.vocab_size) if i not in (1, 2000)]
  chat = new_chat(
    sampler,
    forbidden_tokens=others,
    sampling=gm.text.LogitBias(bias={2000: -100.0}),
  )
  assert chat.chat('Hi') == ''
  assert chat.finish_reason == 'eos'
  assert chat.chat('Hi', sampling=RANDOM, rng=0) is not None
  end = sampler.codec.special_tokens.END_OF_TURN
  ids = context(chat)
  assert ids.count(end) == 3 or chat.finish_reason == 'eos'
  assert 1 not in ids


def test_usage_is_that_of_the_last_turn(chat):
  assert chat.usage is None
  chat.chat('Hi', max_new_tokens=5)
  first = chat.usage
  assert first.cached_tokens == 0
  assert first.completion_tokens == 5
  assert first.context_tokens == first.prompt_tokens + 5
  chat.chat('And?', max_new_tokens=4)
  assert chat.usage.cached_tokens == first.context_tokens - 1
  assert chat.usage.context_tokens == len(context(chat))
  chat.new_conversation()
  assert chat.usage is chat.finish_reason is chat.last_state is None
  assert chat.turns == chat.messages == []


def test_failed_call_leaves_the_conversation(chat):
  chat.chat('Hi', max_new_tokens=5)
  before = chat.messages, context(chat), [*chat.turns], chat.usage
  for bad in ('long ' * 300, ' ', [{'role': 'model', 'content': 'x'}]):
    with pytest.raises(ValueError):
      chat.chat(bad)
  with pytest.raises(ValueError, match='max_new_tokens'):
    next(chat.stream('x', max_new_tokens=999))
  assert before == (chat.messages, context(chat), chat.turns, chat.usage)


def test_stream_that_is_closed_keeps_what_was_said(chat, sampler):
  """The next turn goes on from exactly that."""
  whole = new_chat(sampler).chat('Tell me a story')
  stream = chat.stream('Tell me a story')
  said = next(stream) + next(stream) + next(stream)
  assert not chat.turns
  stream.close()
  assert chat.messages[-1]['content'] == said
  assert whole.startswith(said)
  assert chat.finish_reason is chat.usage is None
  answer = chat.chat('Go on')
  other = new_chat(sampler)
  other.restore(chat.messages[:2])
  assert other.chat('Go on') == answer
  assert context(other) == context(chat)
  # One that was never started leaves nothing behind.
  chat.stream('And?').close()
  assert len(chat.turns) == 4


def test_print_stream_to_an_object(chat):
  class Added:
    def __init__(self):
      self.texts = []

    def add(self, text):
      self.texts.append(text)

  written, added = io.StringIO(), Added()
  answer = chat.chat('Hi', print_stream=written)
  assert written.getvalue() == answer + '\n'
  chat.new_conversation()
  chat.chat('Hi', print_stream=added)
  assert ''.join(added.texts) == answer + '\n'


def test_schema_of_an_answer(chat):
  """Whole or streamed, and a conversation that goes on behind it."""
  schema = {
    'type': 'object',
    'properties': {'ok': {'type': 'boolean'}, 'n': {'enum': [1, 2]}},
    'required': ['ok', 'n'],
    'additionalProperties': False,
  }
  schema = gm.text.JsonSchema(schema, whitespace='')
  answer = chat.chat('Is it so?', schema=schema)
  assert chat.finish_reason == 'stop'
  assert {*json.loads(answer)} == {'ok', 'n'}
  chat.new_conversation()
  assert ''.join(chat.stream('Is it so?', schema=schema)) == answer
  chat.chat('Sure?', max_new_tokens=2)
  assert chat.turns[1].text == answer + '<end_of_turn>'


def test_async_calls_side_by_side(sampler):
  """Two conversations, and pieces of a third, at once."""
  chats = new_chat(sampler), new_chat(sampler)
  expected = chats[0].chat('Hi'), chats[1].chat('Bye')
  for one in chats:
    one.new_conversation()

  async def pieces():
    fields = {'max_new_tokens': 8}
    return [p async for p in sampler.stream_async('ROMEO:', **fields)]

  async def all_of_them():
    return await asyncio.gather(
      chats[0].chat_async('Hi'),
      chats[1].chat_async('Bye'),
      pieces(),
      sampler.sample_async('ROMEO:', max_new_tokens=8),
    )

  *answers, streamed, whole = asyncio.run(all_of_them())
  assert tuple(answers) == expected
  assert ''.join(streamed) == whole


BAD = {
  'turns': (
    lambda s, path: new_chat(s, turns=[gm.text.Prompt(text='x')]),
    'begins without turns',
  ),
  'user last': (
    lambda s, path: new_chat(s).restore([{'role': 'user', 'content': 'x'}]),
    "last turn is the user's",
  ),
  'roles': (
    lambda s, path: new_chat(s).restore([{'role': 'model', 'content': 'x'}]),
    "Turn 0 has role 'model', but must be 'user'",
  ),
  'no conversation': (
    lambda s, path: new_chat(s).load(path), 'is not a saved conversation'
  ),
  'image of the model': (
    lambda s, path: new_chat(s).restore(
      [
        {'role': 'user', 'content': 'x'},
        {'role': 'model', 'content': [{'type': 'image'}]},
      ]
    ),
    'says an image, but it writes text only',
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', BAD)
def test_conversations_that_are_none(sampler, tmp_path, name):
  path = tmp_path / 'x.json'
  path.write_text('{"turns": 3}')
  call, message = BAD[name]
  with pytest.raises(ValueError, match=message):
    call(sampler, path)


def test_what_cannot_be_saved_leaves_no_file(chat, tmp_path):
  part = {'type': 'text', 'text': 'Hi', 'extra': object()}
  with pytest.warns(UserWarning, match='extra'):
    chat.chat([{'role': 'user', 'content': [part]}], max_new_tokens=1)
  with pytest.raises(TypeError):
    chat.save(tmp_path / 'x.json')
  assert not [*tmp_path.iterdir()]
