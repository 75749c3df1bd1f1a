"""Conversations with images: in any turn, kept, saved, rolled and streamed."""

import asyncio
import base64
import io
import json

import numpy as np
from PIL import Image
import pytest

import cases
from gemma import gm
import images
import test_text

CASE = cases.SPEAKING
START = CASE.config.image_tokens.start
CAT, DOG = images.picture(20, 30), images.picture(41, 9)
FIELDS = {
  'model': CASE.model,
  'params': CASE.params,
  'tokenizer': gm.text.Gemma3TinyTokenizer(),
  **cases.TEXT,
  'max_out_length': 6,
}


def new_chat(**fields):
  return gm.text.ChatSampler(**{**FIELDS, 'multi_turn': True, **fields})


@pytest.fixture
def chat():
  return new_chat()


def context(chat):
  return chat.last_state.contexts()[0]


def blocks(row):
  """Where the soft tokens of images are."""
  return [i for i, token in enumerate(row) if token < 0 and row[i - 1] == START]


@pytest.mark.slow
def test_images_in_any_turn_are_one_text(chat):
  """What is said later is said with all images before it."""
  answers = [
    chat.chat('Look: <start_of_image>', images=CAT),
    chat.chat('And?'),
    chat.chat('<|image|> or <start_of_image>?', images=[DOG, CAT]),
  ]
  texts = [turn.text for turn in chat.turns]
  assert texts[0].split('\n')[1] == 'Look:<start_of_image><end_of_turn>'
  assert '\n<start_of_image>or<start_of_image>?<end_of_turn>' in texts[4]
  sampler = chat.sampler
  for i, shown in ((1, [CAT]), (3, [CAT]), (5, [CAT, DOG, CAT])):
    out = sampler.sample(''.join(texts[:i]), images=shown)
    assert out == texts[i]
    assert out.removesuffix('<end_of_turn>') == answers[i // 2]
  row = context(chat)
  at = blocks(row)
  assert len(at) == 3
  assert row[at[0] : at[0] + 4] == row[at[2] : at[2] + 4]
  assert row[at[0] - 2] == row[at[0] + 5] == 108 and row[at[0] + 4] == 111
  tags = sampler.codec.decode(row[1:])
  assert tags.count('\n\n<start_of_image><end_of_image>\n\n') == 3
  assert chat.usage.context_tokens == len(row)
  assert chat.usage.prompt_tokens == len(row) - 6 - chat.usage.cached_tokens - 1


@pytest.mark.parametrize(
  'prompt, text',
  [
    ('What is it?', '<start_of_image>What is it?'),
    ('', '<start_of_image>'),
    ('Is <|image|> it?', 'Is<start_of_image>it?'),
    (
      [{'role': 'user', 'content': 'Hm <start_of_image>'}],
      'Hm<start_of_image>',
    ),
    (
      [
        {
          'role': 'user',
          'content': [{'type': 'text', 'text': 'A'}, {'type': 'image'}],
        }
      ],
      'A<start_of_image>',
    ),
    (
      [
        {'role': 'system', 'content': 'Be brief.'},
        {'role': 'user', 'content': 'Hi'},
        {'role': 'model', 'content': 'Ho <start_of_image>'},
        {'role': 'user', 'content': 'Bye'},
      ],
      '<start_of_image>Bye',
    ),
  ],
)
def test_where_images_go(chat, prompt, text):
  """To their tags or parts; without any, before the newest text."""
  answer = chat.chat(prompt, images=CAT)
  assert chat.turns[0].text.endswith(
    f'<start_of_turn>user\n{text}<end_of_turn>\n<start_of_turn>model\n'
  )
  assert len(blocks(context(chat))) == 1
  if prompt:  # A sampler reads messages alike.
    if isinstance(prompt, str):
      prompt = [{'role': 'user', 'content': prompt}]
    out = chat.sampler.sample(prompt, images=CAT)
    assert out.removesuffix('<end_of_turn>') == answer


def sources(path):
  """An image in each form that a message may have."""
  Image.fromarray(CAT).save(path)
  data = path.read_bytes()
  text = base64.b64encode(data).decode()
  return [
    {'image': CAT},
    {'image': Image.fromarray(CAT)},
    {'image': data},
    {'image': str(path)},
    {'path': path},
    {'url': str(path)},
    {'url': f'data:image/png;base64,{text}'},
    {'base64': text},
    {'image': None, 'url': CAT},
  ]


def test_images_inside_messages(tmp_path):
  """Each form is the same image; files may go once they were read."""
  expected = new_chat()
  answer = expected.chat('What? <start_of_image>', images=CAT)
  path = tmp_path / 'cat.png'
  for source in sources(path):
    chat = new_chat()
    parts = [{'type': 'text', 'text': 'What?'}, {'type': 'image', **source}]
    prompt = [{'role': 'user', 'content': parts}]
    assert chat.chat(prompt) == answer
    assert chat.sampler.sample(prompt).removesuffix('<end_of_turn>') == answer
    path.unlink()
    other = new_chat()
    other.restore(chat.messages)
    assert other.chat('And?') == chat.chat('And?')
    assert context(other) == context(chat)
    sources(path)


def test_conversation_of_dialog():
  dialog = test_text.stand_in()
  prompt = dialog.Conversation(dialog.User('What?', dialog.Image(CAT)))
  answer = new_chat().chat('What? <start_of_image>', images=CAT)
  chat = new_chat()
  assert chat.chat(prompt) == answer
  assert len(blocks(context(chat))) == 1
  out = chat.sampler.sample(prompt)
  assert out.removesuffix('<end_of_turn>') == answer
  # Those of the package know more than what they were made from.
  for data in ({'data': CAT}, {'path': 'no.png'}, {'url': 'https://x/y.png'}):
    kind = type('Data', (), data)
    prompt = dialog.Conversation(dialog.User(dialog.Image(kind())))
    if 'data' in data:
      assert chat.chat(prompt, multi_turn=False)
      continue
    with pytest.raises((ValueError, OSError), match='no image at|is an addres'):
      chat.chat(prompt, multi_turn=False)


def test_saved_images_go_on_identically(chat, tmp_path):
  """As what they were, or as PNG, inside of the file."""
  data = images.encode(Image.fromarray(DOG), 'JPEG')
  chat.chat('Look', images=[CAT, data])
  chat.chat('And?')
  chat.save(tmp_path / 'chat.json')
  parts = json.loads((tmp_path / 'chat.json').read_text())['messages'][0]
  urls = [part['image'] for part in parts['content'] if 'image' in part]
  assert [url[:19] for url in urls] == [
    'data:image/png;base',
    'data:;base64,/9j/4A',
  ]
  np.testing.assert_array_equal(gm.vision.read_image(urls[0]), CAT)
  assert base64.b64decode(urls[1].split(',')[1]) == data
  loaded, restored = new_chat(), new_chat()
  loaded.load(tmp_path / 'chat.json')
  restored.restore(chat.messages)
  expected = chat.chat('Which?', images=DOG)
  for other in (loaded, restored):
    assert other.turns[0] == chat.turns[0]
    assert other.chat('Which?', images=DOG) == expected
    assert context(other) == context(chat)
  loaded.save(tmp_path / 'again.json')
  chat.save(tmp_path / 'chat.json')
  again = (tmp_path / 'again.json').read_text()
  assert again == (tmp_path / 'chat.json').read_text()


def test_images_are_kept_as_they_were(chat):
  """Whatever becomes of the array that was given."""
  mine = CAT.copy()
  chat.chat('Look', images=mine)
  mine[:] = 0
  np.testing.assert_array_equal(chat.messages[0]['content'][0]['image'], CAT)
  other = new_chat()
  other.restore(chat.messages)
  assert other.chat('And?') == chat.chat('And?')


def test_streams(chat, capsys):
  """Printed, piece by piece, closed early, and in an event loop."""
  whole = chat.chat('Look', images=CAT)
  others = [new_chat() for _ in range(4)]
  assert ''.join(others[0].stream('Look', images=CAT)) == whole
  written = io.StringIO()
  others[1].chat('Look', images=CAT, print_stream=written)
  assert written.getvalue() == whole + '\n'
  assert asyncio.run(others[2].chat_async('Look', images=CAT)) == whole
  pieces = others[3].stream('Look', images=CAT)
  said = next(pieces)
  pieces.close()
  assert whole.startswith(said) and others[3].last_state is None
  others[3].chat('And?')
  assert len(blocks(context(others[3]))) == 1
  expected = chat.chat('And?', images=DOG)
  for other in others[:3]:
    assert other.chat('And?', images=DOG) == expected
    assert context(other) == context(chat)


@pytest.mark.slow
def test_oldest_turns_are_dropped_with_their_images():
  """Room is counted in tokens of images; what is left is as if alone."""
  chat = new_chat(on_full='roll')
  dropped = 0
  for i in range(7):
    chat.chat('And? ' * 12 + str(i), images=[CAT, DOG][: i % 3])
    dropped += chat.usage.dropped_tokens
    row = context(chat) if chat.last_state else []
    assert len(row) <= 257
    assert row.count(START) == row.count(111) == len(blocks(row))
  assert dropped > 0
  contents = chat.messages[-2]['content']
  other = new_chat(on_full='roll')
  other.restore(chat.messages[:-2])
  assert (
    other.chat([{'role': 'user', 'content': contents}])
    == (chat.messages[-1]['content'])
  )


@pytest.mark.slow
def test_schema_and_draft(chat):
  """Both know nothing of images, and need not."""
  schema = gm.text.Regex('(yes|no) it is')
  answer = chat.chat('Is it?', images=CAT, schema=schema, max_new_tokens=6)
  assert answer.split(' ')[0] in ('yes', 'no')
  greedy = new_chat().chat('Is it?', images=CAT)
  draft = gm.text.PromptLookup()
  assert new_chat(draft=draft).chat('Is it?', images=CAT) == greedy


def test_text_alone_is_only_text(chat):
  """Tags that a user types mean nothing unless there are images."""
  chat.chat('What is <start_of_image> and <|image|>?')
  row = context(chat)
  assert START not in row and not blocks(row)
  safe = gm.text.Sampler(**FIELDS, allow_special=False)
  text = '<start_of_image> is <end_of_turn>'
  assert START not in safe.sample(text, return_state=True).state.contexts()[0]
  out = safe.sample(text, images=CAT, return_state=True)
  row = out.state.contexts()[0]
  assert len(blocks(row)) == 1 and 106 not in row[:-6]


IMAGE = {'type': 'image', 'image': CAT}
BAD = {
  'too many places': (
    {'prompt': 'a <start_of_image> b <|image|>', 'images': CAT},
    '1 image but 2 <start_of_image> in the prompt. Add or remove placeholders.',
  ),
  'too few': (
    {'prompt': 'a <start_of_image>', 'images': [CAT, DOG]},
    '2 images but 1 <start_of_image> in the prompt',
  ),
  'both': (
    {'prompt': [{'role': 'user', 'content': [IMAGE]}], 'images': CAT},
    '1 of the images are in the messages, and images= has 1 more. Give all',
  ),
  'none': (
    {'prompt': [{'role': 'user', 'content': [IMAGE, {'type': 'image'}]}]},
    '1 image but 2 <start_of_image> in turn 2',
  ),
  'two sources': (
    {
      'prompt': [
        {'role': 'user', 'content': [{**IMAGE, 'url': 'data:,'}]}
      ]
    },
    'Message 0 has an image part with image and url. Give the image once',
  ),
  'not found': (
    {'prompt': 'x', 'images': ['/no/such.png']}, 'no image at ./no/such.png'
  ),
  'address': (
    {'prompt': 'x', 'images': 'https://x.org/y.png'}, 'images are not fetched'
  ),
  'nan': ({'prompt': 'x', 'images': np.full((3, 3), np.nan)}, 'NaN'),
  'list': ({'prompt': 'x', 'images': [[CAT]]}, 'have a list among them'),
  'too long': (
    {'prompt': 'x', 'images': [CAT] * 40}, 'but the cache holds 256'
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', BAD)
def test_failed_call_leaves_the_conversation(name):
  chat = new_chat()
  chat.restore(
    [{'role': 'user', 'content': 'Hi'}, {'role': 'model', 'content': 'Ho'}]
  )
  before = chat.messages, [*chat.turns], chat.usage
  fields, message = BAD[name]
  with pytest.raises((ValueError, OSError), match=message) as info:
    chat.chat(**fields)
  with pytest.raises((ValueError, OSError), match=message):
    chat.stream(**fields)
  assert before == (chat.messages, chat.turns, chat.usage)
  if name == 'nan':
    assert info.value.__notes__ == [
      'This is image 0 of 1.', 'It belongs to turn 2 of the conversation.',
    ]  # fmt: skip


def test_chat_of_a_model_that_does_not_see(wide):
  case = cases.GEMMA3
  chat = new_chat(model=case.model, params=case.params)
  for fields in (
    {'prompt': 'x', 'images': CAT},
    {'prompt': [{'role': 'user', 'content': [IMAGE]}]},
    {'prompt': [{'role': 'user', 'content': [{'type': 'image'}]}]},
  ):
    with pytest.raises(ValueError, match='does not support vision, but images'):
      chat.chat(**fields)
  assert chat.messages == []


def test_messages_as_a_dialog(chat, monkeypatch):
  import sys

  dialog = test_text.stand_in()
  monkeypatch.setitem(sys.modules, 'dialog', dialog)
  chat.chat('Look', images=images.encode(Image.fromarray(CAT)))
  conversation = chat.conversation
  assert [turn.ROLE for turn in conversation.turns] == ['user', 'model']
  image, text = conversation.turns[0].chunks
  np.testing.assert_array_equal(image.data, CAT)
  assert text.text == 'Look'
