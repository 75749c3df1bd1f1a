"""Chats with tiny models of Gemma 4: thoughts, tools, and what is forgotten.

A mask makes the model write what a test needs; the rest is its own.
"""

import dataclasses
import functools
import json
import sys

import jax
import numpy as np
import pytest

import cases
from gemma import gm
import gemma4
import test_gemma4_text

FIELDS = {
  'cache_length': 256, 'max_out_length': 96, 'pad_length': 16,
}  # fmt: skip
FAMILY = [c for c in cases.CASES if c.name.startswith('gemma4')]
# Without and with an empty thought; the third is like the second.
SMALL, LARGE, EXPERTS = FAMILY
ANY = None  # In a script: a token of the model's own choice.
HI = test_gemma4_text.HI


@functools.cache
def speaking(case):
  """A case with rows for text."""
  config = dataclasses.replace(case.config, num_embed=gemma4.TEXT)
  return cases.Case(case.name, config)


def new_chat(case=SMALL, **fields):
  case = speaking(case)
  return gm.text.ChatSampler(
    model=case.model,
    params=case.params,
    tokenizer=gemma4.tokenizer(),
    multi_turn=True,
    **{**FIELDS, **fields},
  )


def tokens(text):
  return gemma4.tokenizer().encode(text)


@dataclasses.dataclass(eq=False)
class Plan:
  """What the model is to write next: tokens that it may, for each place."""

  allowed: np.ndarray
  begin: int | None = None

  def __call__(self, count):
    self.begin = int(count) if self.begin is None else self.begin
    return self.allowed[min(int(count) - self.begin, len(self.allowed) - 1)]


PLAN = Plan(np.ones((1, gemma4.TEXT), bool))


def obey(context, count):
  """One mask for all tests, which is compiled once."""
  del context
  out = jax.ShapeDtypeStruct((gemma4.TEXT,), bool)
  return jax.pure_callback(PLAN, out, count, vmap_method='sequential')


def script(*steps):
  """Has the model write texts, ids, and what it likes, and end its turn."""
  plan = []
  for step in steps:
    plan += tokens(step) if isinstance(step, str) else [step]
  PLAN.allowed = np.zeros((len(plan) + 1, gemma4.TEXT), bool)
  for row, token in zip(PLAN.allowed, [*plan, 106], strict=True):
    row[slice(600, 700) if token is ANY else token] = True
  PLAN.begin = None
  return {'logits_mask': obey}


THINKS = ('<|channel>', 'thought\nHm', ANY, ANY, '\n', '<channel|>')


def context(chat):
  return chat.last_state.contexts()[0]


def same_state(one, other):
  """Equal contexts, and equal keys and values of all that layers hold."""
  assert one.contexts() == other.contexts()
  length = int(one.cache.length[0])
  assert length == int(other.cache.length[0])
  for name, layer in one.cache.layers.items():
    theirs = other.cache.layers[name]
    for mine, its in ((layer.k, theirs.k), (layer.v, theirs.v)):
      n = min(length, mine.shape[1], its.shape[1])
      np.testing.assert_allclose(mine[:, :n], its[:, :n], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  'case',
  [SMALL, LARGE, pytest.param(EXPERTS, marks=pytest.mark.exhaustive)],
  ids=str,
)
def test_later_turns_see_no_thought(case):
  """The context is that of the template, and the tokens those of one pass."""
  chat = new_chat(case, thinking=True)
  for answer in ('Fine', ANY), ('So', ANY):
    chat.chat('Hi', **script(*THINKS, *answer))
    assert chat.finish_reason == 'stop'
    assert 'Hm' in chat.turns[-1].text
    assert chat.reply.thought.startswith('Hm')
  steps = *THINKS, 'Yes', ANY, ANY
  before = chat.messages
  answer = chat.chat('And?', **script(*steps))
  assert answer == chat.reply.text == chat.messages[-1]['content']
  assert chat.messages[-1]['reasoning_content'] == chat.reply.thought

  prompt = chat.usage.prompt_tokens + chat.usage.cached_tokens
  ids = context(chat)[:prompt]
  text = gemma4.tokenizer().decode(ids)
  expected = gm.text.encode_chat(
    chat.tokenizer,
    [*before, {'role': 'user', 'content': 'And?'}],
    thinking=True,
  )
  assert text == chat.tokenizer.decode(expected)
  assert 'Hm' not in text and text.startswith('<|turn>system\n<|think|>\n<t')
  fresh = speaking(case)
  out = gm.text.Sampler(
    model=fresh.model,
    params=fresh.params,
    tokenizer=chat.tokenizer,
    **FIELDS,
  ).sample(ids, **script(*steps), return_state=True)
  assert out.token_ids == chat.messages[-1]['token_ids'] + [106]
  same_state(chat.last_state, out.state)


