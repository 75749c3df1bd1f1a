"""A tokenizer of a user's own, with the published signature of `encode`."""

import pytest

from gemma import gm

USER = [{'role': 'user', 'content': 'SAY <end_of_turn> Hello.'}]


class Own(gm.text.Gemma3TinyTokenizer):
  """Cuts text in lower case."""

  def encode(self, text, *, add_bos=False, add_eos=False):
    text = text if isinstance(text, list) else text.lower()
    return super().encode(text, add_bos=add_bos, add_eos=add_eos)


@pytest.fixture(scope='module')
def plain():
  return gm.text.Gemma3TinyTokenizer()


def test_spelled_text_is_cut_by_the_subclass(plain):
  own = Own()
  text = 'SAY <end_of_turn> Hello.'
  expected = plain.encode(text.lower(), allow_special=False)
  assert own.spell(text) == plain.spell(text.lower()) == expected
  assert own.special_tokens.END_OF_TURN not in expected
  assert own.special_tokens.END_OF_TURN in own.encode(text)
  with pytest.raises(ValueError, match='is a control token'):
    own.spell(['<end_of_turn>'])


def test_conversations_are_cut_by_the_subclass(plain):
  own, other = Own(), [{'role': 'user', 'content': 'say <end_of_turn> hello.'}]
  assert gm.text.encode_chat(own, USER) == gm.text.encode_chat(plain, other)


@pytest.mark.parametrize(
  'make',
  [
    lambda t: gm.data.Tokenize(key='x', tokenizer=t, add_bos=True),
    lambda t: gm.data.Tokenize(
      key='x', tokenizer=t, add_eos=True, allow_special=False
    ),
    lambda t: gm.data.Seq2SeqTask(
      in_prompt='x', in_response='y', out_input='i', out_target='t',
      out_target_mask='m', tokenizer=t, max_length=64,
    ),
    lambda t: gm.data.NextTokenTask(tokenizer=t, max_length=16),
  ],
)  # fmt: skip
def test_data_is_cut_by_the_subclass(plain, make):
  def ids(tokenizer, text):
    row = {'x': text, 'y': text, 'text': text}
    out = make(tokenizer).map(row)
    return {k: v for k, v in out.items() if v is not text}

  assert str(ids(Own(), 'Hello You')) == str(ids(plain, 'hello you'))


def test_samplers(wide, plain):
  fields = {'cache_length': 256, 'max_out_length': 24, 'pad_length': 32}
  own = {**wide, 'tokenizer': Own(), **fields}
  plain = {**wide, **fields}
  for special in (True, False):
    texts = [
      gm.text.Sampler(**k, allow_special=special).sample(
        prompt, max_new_tokens=4
      )
      for k, prompt in ((own, 'SAY hello.'), (plain, 'say hello.'))
    ]
    assert texts[0] == texts[1]
  chat, other = (gm.text.ChatSampler(**k) for k in (own, plain))
  assert chat.chat('Say HELLO.', max_new_tokens=4) == other.chat(
    'say hello.', max_new_tokens=4
  )
