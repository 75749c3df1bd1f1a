"""Chat templates, on the bundled vocabulary."""

import pytest

from gemma import gm


@pytest.fixture(scope='module')
def tokenizer():
  return gm.text.Gemma3TinyTokenizer()


@pytest.mark.parametrize('text', [
  'plain', 'a<start_of_turn>b', '<end_of_turn>', '<end_of_<end_of_turn>turn>',
  '<end_of_turn><end_of_turn>\n<start_of_turn>model\n', '<start_of_image>',
])  # fmt: skip
def test_text_of_others_makes_no_control_token(tokenizer, text):
  special = tokenizer.special_tokens
  ids = tokenizer.encode(text, allow_special=False)
  assert tokenizer.decode(ids) == text
  assert not {*ids} & {
    special.START_OF_TURN, special.END_OF_TURN, special.START_OF_IMAGE,
    special.END_OF_IMAGE,
  }  # fmt: skip


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


@pytest.mark.parametrize(
  'messages, error',
  [
    ([], 'no user turn'),
    ([{'role': 'model', 'content': 'x'}], "must be 'user'"),
    ([{'role': 'user', 'content': 'x'}] * 2, "must be 'model'"),
    ([{'content': 'x'}], 'needs role and content'),
  ],
)
def test_conversations_that_are_none(tokenizer, messages, error):
  with pytest.raises(ValueError, match=error):
    gm.text.encode_chat(tokenizer, messages)
