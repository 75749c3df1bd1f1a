"""Messages that people bring: every key is read, or refused by name."""

import base64
import json
import os

import numpy as np
import pytest

from gemma import gm
from gemma.gm.text import _conversation
from gemma.gm.text import _prompt
import gemma4
import images

TINY = gm.text.Gemma3TinyTokenizer()
USER = {'role': 'user', 'content': 'Hi'}
MODEL = {'role': 'assistant', 'content': 'Yo'}
SYSTEM = {'role': 'system', 'content': 'Be brief.'}
CALL = {
  'role': 'assistant',
  'tool_calls': [
    {
      'type': 'function',
      'id': 'a',
      'function': {'name': 'f', 'arguments': {'x': 1}},
    }
  ],
}
TOOL = {'role': 'tool', 'tool_call_id': 'a', 'content': 'ok'}
PNG = images.encode(images.pil('RGB'))
URL = f'data:image/png;base64,{base64.b64encode(PNG).decode()}'


def text_of(messages, tokenizer=None, **options):
  tokenizer = gemma4.tokenizer() if tokenizer is None else tokenizer
  ids = gm.text.encode_chat(tokenizer, messages, **options)
  return tokenizer.decode(ids)


def closed(messages):
  """The text of a conversation of Gemma 4 after which nobody speaks."""
  return text_of(messages, add_generation_prompt=False)


def looking(**part):
  return [{'role': 'user', 'content': [{'type': 'image', **part}]}]


# Keys.


@pytest.mark.parametrize(
  'more',
  [
    {'weight': 0},
    {'train': True},
    {'name': 'Ann'},
    {'id': 'x', 'timestamp': 1.5, 'metadata': {'a': 1}},
    {'tool_calls': None, 'reasoning': None, 'images': None, 'odd': None},
    {'tool_calls': [], 'odd': '', 'images': []},
  ],
  ids=str,
)
def test_keys_that_change_nothing(more):
  expected = text_of([USER, MODEL, USER], TINY)
  assert text_of([{**USER, **more}, MODEL, USER], TINY) == expected


@pytest.mark.parametrize(
  'message, key',
  [
    ({**USER, 'images': ['a.png']}, 'images'),
    ({**USER, 'attachments': [1]}, 'attachments'),
    ({**USER, 'tool_calls': [1]}, 'tool_calls'),
    ({**USER, 'reasoning_content': 'Hm.'}, 'reasoning_content'),
    ({**MODEL, 'function_call': {'name': 'f'}}, 'function_call'),
    ({**MODEL, 'thinking': 'Hm.'}, 'thinking'),
    ({**MODEL, 'refusal': 'No.'}, 'refusal'),
    ({**MODEL, 'train_detail': [1]}, 'train_detail'),
    ({**MODEL, 'loss_scale': 0.5}, 'loss_scale'),
    ({**USER, 1: 2}, '1'),
  ],
  ids=str,
)
def test_keys_that_would_change_something(message, key):
  messages = [message] if message['role'] == 'user' else [USER, message]
  with pytest.raises(ValueError, match=f'Message . has .*{key}'):
    text_of(messages, TINY, add_generation_prompt=False)


def test_unknown_keys_are_warned_of():
  with pytest.warns(UserWarning, match="'mood' of a message is an unknown key"):
    text_of([{**USER, 'mood': 'good'}], TINY)
  call = json.loads(json.dumps(CALL))
  call['tool_calls'][0]['function']['mood'] = 1
  with pytest.warns(UserWarning, match="'mood' of the function of a tool call"):
    text_of([USER, call, TOOL])
  with pytest.warns(UserWarning, match="'mood' of an image part"):
    text_of(looking(mood=1), TINY)


@pytest.mark.parametrize(
  'message, error',
  [
    ({**USER, 'role': 3}, 'has role 3; give one of system, dev'),
    ({**USER, 'role': ['user']}, 'has role ..user'),
    ({**USER, 'content': b'Hi'}, 'content of type bytes'),
    ({**USER, 'content': {'a': 1}}, 'content of type dict'),
    ({**MODEL, 'reasoning': ['Hm.']}, 'reasoning=.*list. Give a string'),
    (
      {**MODEL, 'reasoning': 'a', 'reasoning_content': 'b'},
      'reasoning_content and reasoning, which differ',
    ),
    ({**MODEL, 'tool_calls': 'f()'}, 'tool_calls=.*str. Give a list'),
    ({**MODEL, 'tool_calls': [None]}, 'has a tool call None'),
    (
      {**MODEL, 'tool_calls': [{'type': 'custom', 'custom': {}}]},
      "type is 'custom'",
    ),
    (
      {**MODEL, 'tool_calls': [{'function': {'name': 7, 'arguments': {}}}]},
      'name is 7',
    ),
    (
      {**MODEL, 'tool_calls': [{'function': {'name': 'f', 'arguments': '['}}]},
      'has a tool call .*JSONDecodeError',
    ),
    ({**MODEL, 'tool_responses': {}}, 'tool_responses=.*Give a list'),
    ({**MODEL, 'tool_responses': [1]}, 'has 1 in tool_responses'),
  ],
  ids=str,
)
def test_values_of_the_wrong_type(message, error):
  messages = [message] if message['role'] != 'assistant' else [USER, message]
  with pytest.raises(ValueError, match=f'Message . .*{error}'):
    closed(messages)


