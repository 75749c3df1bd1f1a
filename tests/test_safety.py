"""What a stranger writes never becomes a control token, whatever it says."""

import random

import pytest

from gemma import gm
from gemma.gm.text import _model_proto

# All that is not text, spelled by hand: no list of the library's own.
TAGS = (
  '<start_of_turn>', '<end_of_turn>', '<start_of_image>', '<end_of_image>',
  '<image_soft_token>', '<mask>', '[multimodal]',
  *(f'<unused{i}>' for i in range(99)),
)  # fmt: skip
NEVER_FROM_TEXT = ('<pad>', '<eos>', '<bos>', '<unk>')
MORE_TAGS = (
  '<2mass>', '[@BOS@]', '[toxicity=0]', '<unused99>', '<unused6241>',
  '<start_of_audio>', '<end_of_audio>', '<audio_soft_token>', '<|image|>',
  '<start_function_call>', '<end_function_call>', '<escape>', '<|turn>',
  '<turn|>', '<|tool_response>', '<tool_response|>', '<|"|>',
)  # fmt: skip
# Symbols of the vocabularies of Gemma that are ordinary text.
ORDINARY = (
  '\n\n\n\n', '  ', '   ', '\t\t', '\t\t\t', '<table>', '</table>', '<tr>',
  '<h1>', '</h6>', '<blockquote>', '<sub>', '<code>', '</code>',
)  # fmt: skip
CUSTOM = {0: '<b>', 1: '§', 2: '<<', 3: 'of_', 4: 'my tag', 98: '</think>'}
UNUSED_SINCE = ('<unused0>', '<unused1>', '<unused98>')

PLAIN = (
  'hello', ' the king', '\n', '\n\n', ' ', '   ', '\t', '<', '>', '<<', '|',
  'start_of_turn', 'user\n', 'model\n', '🙂', '東京', 'é', '\x00', '\x7f',
  '\ufffd', '<0x0A>', '<0xFF>', '</s>', '<div>', *ORDINARY,
)  # fmt: skip
# What tags are cut with: nothing visible, blanks, marks, quotes.
BETWEEN = (
  '\u200b', '\u200d', '\u2060', '\ufeff', '\u00ad', '\u0301', '\u202e', ' ',
  '\n', '\x00', '\\', '/', '_', '<', '>', '\U000e0001',
)  # fmt: skip
LOOKALIKES = str.maketrans({
  '<': '\uff1c', '>': '\uff1e', '_': '\uff3f', 'o': '\u043e', 'a': '\u0430',
  'e': '\u0435', 't': '\uff54', '|': '\uff5c', '[': '\uff3b',
})  # fmt: skip


def rich_vocabulary():
  """The bundled vocabulary with the symbols of the larger ones."""
  proto = gm.text.Gemma3TinyTokenizer().model_proto
  model = _model_proto.Model.FromString(proto)
  for piece in (*MORE_TAGS, *ORDINARY):
    model.pieces.add(
      piece=piece.replace(' ', '\u2581'), type=model.pieces[4].type
    )
  return model.SerializeToString()


@pytest.fixture(scope='module')
def rich(tmp_path_factory):
  path = tmp_path_factory.mktemp('rich') / 'tokenizer.model'
  path.write_bytes(rich_vocabulary())
  return path


@pytest.fixture(scope='module', params=['tiny', 'rich', 'custom'])
def case(request, rich):
  """A tokenizer, and the spellings of its control tokens."""
  if request.param == 'tiny':
    return gm.text.Gemma3TinyTokenizer(), (*NEVER_FROM_TEXT, *TAGS)
  every = (*NEVER_FROM_TEXT, *TAGS, *MORE_TAGS)
  if request.param == 'rich':
    return gm.text.Gemma3TinyTokenizer(rich), every
  custom = [f'<unused{i}>' for i in CUSTOM]
  every = [tag for tag in every if tag not in custom]
  tokenizer = gm.text.Gemma3TinyTokenizer(rich, custom_tokens=CUSTOM)
  return tokenizer, (*every, *CUSTOM.values())


def control_ids(tokenizer, tags):
  ids = {piece: i for i, piece in enumerate(tokenizer.tokens)}
  return {ids[tag] for tag in tags}


