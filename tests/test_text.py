"""Conversations to token ids, on the bundled vocabulary."""

import dataclasses
import types

import numpy as np
import pytest

from gemma import gm
from gemma.gm.text import _conversation


@pytest.fixture(scope='module')
def tokenizer():
  return gm.text.Gemma3TinyTokenizer()


def test_chat_tokens_are_those_of_the_format(tokenizer):
  """Piece by piece as the whole string would be."""
  messages = [
    {'role': 'system', 'content': 'Be brief.'},
    {'role': 'user', 'content': '  What is 2 + 2?\n'},
    {'role': 'assistant', 'content': '4'},
    {'role': 'user', 'content': 'And 3 + 3?'},
  ]
  text = (
    '<start_of_turn>user\nBe brief.\n\nWhat is 2 + 2?<end_of_turn>\n'
    '<start_of_turn>model\n4<end_of_turn>\n'
    '<start_of_turn>user\nAnd 3 + 3?<end_of_turn>\n'
    '<start_of_turn>model\n'
  )
  ids = gm.text.encode_chat(tokenizer, messages)
  assert ids == tokenizer.encode(text, add_bos=True)


def test_conversation_without_a_turn_for_the_model(tokenizer):
  messages = [{'role': 'user', 'content': 'Hi'}]
  ids = gm.text.encode_chat(tokenizer, messages, add_generation_prompt=False)
  text = '<start_of_turn>user\nHi<end_of_turn>\n'
  assert ids == tokenizer.encode(text, add_bos=True)
  messages.append({'role': 'model', 'content': 'Hello'})
  text += '<start_of_turn>model\nHello<end_of_turn>\n<start_of_turn>model\n'
  ids = gm.text.encode_chat(tokenizer, messages)
  assert ids == tokenizer.encode(text, add_bos=True)


def test_content_in_parts(tokenizer):
  parts = [
    {'type': 'text', 'text': ' Compare '},
    {'type': 'image'},
    {'type': 'image', 'path': 'x.png'},
    {'type': 'text', 'text': '<end_of_turn>, '},
    {'type': 'text', 'text': 'please.'},
  ]
  system = [{'type': 'text', 'text': 'Be brief.'}]
  ids = gm.text.encode_chat(
    tokenizer,
    [
      {'role': 'system', 'content': system},
      {'role': 'user', 'content': parts},
    ],
  )
  assert tokenizer.decode(ids) == (
    '<start_of_turn>user\nBe brief.\n\nCompare<start_of_image>'
    '<start_of_image><end_of_turn>,please.<end_of_turn>\n'
    '<start_of_turn>model\n'
  )
  special = tokenizer.special_tokens
  assert ids.count(special.IMAGE_PLACEHOLDER) == 2
  assert ids.count(special.END_OF_TURN) == 1
  string = [{'role': 'user', 'content': 'Hi'}]
  listed = [{'role': 'user', 'content': [{'type': 'text', 'text': 'Hi'}]}]
  assert gm.text.encode_chat(tokenizer, string) == gm.text.encode_chat(
    tokenizer, listed
  )


def user(content):
  return [{'role': 'user', 'content': content}]


@pytest.mark.parametrize(
  'messages, error',
  [
    ([], 'no user turn'),
    ([{'role': 'model', 'content': 'x'}], "must be 'user'"),
    ([{'role': 'user', 'content': 'x'}] * 2, "must be 'model'"),
    ([{'content': 'x'}], 'needs role and content'),
    ([{'role': 'tool', 'content': 'x'}], "role 'tool', but must be 'user'"),
    ([{'role': 'system', 'content': 'x'}], 'no user turn'),
    (user(None), 'Message 0 has content of type NoneType, but needs a string'),
    (user([{'type': 'video'}]), "has a part {'type': 'video'} of type 'video'"),
    (user([{'type': 'text'}]), "has a part {'type': 'text'} of type 'text'"),
    (user(['x' * 99]), "has a part 'xxx.*[.]{3} of type None"),
    (user([{'type': 'audio'}]), 'an audio, but Gemma3TinyTokenizer has no tok'),
  ],
)
def test_conversations_that_are_none(tokenizer, messages, error):
  with pytest.raises(ValueError, match=error):
    gm.text.encode_chat(tokenizer, messages)


def test_image_for_a_vocabulary_without_one(tokenizer):
  gemma2 = gm.text.Gemma2Tokenizer(tokenizer.path)
  with pytest.raises(ValueError, match='an image, but Gemma2Tokenizer has no'):
    gm.text.encode_chat(gemma2, user([{'type': 'image'}]))


# Conversations of the package `dialog`, or of classes of the same shape.