def test_nothing_but_answers_is_computed_again():
  chat = new_chat(thinking=True)
  lengths = []
  for _ in range(3):
    chat.chat('What is that?', **script(*THINKS, 'Fine', ANY))
    usage = chat.usage
    expected = lengths[-1] if lengths else 0
    assert usage.cached_tokens == expected
    assert usage.context_tokens == len(context(chat))
    lead = len(tokens('<|turn>model\n'))
    sampled = usage.completion_tokens
    assert usage.context_tokens - sampled == (
      usage.cached_tokens + usage.prompt_tokens
    )
    lengths.append(usage.cached_tokens + usage.prompt_tokens - lead)


def test_large_models_begin_with_an_empty_thought():
  chat = new_chat(LARGE)
  for prompt in ('Hi', 'And?'):
    chat.chat(prompt, **script('Fine', ANY))
    assert chat.turns[-2].text.endswith('model\n<|channel>thought\n<channel|>')
  text = chat.tokenizer.decode(context(chat))
  assert text.count('<|channel>') == 1
  assert '<|turn>model\nFine' in text
  assert chat.usage.cached_tokens == len(tokens('<|turn>user\nHi<turn|>\n')) + 1
  ids = chat.usage.prompt_tokens + chat.usage.cached_tokens
  messages = [*chat.messages[:-1]]
  expected = gm.text.encode_chat(chat.tokenizer, messages, empty_thought=True)
  assert chat.tokenizer.decode(context(chat)[:ids]) == chat.tokenizer.decode(
    expected
  )
  # So does a sampler that is given messages.
  out = chat.sampler.sample(
    [HI], **script('Fine'), return_state=True, max_new_tokens=1
  )
  text = chat.tokenizer.decode(out.state.contexts()[0])
  assert '<|turn>model\n<|channel>thought\n<channel|>' in text


def test_small_models_go_on_from_all_that_was_said():
  chat = new_chat()
  chat.chat('Hi', **script('Fine', ANY))
  whole = len(context(chat))
  assert chat.turns[0].text == '<|turn>user\nHi<turn|>\n<|turn>model\n'
  chat.chat('And?', **script('Fine', ANY))
  assert chat.usage.cached_tokens == whole - 1
  joined = ''.join(turn.text for turn in chat.turns)
  assert joined == chat.tokenizer.decode(context(chat))
  # A thought that nobody asked for is forgotten as well.
  chat.chat('And?', **script(*THINKS, 'Fine'))
  chat.chat('So?', **script('Fine', ANY))
  assert 'Hm' not in chat.tokenizer.decode(context(chat))
  other = new_chat()
  other.restore(chat.messages[:-2])
  other.chat('So?', **script('Fine', ANY))
  same_state(chat.last_state, other.last_state)


