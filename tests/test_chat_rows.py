"""Rows of conversations that people bring: every key is read, or refused."""

import json

import numpy as np
import pytest

from gemma import gm
import gemma4

TINY = gm.text.Gemma3TinyTokenizer()
USER = {'role': 'user', 'content': 'Hello'}
GOOD = {'role': 'assistant', 'content': 'good'}
BAD = {'role': 'assistant', 'content': 'bad'}
END = '<end_of_turn>'


def task(tokenizer=TINY, **options):
  return gm.data.ChatTask(tokenizer=tokenizer, **options)


def ids(row):
  return [*row['input'].tolist(), int(row['target'][-1])]


def trained(row, tokenizer=TINY):
  return tokenizer.decode(row['target'][row['loss_mask']])


def same_as(messages, element, tokenizer=TINY, **options):
  """Whether a row has the tokens and the mask of these messages."""
  made = task(tokenizer, **options)(element)
  expected = task(tokenizer)({'messages': messages})
  for key, value in expected.items():
    np.testing.assert_array_equal(made[key], value)


# Turns that are not trained.


@pytest.mark.parametrize('key', ['weight', 'train', 'training', 'loss'])
@pytest.mark.parametrize('value', [0, False, 0.0, np.int64(0)])
def test_a_turn_that_is_not_trained(key, value):
  messages = [USER, {**BAD, key: value}, USER, GOOD]
  row = task()({'messages': messages})
  assert trained(row) == f'good{END}'
  plain = task()({'messages': [USER, BAD, USER, GOOD]})
  assert ids(row) == ids(plain)
  assert trained(plain) == f'bad{END}good{END}'


@pytest.mark.parametrize('value', [1, True, 1.0, None])
def test_a_turn_that_is_trained(value):
  messages = [USER, {**GOOD, 'weight': value}]
  assert trained(task()({'messages': messages})) == f'good{END}'


def test_what_comes_after_the_last_trained_token_is_left_out():
  messages = [USER, GOOD, USER, {**BAD, 'weight': 0}]
  same_as([USER, GOOD], {'messages': messages})
  with pytest.warns(UserWarning, match='no trained token left'):
    row = task()({'messages': [USER, {**BAD, 'loss': False}]})
  assert not row['loss_mask'].any()


def call(**more):
  function = {'name': 'f', 'arguments': {'x': 1}}
  return {
    'role': 'assistant', 'content': '', 'tool_calls': [{'function': function}],
    **more,
  }  # fmt: skip


def test_weights_inside_one_turn_of_gemma4():
  """Each message of it has its own, and the token that ends it."""
  tokenizer = gemma4.tokenizer()
  tool = {'role': 'tool', 'content': 'ok'}
  for first, last, text in (
    (0, 1, 'good<turn|>'),
    (1, 0, '<|tool_call>call:f{x:1}<tool_call|><|tool_response>'),
    (1, 1, '<|tool_call>call:f{x:1}<tool_call|><|tool_response>good<turn|>'),
  ):
    messages = [USER, call(weight=first), tool, {**GOOD, 'weight': last}]
    row = task(tokenizer)({'messages': messages})
    assert trained(row, tokenizer) == text
  for first, last, text in ((0, 1, 'good<turn|>'), (1, 0, 'bad')):
    messages = [USER, {**BAD, 'weight': first}, {**GOOD, 'weight': last}]
    assert trained(task(tokenizer)({'messages': messages}), tokenizer) == text


def test_weights_beside_thoughts_that_are_left_out():
  tokenizer = gemma4.tokenizer()
  thought = {**BAD, 'reasoning_content': 'Hm.', 'weight': 0}
  messages = [USER, thought, USER, {**GOOD, 'reasoning_content': 'So.'}]
  row = task(tokenizer, thinking=True)({'messages': messages})
  assert trained(row, tokenizer) == (
    '<|channel>thought\nSo.\n<channel|>good<turn|>'
  )


@pytest.mark.parametrize(
  'messages, error',
  [
    ([USER, {**GOOD, 'weight': 0.5}], r'Message 1 has weight=0.5.*give 1 or 0'),
    ([USER, {**GOOD, 'train': 'no'}], "Message 1 has train='no'"),
    ([USER, {**GOOD, 'weight': float('nan')}], 'Message 1 has weight=nan'),
    ([USER, {**GOOD, 'weight': 0, 'train': True}], 'Message 1.*disagree'),
    ([{**USER, 'train': True}, GOOD], 'Message 0 of role user has train=True'),
  ],
)
def test_weights_that_are_none(messages, error):
  with pytest.raises(ValueError, match=error):
    task()({'messages': messages})


# Text is text.


TEXTS = (
  '[{"name": "Tom"}]', '[{"role": "user", "content": "x"}]', '{"a": 1}', '[]',
  'null', '7', '[ {"from": "human", "value": "x"} ]',
)  # fmt: skip