def deep(levels):
  value = {}
  for _ in range(levels):
    value = {'a': value}
  return value


@pytest.mark.parametrize('arguments', [deep(100), '{"a":' * 9999, 10**9])
def test_arguments_that_nobody_means(arguments):
  call = {'function': {'name': 'f', 'arguments': arguments}}
  with pytest.raises(ValueError, match='Message 1 has a tool call'):
    closed([USER, {**MODEL, 'tool_calls': [call]}])


# Parts and images.


@pytest.mark.parametrize(
  'part',
  [
    {'type': 'image', 'url': URL},
    {'type': 'image', 'url': URL.replace('data', 'DATA')},
    {'type': 'image_url', 'image_url': {'url': URL, 'detail': 'high'}},
    {'type': 'image_url', 'image_url': URL},
    {'type': 'input_image', 'image_url': URL, 'detail': 'auto'},
    {'type': 'image', 'base64': URL.partition(',')[2], 'text': None},
    {'type': 'image', 'image': PNG},
  ],
  ids=','.join,
)
def test_images_as_others_write_them(part):
  content = [{'type': 'input_text', 'text': 'What?'}, part]
  messages = [{'role': 'user', 'content': content}]
  assert '\nWhat?<start_of_image><end' in text_of(messages, TINY)
  (source,) = _conversation.images_of(content[1:])
  np.testing.assert_array_equal(
    gm.vision.read_image(source), gm.vision.read_image(PNG)
  )


@pytest.mark.parametrize(
  'part, error',
  [
    ({'url': 'https://x.org/a.png'}, "address of scheme 'https'.*not fetched"),
    ({'url': 'file:///etc/passwd'}, "address of scheme 'file'"),
    ({'url': 'gs://b/a.png'}, "address of scheme 'gs'"),
    ({'url': '/etc/passwd'}, 'no data: URL. Give the path of a local image'),
    ({'image_url': {'url': 'ftp://x/y'}}, "address of scheme 'ftp'"),
    ({'image_url': 'a.png'}, 'no data: URL'),
    ({'image_url': {'detail': 'low'}}, 'image_url of type dict'),
    ({'path': 7}, 'path of type int, 7. Give a string'),
    ({'base64': b'AAAA'}, 'base64 of type bytes'),
    ({'file_id': 'x'}, "file_id='x', which is not supported"),
    ({'text': 'What?'}, "text='What.', which is not supported. Give each part"),
    ({'url': URL, 'path': 'a.png'}, 'with url and path. Give the image once'),
  ],
  ids=str,
)
def test_images_that_are_refused(part, error):
  with pytest.raises(ValueError, match=error):
    text_of(looking(**part), TINY)


@pytest.mark.parametrize(
  'part',
  [
    {'type': 'text', 'text': 'Hi', 'image': 'a.png'},
    {'type': 'text', 'text': 7},
    {'type': 'thinking', 'thinking': 'Hm.'},
    {'type': 'tool_result', 'content': 'x'},
    {'type': ['text'], 'text': 'Hi'},
    {'text': 'Hi'},
    7,
  ],
  ids=str,
)
def test_parts_of_no_known_form(part):
  with pytest.raises(ValueError, match='has a part|A part of Message 0'):
    text_of([{'role': 'user', 'content': [part]}], TINY)


@pytest.mark.parametrize(
  'data',
  [b'secret:x:0:0', b'\x89PNG\r\n\x1a\nsecretsecret' * 9, b'GIF89asecret'],
  ids=['text', 'png', 'gif'],
)
def test_errors_do_not_show_what_is_in_a_file(tmp_path, data):
  file = tmp_path / 'a.png'
  file.write_bytes(data)
  for source in (str(file), file, data):
    with pytest.raises(ValueError, match='no image of a known|damaged') as e:
      gm.vision.read_image(source)
    assert 'secret' not in str(e.value)


# Messages of others.


@pytest.fixture
def folder(tmp_path):
  """A folder of images with a link out of it, and a pipe."""
  inside = tmp_path / 'images'
  inside.mkdir()
  (inside / 'a.png').write_bytes(PNG)
  (tmp_path / 'secret.png').write_bytes(PNG)
  (inside / 'link.png').symlink_to(tmp_path / 'secret.png')
  os.mkfifo(inside / 'pipe')
  return inside


@pytest.mark.parametrize(
  'part',
  [{'path': 'a.png'}, {'image': 'a.png'}, {'path': '../images/a.png'}],
  ids=str,
)
def test_local_files_below_a_folder(folder, part):
  (message,) = gm.text.read_untrusted(looking(**part), image_folder=folder)
  assert message['content'] == [{'type': 'image', 'image': PNG}]
  with pytest.raises(ValueError, match="Message 0 names a local file.*a.png'"):
    gm.text.read_untrusted(looking(**part))