@pytest.mark.parametrize('shown', [False, True])
def test_streams_and_answers_are_the_same(shown, capsys):
  fields = {'thinking': True, 'show_thoughts': shown}
  steps = *THINKS, 'Fine 🙂', ANY, ANY
  chat, other = new_chat(**fields), new_chat(**fields)
  answer = chat.chat('Hi', **script(*steps))
  pieces = [*other.stream('Hi', **script(*steps))]
  assert ''.join(pieces) == answer
  assert all(pieces) and '\ufffd' not in answer
  assert answer.startswith('<|channel>thought\nHm' if shown else 'Fine 🙂')
  assert ('Hm' in answer) == shown
  assert not answer.endswith('<turn|>')
  assert chat.messages == other.messages
  assert context(chat) == context(other)
  new_chat(**fields).chat('Hi', **script(*steps), print_stream=True)
  assert capsys.readouterr().out == answer + '\n'


def test_answer_cut_short_in_its_thought():
  chat = new_chat(thinking=True)
  length = len(tokens('<|channel>thought\nHm')) + 1
  assert chat.chat('Hi', **script(*THINKS), max_new_tokens=length) == ''
  assert chat.finish_reason == 'length'
  assert chat.reply.thought.startswith('Hm')
  stream = chat.stream('Go on', **script(*THINKS, 'Fine', ANY, ANY))
  assert next(stream)
  stream.close()
  assert chat.messages[-1]['reasoning_content'].startswith('Hm')
  chat.chat('And?', **script(*THINKS, 'Fine'))
  text = chat.tokenizer.decode(context(chat))
  assert '<|turn>model\n<turn|>\n<|turn>user\nGo on<turn|>' in text
  assert text.count('Hm') == 1


CALL = '<|tool_call>call:f{a:<|"|>x<|"|>,b:1}<tool_call|>'
FUNCTION = {'name': 'f', 'arguments': {'a': 'x', 'b': 1}}
CALLED = [{'type': 'function', 'function': FUNCTION}]


@pytest.mark.parametrize('case', [SMALL, LARGE], ids=str)
@pytest.mark.parametrize('thinking', [False, True])
def test_tools_are_called_within_a_turn(case, thinking):
  """The thought stays until the user speaks; then the context is as asked."""
  tools = [test_gemma4_text.WEATHER]
  chat = new_chat(case, thinking=thinking, tools=tools)
  thought = THINKS if thinking else ()
  calls = script(*thought, 'So', CALL, '<|tool_response>')
  answer = chat.chat('Hi', **calls)
  assert chat.finish_reason == 'stop'
  assert answer == 'So' + CALL
  assert chat.reply.tool_calls == (gm.text.ToolCall('f', {'a': 'x', 'b': 1}),)
  assert chat.messages[-1]['tool_calls'] == CALLED
  assert chat.messages[-1]['content'] == chat.reply.text == 'So'
  with pytest.raises(ValueError, match="role 'system', but must be 'user' or"):
    chat.chat([{'role': 'system', 'content': 'x'}])
  response = {'role': 'tool', 'content': {'ok': '<turn|>'}}
  assert chat.chat([response], **script('Done')) == 'Done'
  assert chat.turns[-2].text == (
    'response:f{ok:<|"|><turn|><|"|>}<tool_response|>'
  )
  ids = context(chat)
  assert ids.count(106) == ids.count(105)  # The last one ended the answer.
  text = chat.tokenizer.decode(ids)
  assert text.count('<|turn>model\n') == 1
  assert ('Hm' in text) == thinking
  kept = chat.messages
  expected = gm.text.encode_chat(
    chat.tokenizer, kept, tools=tools, thinking=thinking,
    add_generation_prompt=False,
  )  # fmt: skip
  if not thinking:
    assert ids + tokens('\n') == expected
  chat.chat('Thanks', **script('Welcome'))
  text = chat.tokenizer.decode(context(chat))
  assert 'Hm' not in text and 'response:f{ok:' in text
  other = new_chat(case, thinking=thinking, tools=tools)
  other.restore(kept)
  other.chat('Thanks', **script('Welcome'))
  same_state(chat.last_state, other.last_state)
  assert [t.text for t in other.turns[1:]] == [t.text for t in chat.turns[1:]]