@pytest.mark.parametrize('text', TEXTS)
@pytest.mark.parametrize(
  'form',
  [
    lambda text: {'prompt': text, 'completion': text},
    lambda text: {'prompt': [{'role': 'user', 'content': text}],
                  'completion': np.array(text)},
    lambda text: {'instruction': text, 'output': text.encode()},
    lambda text: {'conversations': [{'from': 'human', 'value': text},
                                    {'from': 'gpt', 'value': text}]},
    lambda text: {'messages': json.dumps([{'role': 'user', 'content': text},
                                          {'role': 'model', 'content': text}])},
  ],
  ids=['prompt', 'mixed', 'instruction', 'sharegpt', 'json'],
)  # fmt: skip
def test_json_in_a_text_is_text(form, text):
  messages = [
    {'role': 'user', 'content': text},
    {'role': 'assistant', 'content': text},
  ]
  same_as(messages, form(text))


def test_json_in_an_answer_is_text():
  preference = gm.data.PreferenceTask(tokenizer=TINY)
  for text in TEXTS:
    row = preference({'prompt': text, 'chosen': text, 'rejected': 'x'})
    said = TINY.decode(row['targets'][0][row['mask'][0]])
    assert said == text + END


@pytest.mark.parametrize('key', ['messages', 'conversations', 'chat'])
@pytest.mark.parametrize('value', ['Hello', '{', '"x"', '7', b'\xff', '[1]'])
def test_a_conversation_is_no_text(key, value):
  with pytest.raises(ValueError, match=f'{key}'):
    task(in_chat=key if key == 'chat' else None)({key: value})


# Forms, roles and keys.


def test_history():
  rounds = [['One', 'good'], ('Two', 'bad')]
  element = {'instruction': 'Hello', 'output': 'good', 'history': rounds}
  messages = [
    {'role': 'user', 'content': 'One'}, GOOD,
    {'role': 'user', 'content': 'Two'}, BAD, USER, GOOD,
  ]  # fmt: skip
  same_as(messages, element)
  same_as(messages, {**element, 'history': json.dumps(rounds)})
  same_as(messages, {**element, 'history': np.array(rounds)})
  for none in (None, [], ''):
    same_as([USER, GOOD], {**element, 'history': none})


def test_roles_of_llamafactory_and_sharegpt():
  tokenizer = gemma4.tokenizer()
  arguments = {'name': 'f', 'arguments': {'x': 1}}
  for role in ('function_call', 'tool_call'):
    for value in (arguments, json.dumps(arguments), json.dumps([arguments])):
      element = {
        'conversations': [
          {'from': 'system', 'value': 'Be brief.'},
          {'from': 'human', 'value': 'Hello'},
          {'from': role, 'value': value},
          {'from': 'observation', 'value': ' ok '},
          {'from': 'gpt', 'value': 'good'},
        ],
        'tools': '[{"name": "f", "parameters": null}]',
      }
      same_as(
        [
          {'role': 'system', 'content': 'Be brief.'}, USER, call(),
          {'role': 'tool', 'name': 'f', 'content': ' ok '}, GOOD,
        ],
        {**element, 'tools': None},
        tokenizer,
      )  # fmt: skip
      row = task(tokenizer)(element)
      assert 'declaration:f{description:<|"|><|"|>}' in tokenizer.decode(
        ids(row)
      )
  for role in ('chatgpt', 'bing', 'bard', 'bot'):
    said = [{'from': 'user', 'value': 'Hello'}, {'from': role, 'value': 'good'}]
    same_as([USER, GOOD], {'conversations': said})


def test_calls_side_by_side_are_one_message():
  tokenizer = gemma4.tokenizer()
  one = {'role': 'tool_call', 'content': '{"name": "f", "arguments": {"x": 1}}'}
  tool = {'role': 'tool_response', 'content': 'ok'}
  twice = call(tool_calls=call()['tool_calls'] * 2)
  same_as(
    [USER, twice, *[{'role': 'tool', 'content': 'ok'}] * 2, GOOD],
    {'messages': [USER, one, one, tool, tool, GOOD]},
    tokenizer,
  )


def test_padding_of_tools_with_none():
  """As tables have them in which other rows have other tools."""
  tokenizer = gemma4.tokenizer()
  schema = {'type': 'object', 'properties': {'a': {'type': 'string'}}}
  tool = {'type': 'function', 'function': {'name': 'f', 'parameters': schema}}
  padded = json.loads(json.dumps(tool))
  padded['function'] |= {'strict': None, 'response': None}
  properties = padded['function']['parameters']['properties']
  properties['a'] |= {'enum': None, 'items': None, 'nullable': None}
  properties['b'] = None
  rows = [
    task(tokenizer)({'messages': [USER, GOOD], 'tools': tools})
    for tools in ([tool], [padded], np.array([padded]), json.dumps([padded]))
  ]
  for row in rows:
    assert ids(row) == ids(rows[0])