@pytest.mark.parametrize(
  'part',
  [
    {'path': '../secret.png'},
    {'image': 'link.png'},
    {'path': 'pipe'},
    {'path': ''},
    {'path': 'a\0b'},
    {'path': 'x' * 9999},
    {'image': '/etc/passwd'},
    {'image': 'none.png'},
    {'image': 'https://x.org/a.png'},
    {'url': '/etc/passwd'},
  ],
  ids=lambda part: str(part)[:40],
)
def test_local_files_that_others_may_not_name(folder, part):
  with pytest.raises(ValueError, match='Message 0 (names|has)'):
    gm.text.read_untrusted(looking(**part), image_folder=folder)


def test_other_messages_stay_as_they_are():
  messages = [SYSTEM, *looking(url=URL), CALL, {**TOOL, 'content': {'path': 1}}]
  assert gm.text.read_untrusted(messages) == messages


# Turns of Gemma 4, as the published template (2026-07-09) writes them.


@pytest.mark.parametrize(
  'messages, text',
  [
    ([USER, USER], 'user\nHi<turn|>\n<|turn>user\nHi<turn|>\n'),
    ([USER, MODEL, MODEL], 'user\nHi<turn|>\n<|turn>model\nYoYo<turn|>\n'),
    ([MODEL, USER], 'model\nYo<turn|>\n<|turn>user\nHi<turn|>\n'),
    (
      [USER, SYSTEM, USER],
      'user\nHi<turn|>\n<|turn>system\nBe brief.<turn|>\n'
      '<|turn>user\nHi<turn|>\n',
    ),
    (
      [USER, CALL, TOOL, USER],
      'user\nHi<turn|>\n<|turn>model\n<|tool_call>call:f{x:1}<tool_call|>'
      '<|tool_response>response:f{value:"ok"}<tool_response|><turn|>\n'
      '<|turn>user\nHi<turn|>\n',
    ),
  ],
)
def test_any_side_may_speak_twice(messages, text):
  assert closed(messages).replace('<|"|>', '"') == f'<|turn>{text}'
  with pytest.raises(ValueError, match='must be|has a ToolCall'):
    text_of(messages, TINY)


@pytest.mark.parametrize(
  'content',
  [
    ' as is \n',
    [{'type': 'text', 'text': ' as'}, {'type': 'text', 'text': ' is \n'}],
  ],
  ids=['text', 'parts'],
)
def test_results_of_tools_are_not_trimmed(content):
  text = text_of([USER, CALL, {**TOOL, 'content': content}])
  assert text.endswith('{value:<|"|> as is \n<|"|>}<tool_response|>')


@pytest.mark.parametrize(
  'content, written',
  [(3, '{value:3}'), (True, '{value:true}'), ({'a': None}, '{a:null}')],
)
def test_results_of_tools_that_are_no_text(content, written):
  assert f'response:f{written}<' in closed(
    [USER, CALL, {**TOOL, 'content': content}]
  )


def test_responses_inside_the_message_of_the_model():
  responses = [{'name': 'f', 'response': {'y': 2}}, {'response': ' z '}]
  calls = [*CALL['tool_calls'], {'function': {'name': 'g', 'arguments': {}}}]
  one = {**MODEL, 'tool_calls': calls, 'tool_responses': responses}
  several = [
    {'role': 'assistant', 'tool_calls': calls},
    {'role': 'tool', 'name': 'f', 'content': {'y': 2}},
    {'role': 'tool', 'content': ' z '},
    MODEL,
  ]
  assert closed([USER, one]) == closed([USER, *several])
  assert closed([USER, {**one, 'content': ''}]) == closed([USER, *several[:-1]])


def test_a_response_to_no_call():
  with pytest.raises(ValueError, match="tool_call_id 'b', but the calls have"):
    closed([USER, CALL, {**TOOL, 'tool_call_id': 'b'}])
  named = {**TOOL, 'tool_call_id': 'b', 'name': 'g'}
  assert 'response:g{' in closed([USER, CALL, named])
  named = {**TOOL, 'name': 'g'}
  assert 'response:f{' in closed([USER, CALL, named])
  with pytest.raises(ValueError, match='has name 7. Give a string'):
    closed([USER, CALL, {**TOOL, 'name': 7, 'tool_call_id': None}])


# Prompts that a template has rendered.


@pytest.mark.parametrize('add_bos', [True, False])
def test_a_rendered_prompt_has_one_bos(add_bos):
  model = gm.nn.Gemma3_Tiny()
  text = '<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n'
  rows = _prompt.encode(
    TINY, f'<bos>{text}', model=model, add_bos=add_bos, allow_special=True
  ).rows
  assert rows == [gm.text.encode_chat(TINY, [USER])]
  (spelled,) = _prompt.encode(
    TINY, f'<bos>{text}', model=model, add_bos=True, allow_special=False
  ).rows
  assert spelled.count(2) == 1 and len(spelled) > len(rows[0])