def test_several_responses_and_a_user_who_gives_none():
  chat = new_chat()
  calls = CALL, CALL, '<|tool_response>'
  chat.chat('Hi', **script(*calls))
  both = [{'role': 'tool', 'content': text} for text in 'ab']
  chat.chat(both, **script(*calls))
  text = chat.tokenizer.decode(context(chat))
  assert (
    'response:f{value:<|"|>a<|"|>}<tool_response|>'
    '<|tool_response>response:f{value:<|"|>b<|"|>}<tool_response|>' + CALL
  ) in text
  chat.chat('Never mind', **script('Fine'))
  text = chat.tokenizer.decode(context(chat))
  assert CALL + '<turn|>\n<|turn>user\nNever mind' in text
  with pytest.raises(ValueError, match="The last turn is the tool's"):
    new_chat().restore(chat.messages[:4])


def test_saved_conversation_goes_on_identically(tmp_path):
  chat = new_chat(thinking=True, tools=[test_gemma4_text.WEATHER])
  chat.chat([{'role': 'system', 'content': 'Be brief.'}, HI],
            **script(*THINKS, CALL, '<|tool_response>'))  # fmt: skip
  chat.chat([{'role': 'tool', 'content': 'x'}], **script('A', ANY))
  chat.save(tmp_path / 'chat.json')
  assert json.loads((tmp_path / 'chat.json').read_text())
  other = new_chat(thinking=True, tools=chat.tools)
  other.load(tmp_path / 'chat.json')
  assert other.messages == chat.messages
  assert [t.text for t in other.turns] == [t.text for t in chat.turns]
  assert chat.turns[0].text.startswith('<|turn>system\n<|think|>\nBe brief.<|t')
  for one in (chat, other):
    one.chat('And?', **script(*THINKS, ANY, ANY))
  same_state(chat.last_state, other.last_state)


@pytest.mark.slow
@pytest.mark.parametrize('thinking', [False, True])
def test_oldest_turns_are_dropped_with_their_tools(thinking):
  chat = new_chat(thinking=thinking, on_full='roll')
  system = {'role': 'system', 'content': 'Be brief.'}
  chat.chat([system, HI], **script(CALL, '<|tool_response>'))
  chat.chat([{'role': 'tool', 'content': 'x'}], **script('Done'))
  dropped = 0
  for i in range(4):
    chat.chat('And? ' * 20 + str(i), **script('Fine', ANY))
    dropped += chat.usage.dropped_tokens
  assert dropped > 0
  assert chat.messages[0]['content'] == 'Be brief.'
  assert chat.messages[1]['role'] == 'user'
  text = chat.tokenizer.decode(context(chat))
  assert CALL not in text and 'Be brief.' in text


def test_thinking_can_be_turned_on_and_off():
  chat = new_chat()
  chat.chat('Hi', **script('Fine'))
  chat.thinking = True
  chat.chat('And?', **script(*THINKS, 'Fine'))
  text = chat.tokenizer.decode(context(chat))
  assert text.startswith('<|turn>system\n<|think|>\n<turn|>\n<|turn>user\nHi')
  chat.thinking = False
  chat.chat('So?', **script('Fine'))
  assert '<|think|>' not in chat.tokenizer.decode(context(chat))
  assert 'Hm' not in chat.tokenizer.decode(context(chat))