def hostile(rng, tags):
  """A text that tries to have a control token."""
  tag, other = rng.choice(tags), rng.choice(tags)
  cut = rng.randint(0, len(tag))
  left, right = tag[:cut], tag[cut:]
  kind = rng.randrange(9)
  if kind == 0:
    text = tag
  elif kind == 1:
    text = rng.choice((left, right, tag[1:], tag[:-1]))
  elif kind == 2:
    text = left + other + right
  elif kind == 3:
    text = left + left + other + right + right
  elif kind == 4:
    text = (tag + rng.choice(('', ' ', '\n'))) * rng.randint(2, 4)
  elif kind == 5:
    text = left + rng.choice(BETWEEN) + right
  elif kind == 6:
    text = tag.translate(LOOKALIKES)
  elif kind == 7:
    text = tag[:-1] + other + tag[-1:]
  else:
    text = tag.upper() if rng.random() < 0.5 else tag.replace('_', ' ')
  around = [rng.choice(PLAIN) for _ in range(rng.randint(0, 3))]
  around.insert(rng.randint(0, len(around)), text)
  return ''.join(around)


def test_no_hostile_text_has_a_control_token(case):
  tokenizer, tags = case
  control = control_ids(tokenizer, tags)
  rng = random.Random(0)
  reached = set()
  for _ in range(10_000):
    text = hostile(rng, tags)
    ids = tokenizer.encode(text, allow_special=False)
    assert control.isdisjoint(ids), repr(text)
    assert tokenizer.decode(ids) == text, repr(text)
    reached |= control & {*tokenizer.encode(text)}
  # The texts are hostile: without care each tag is reached.
  never = control_ids(tokenizer, NEVER_FROM_TEXT)
  assert reached == control - never


def test_each_tag_alone_and_beside_itself(case):
  tokenizer, tags = case
  control = control_ids(tokenizer, tags)
  for tag in tags:
    for text in (tag, tag * 2, f'a{tag}b', f'\n{tag}\n', f' {tag} '):
      ids = tokenizer.encode(text, allow_special=False)
      assert control.isdisjoint(ids), repr(text)
      assert tokenizer.decode(ids) == text


def test_random_characters_of_tags(case):
  """Every overlap that the letters of tags allow."""
  tokenizer, tags = case
  control = control_ids(tokenizer, tags)
  rng = random.Random(1)
  letters = ['<', '>', '[', ']', '|', '<start', '_of', '_turn>', 'of_', *tags]
  for _ in range(2_000):
    text = ''.join(rng.choices(letters, k=6))
    ids = tokenizer.encode(text, allow_special=False)
    assert control.isdisjoint(ids), repr(text)
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize('text', [*PLAIN, ''.join(PLAIN), 'if x:\n\t\tgo()\n'])
def test_ordinary_text_is_as_trained(rich, text):
  tokenizer = gm.text.Gemma3TinyTokenizer(rich)
  assert tokenizer.encode(text, allow_special=False) == tokenizer.encode(text)


def test_ordinary_symbols_are_one_token(rich):
  tokenizer = gm.text.Gemma3TinyTokenizer(rich)
  for symbol in ORDINARY:
    assert len(tokenizer.encode(symbol, allow_special=False)) == 1


def test_sign_for_a_space_hides_no_tag(rich):
  """SentencePiece reads U+2581 as a space, so it counts as one."""
  tokenizer = gm.text.Gemma3TinyTokenizer(rich, custom_tokens=CUSTOM)
  ids = tokenizer.encode('my\u2581tag', allow_special=False)
  assert tokenizer.encode('my tag')[0] not in ids
  assert tokenizer.decode(ids) == 'my tag'


def test_pieces_of_a_stranger(case):
  tokenizer, tags = case
  for tag in tags[4:]:
    assert len(tokenizer.encode([tag])) == 1
    with pytest.raises(ValueError, match='is a control token, which allow_sp'):
      tokenizer.encode([tag], allow_special=False)


@pytest.mark.parametrize('allow_special', [True, False])
@pytest.mark.parametrize('text', ['\ud800', 'a\udc00b', '<end\ud83d_of_turn>'])
def test_half_characters(case, text, allow_special):
  tokenizer, _ = case
  with pytest.raises(ValueError, match=r"half a character, '\\ud.*Clean it"):
    tokenizer.encode(text, allow_special=allow_special)
  clean = text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')
  ids = tokenizer.encode(clean, allow_special=False)
  assert tokenizer.decode(ids) == clean


@pytest.mark.parametrize('role', ['system', 'user'])
def test_no_conversation_has_tags_of_its_own(case, role):
  """As many turns as messages, whatever these say."""
  tokenizer, tags = case
  special = tokenizer.special_tokens
  control = control_ids(tokenizer, tags)
  rng = random.Random(2)
  for _ in range(200):
    said = ''.join(hostile(rng, tags) for _ in range(3))
    messages = [{'role': role, 'content': said}]
    if role == 'system':
      messages.append({'role': 'user', 'content': said})
    ids = gm.text.encode_chat(tokenizer, messages)
    found = [i for i in ids if i in control]
    assert found == [
      special.BOS, special.START_OF_TURN, special.END_OF_TURN,
      special.START_OF_TURN,
    ]  # fmt: skip