@pytest.mark.parametrize(
  'more',
  [
    {'id': 7, 'source': 'x', 'score': 0.5, 'metadata': {'a': 1}},
    {'prompt': 'Hello', 'prompt_id': 'x', 'chosen': [], 'rejected': []},
    {'images': None, 'history': None, 'odd': None, 'weight': None},
    {'system': None, 'tools': []},
  ],
  ids=str,
)
def test_keys_of_rows_that_change_nothing(more):
  same_as([USER, GOOD], {'messages': [USER, GOOD], **more})


@pytest.mark.parametrize(
  'more, error',
  [
    ({'images': ['a.png']}, "images=.'a.png'.*keep= of the task"),
    ({'videos': ['a']}, 'videos='),
    ({'weight': 0}, 'weight=0'),
    ({'history': [['a', 'b']]}, "history=.*beside 'instruction'"),
    ({'functions': [{'name': 'f'}]}, 'functions=.*Give them as tools'),
    ({'chat_template_kwargs': {'a': 1}}, 'chat_template_kwargs='),
    ({'conversations': [USER]}, 'two conversations'),
    ({'system_prompt': 'x'}, 'Give it as system'),
    ({'system': 7.5, 'tools': 'f'}, "'tools' is text, but not JSON"),
    ({'system': ['x']}, "text as 'system', and not a list"),
    ({'system': float('nan')}, "text as 'system', and not nan"),
    ({'tools': {'a': 1}}, "'tools' is a dict"),
    ({'tools': float('nan')}, "'tools' is a float"),
  ],
  ids=str,
)
def test_keys_of_rows_that_would_change_something(more, error):
  with pytest.raises((TypeError, ValueError), match=error):
    task()({'messages': [USER, GOOD], **more})


def test_two_system_messages():
  system = {'role': 'system', 'content': 'Be brief.'}
  messages = [system, USER, GOOD]
  same_as(messages, {'messages': messages, 'system': 'Be brief.'})
  with pytest.raises(ValueError, match="'system' is 'Sing.', but the conv"):
    task()({'messages': messages, 'system': 'Sing.'})


def test_unknown_keys_of_rows_are_warned_of():
  with pytest.warns(
    UserWarning, match="'mood' of an example of ChatTask is an"
  ):
    task()({'messages': [USER, GOOD], 'mood': 'x'})
  with pytest.warns(
    UserWarning, match="'mood' of an example of PreferenceTask"
  ):
    gm.data.PreferenceTask(tokenizer=TINY)(
      {'prompt': 'a', 'chosen': 'b', 'rejected': 'c', 'mood': 1}
    )
  with pytest.raises(ValueError, match='label=False.*bad completions'):
    task()({'prompt': 'a', 'completion': 'b', 'label': False})


@pytest.mark.parametrize(
  'element, error',
  [
    ({'instruction': None, 'output': 'x'}, "'instruction', and not a NoneType"),
    ({'instruction': 'x', 'output': float('nan')}, "'output', and not nan"),
    ({'instruction': 'x', 'output': 'y', 'input': 1e999}, "'input', and not"),
    ({'instruction': 'x', 'output': b'\xff'}, "'output', but these bytes"),
    ({'instruction': 'x', 'output': 'y', 'history': [['a']]}, "'history' has"),
    ({'instruction': 'x', 'output': 'y', 'history': 7}, "'history' has 7"),
    ({'prompt': None, 'completion': 'x'}, "'prompt' is no conversation: None"),
    ({'prompt': 7, 'completion': 'x'}, "'prompt' is no conversation: 7"),
    ({'messages': [{'from': 'human'}]}, 'needs role and content'),
    (
      {'messages': [{'from': 'human', 'role': 'user', 'value': 'x'}]},
      r'messages\[0\] has role and another key',
    ),
    (
      {'messages': [{'role': 'function_call', 'content': 'f()'}]},
      r'messages\[0\].content. is text, but not JSON',
    ),
    (
      {'messages': [{'role': 'function_call', 'content': '{"a": 1}'}]},
      r"messages\[0\] has {'a': 1} as a call",
    ),
  ],
  ids=str,
)
def test_values_of_rows_of_the_wrong_type(element, error):
  with pytest.raises((TypeError, ValueError), match=error):
    task()(element)


@pytest.mark.parametrize(
  'options, note',
  [
    ({}, 'example 5 of epoch 0'),
    ({'shuffle': True, 'seed': 3}, 'row 5 of the source'),
    ({'shard': (1, 2)}, 'row 5 of the source'),
  ],
  ids=str,
)
def test_errors_name_the_row(options, note):
  rows = [{'messages': [USER, GOOD]} for _ in range(8)]
  rows[5] = {'messages': [USER, {**GOOD, 'weight': 'x'}]}
  for source in (rows, lambda: iter(rows)):
    if 'shuffle' in options and source is not rows:
      continue
    batches = gm.data.Batches(
      source,
      batch_size=1,
      transforms=[task(max_length=16)],
      epochs=1,
      **options,
    )
    with pytest.raises(ValueError, match="Message 1 has weight='x'") as e:
      list(batches)
    assert any(note in text for text in e.value.__notes__)