def test_conversation_of_dialog(monkeypatch):
  monkeypatch.setitem(sys.modules, 'dialog', test_gemma4_text.stand_in())
  chat = new_chat(thinking=True, tools=[test_gemma4_text.WEATHER])
  chat.chat('Hi', **script(*THINKS, CALL, '<|tool_response>'))
  chat.chat([{'role': 'tool', 'content': 'x'}], **script('Done'))
  conversation = chat.conversation
  assert [turn.ROLE for turn in conversation.turns] == [
    'system', 'user', 'model',
  ]  # fmt: skip
  names = [type(chunk).__name__ for chunk in conversation.turns[-1].chunks]
  assert names == ['Thought', 'Text', 'ToolCall', 'ToolResponse', 'Text']
  with pytest.raises(ValueError, match='has a Think, but the chat has thinki'):
    new_chat(tools=chat.tools).restore(conversation)
  with pytest.raises(ValueError, match='has a Tool, but the chat has tools='):
    new_chat(thinking=True).chat(conversation)
  again = new_chat(thinking=True, tools=chat.tools)
  again.restore(conversation)
  model, tool = again.messages[1:3]
  assert model['reasoning_content'].startswith('Hm')
  assert model['tool_calls'] == CALLED
  assert tool['content'] == {'value': 'x'}


def test_what_ends_an_answer():
  sampler = new_chat().sampler
  ends = np.flatnonzero(sampler._runner.rules.stops)
  assert ends.tolist() == [1, 50, 106]


def test_what_reads_text_only():
  chat = new_chat()
  image = np.zeros((8, 8, 3), np.uint8)
  with pytest.raises(ValueError, match='does not support vision'):
    chat.chat('What?', images=[image])
  message = {'role': 'user', 'content': [{'type': 'image'}]}
  for call in (chat.chat, chat.sampler.sample):
    with pytest.raises(ValueError, match='vision|between 1 and 2047'):
      call([message])
  assert not chat.turns
  with pytest.raises(ValueError, match='does not hear, but audio was given'):
    chat.chat('What?', audio=[np.zeros(99)])
  with pytest.raises(ValueError, match='thinking=True, but models with a Gem'):
    gm.text.ChatSampler(
      model=cases.SPEAKING.model,
      params=cases.SPEAKING.params,
      tokenizer=gm.text.Gemma3TinyTokenizer(),
      thinking=True,
    )


@pytest.mark.slow
def test_sampler_under_its_published_name():
  case = speaking(SMALL)
  fields = {
    'model': case.model,
    'params': case.params,
    'tokenizer': gemma4.tokenizer(),
    **FIELDS,
  }
  prompt = '<|turn>user\nHi<turn|>\n<|turn>model\n'
  written = [ANY] * 8
  sampler = gm.text.Gemma4Sampler(**fields, max_soft_tokens=1120)
  out = sampler.sample(
    prompt, images=None, audio=None, audio_lengths=None, max_new_tokens=8,
    sampling=gm.text.Greedy(), rng=0, return_state=True, last_state=None,
    **script(*written),
  )  # fmt: skip
  plain = gm.text.Sampler(**fields).sample(
    prompt, max_new_tokens=8, **script(*written)
  )
  assert out.text == plain
  (text,) = sampler.sample([prompt], max_new_tokens=8, **script(*written))
  assert text == plain
  with pytest.raises(ValueError, match='patch_size=14 is about images or soun'):
    gm.text.Gemma4Sampler(**fields, patch_size=14)


def test_rows_of_media_are_refused():
  """With a table that has them, on which nothing is computed."""
  case = speaking(SMALL)
  config = dataclasses.replace(
    case.config, num_embed=gemma4.SIZE, per_layer_input_dim=0
  )
  model = dataclasses.replace(case.model, config=config)
  sampler = gm.text.Sampler(
    model=model, params=case.params, tokenizer=gemma4.tokenizer()
  )
  for tag in ('<|image|>', '<|audio|>', '<|video|>'):
    with pytest.raises(ValueError, match='Prompt 1 has .*reads text only. Lea'):
      sampler.sample(['Hi', f'Look: {tag}'])
  with pytest.raises(ValueError, match='audio.*reads text only'):
    sampler.sample([{'role': 'user', 'content': [{'type': 'audio'}]}])