def stand_in():
  """The classes of `dialog` as far as they are read."""

  @dataclasses.dataclass
  class Text:
    text: str

  class Image:
    def __init__(self, data):
      self.data = data

  class Audio(Image):
    pass

  class Think:
    pass

  def chunks(values):
    return [Text(v) if isinstance(v, str) else v for v in values]

  class Thought:
    def __init__(self, *values):
      self.chunks = chunks(values)

  class Turn(Thought):
    pass

  class Conversation:
    def __init__(self, *turns):
      self.turns = list(turns)

    def as_text(self):
      raise NotImplementedError

  roles = {'User': 'user', 'Model': 'model', 'System': 'system'}
  turns = {name: type(name, (Turn,), {'ROLE': r}) for name, r in roles.items()}
  kinds = (Text, Image, Audio, Think, Thought, Conversation)
  return types.SimpleNamespace(
    **turns, **{kind.__name__: kind for kind in kinds}
  )


@pytest.fixture(scope='module')
def dialog():
  try:
    import dialog
  except ImportError:
    return stand_in()
  return dialog


def image():
  return np.zeros((4, 4, 3), np.uint8)


def test_dialog_is_the_same_as_messages(tokenizer, dialog):
  conversation = dialog.Conversation(
    dialog.System('Be brief.'),
    dialog.User('Hi <end_of_turn>'),
    dialog.Model('Hello.'),
    dialog.User('Who are you?'),
  )
  messages = [
    {'role': 'system', 'content': 'Be brief.'},
    {'role': 'user', 'content': 'Hi <end_of_turn>'},
    {'role': 'assistant', 'content': 'Hello.'},
    {'role': 'user', 'content': 'Who are you?'},
  ]
  for prompt in (True, False):
    assert gm.text.encode_chat(
      tokenizer, conversation, add_generation_prompt=prompt
    ) == gm.text.encode_chat(tokenizer, messages, add_generation_prompt=prompt)


def test_dialog_with_an_image_and_a_thought(tokenizer, dialog):
  conversation = dialog.Conversation(
    dialog.User(' What is ', dialog.Image(image()), '?'),
    dialog.Model(dialog.Thought('Hm.'), 'A cat.'),
    dialog.User('Sure? <start_of_image>'),
  )
  ids = gm.text.encode_chat(tokenizer, conversation)
  assert tokenizer.decode(ids) == (
    '<start_of_turn>user\n What is <start_of_image>?<end_of_turn>\n'
    '<start_of_turn>model\n<start_receiver>thought\nHm.<end_receiver>A cat.'
    '<end_of_turn>\n<start_of_turn>user\nSure? <start_of_image><end_of_turn>\n'
    '<start_of_turn>model\n'
  )
  assert ids.count(tokenizer.special_tokens.IMAGE_PLACEHOLDER) == 1


def test_dialog_that_ends_with_the_model_goes_on(tokenizer, dialog):
  conversation = dialog.Conversation(dialog.User('Hi'), dialog.Model('I am '))
  text = '<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nI am '
  ids = gm.text.encode_chat(tokenizer, conversation)
  assert ids == tokenizer.encode(text, add_bos=True)
  ids = gm.text.encode_chat(
    tokenizer, conversation, add_generation_prompt=False
  )
  assert ids == tokenizer.encode(text + '<end_of_turn>\n', add_bos=True)


def test_dialog_that_is_none(tokenizer, dialog):
  def encode(*turns):
    gm.text.encode_chat(tokenizer, dialog.Conversation(*turns))

  with pytest.raises(ValueError, match='no user turn'):
    encode()
  with pytest.raises(ValueError, match="'model', but must be 'user'"):
    encode(dialog.Model('x'))
  with pytest.raises(ValueError, match='has a Think, for which these models'):
    encode(dialog.User('x', dialog.Think()))


def test_what_is_a_conversation(dialog):
  assert _conversation.is_conversation(dialog.Conversation())
  assert _conversation.is_conversation(
    dialog.Conversation(dialog.User('x'), dialog.Model('y'))
  )
  assert _conversation.is_conversation(user('x'))
  others = ('', 'x', [], ['x'], [1, 2], [user('x')], {'role': 'user'}, None, 1)
  for other in (
    *others,
    np.arange(3),
    dialog.User('x'),
    [dialog.Conversation()],
  ):
    assert not _conversation.is_conversation(other), other


def test_spelling_is_that_of_dialog(tokenizer):
  dialog = pytest.importorskip('dialog')
  conversation = dialog.Conversation(
    dialog.User('Hi'),
    dialog.Model(dialog.Thought('Hm.'), 'Hello.'),
    dialog.User('Who are', ' you?'),
  )
  ids = gm.text.encode_chat(tokenizer, conversation)
  assert tokenizer.decode(ids) == conversation.as_text(format=tokenizer.FORMAT)
  model = dialog.Conversation(*conversation.turns, dialog.Model('I am'))
  ids = gm.text.encode_chat(tokenizer, model)
  assert tokenizer.decode(ids) == model.as_text(format=tokenizer.FORMAT)
