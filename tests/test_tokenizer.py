"""Tokenizers: ids and texts, generations, custom tokens, pictures."""

import pickle
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from gemma import gm
from gemma.gm.text import _model_proto
from texts import TEXTS


@pytest.fixture(scope='module')
def tokenizer():
  return gm.text.Gemma3TinyTokenizer()


@pytest.mark.parametrize('text', TEXTS)
def test_round_trip(tokenizer, text):
  assert tokenizer.decode(tokenizer.encode(text)) == text


def test_control_tokens_have_the_ids_of_gemma3(tokenizer):
  special = tokenizer.special_tokens
  assert tokenizer.encode('<start_of_turn>user\n')[0] == 105
  assert tokenizer.encode('<end_of_turn>') == [special.END_OF_TURN] == [106]
  assert tokenizer.encode('\n') == [107]
  assert tokenizer.encode('\n\n') == [108]
  assert tokenizer.encode('<start_of_image>') == [special.START_OF_IMAGE]
  assert tokenizer.encode('<end_of_image>') == [special.END_OF_IMAGE]
  assert tokenizer.encode('<unused17>') == [special.CUSTOM + 17]
  assert tokenizer.decode(special.CUSTOM + 17) == '<unused17>'
  names = ('PAD', 'EOS', 'BOS', 'UNK', 'MASK')
  assert [special[name] for name in names] == [0, 1, 2, 3, 4]
  assert 'START_OF_TURN=105' in repr(special)


def test_beginning_and_end(tokenizer):
  special = tokenizer.special_tokens
  ids = tokenizer.encode('hi', add_bos=True, add_eos=True)
  assert (ids[0], ids[-1]) == (special.BOS, special.EOS)
  assert tokenizer.decode(ids) == 'hi'
  assert [special.BOS, *tokenizer.encode('hi')] == ids[:-1]


def test_decode_takes_ids_and_arrays(tokenizer):
  ids = tokenizer.encode('hello')
  for array in (np.array(ids), jnp.array(ids), np.array(ids, np.int64)):
    assert tokenizer.decode(array) == 'hello'
    assert tokenizer.decode(array[0]) == tokenizer.decode(ids[0])
  tag = tokenizer.decode(tokenizer.special_tokens.START_OF_TURN)
  assert tag == '<start_of_turn>'
  assert tokenizer.decode([]) == ''


@pytest.mark.parametrize('ids, message', [
  ([[1, 2]], 'Array must be 0 or 1 dimensional'),
  ([1.5], 'Token ids are integers, and not float64'),
  ([5, 2048], 'Token id 2048 is not in the vocabulary: ids are 0 to 2047'),
  (-1, 'Token id -1 is not in the vocabulary'),
])  # fmt: skip
def test_ids_that_are_none(tokenizer, ids, message):
  with pytest.raises(ValueError, match=message):
    tokenizer.decode(ids)


def test_pieces(tokenizer):
  assert len(tokenizer.tokens) == tokenizer.vocab_size
  pieces = tokenizer.split('the king')
  assert pieces == [tokenizer.tokens[i] for i in tokenizer.encode('the king')]
  assert ''.join(pieces) == 'the king'
  assert tokenizer.encode(pieces) == tokenizer.encode('the king')
  with pytest.raises(ValueError, match="'the king of' is an unknown token"):
    tokenizer.encode(['the king of'])


# Generations.


@pytest.mark.parametrize('version, kind, forbidden', [
  (2, gm.text.Gemma2Tokenizer, ()),
  (3, gm.text.Gemma3Tokenizer, (255999, 256000)),
  ('3n', gm.text.Gemma3nTokenizer, (255999, 256000)),
  ('3-tiny', gm.text.Gemma3TinyTokenizer, (110, 111)),
])  # fmt: skip
def test_versions(version, kind, forbidden):
  tokenizer = gm.text.Tokenizer.from_version(version)
  assert type(tokenizer) is kind
  assert tokenizer.VERSION == version
  assert tokenizer.FORBIDDEN_TOKENS == forbidden
  assert (tokenizer.FORMAT, tokenizer.FORMAT_TO_CONVERT) == ('gemma3', None)


def test_version_that_is_none():
  with pytest.raises(
    ValueError, match="Unsupported tokenizer version: 9.*'3n', 4, '3-tiny'"
  ):
    gm.text.Tokenizer.from_version(9)


def test_special_tokens_of_generations():
  special = {
    version: gm.text.Tokenizer.from_version(version).special_tokens
    for version in (2, 3, '3n', '3-tiny')
  }
  for version in (3, '3n'):
    assert special[version].IMAGE_PLACEHOLDER == 255999
    assert special[version].IMAGE_PLACEHOLDER is special[version].START_OF_IMAGE
    assert special[version].END_OF_IMAGE == 256000
    assert special[version].BEGIN_OF_TOOL_RESPONSE == 50
    assert special[version].BEGIN_OF_TOOL_RESPONSE == special[3].CUSTOM + 44
  assert 'BEGIN_OF_TOOL_RESPONSE' not in special[2].__members__
  assert (special[2].CUSTOM, special[2].START_OF_TURN) == (7, 106)


def test_file_tells_the_generation(tmp_path, tokenizer):
  """Gemma 3n is told by what it calls 256000; a small table stands for it."""
  model = _model_proto.Model.FromString(tokenizer.model_proto)
  model.pieces[110].piece = '<my_image>'
  model.pieces[111].piece = '<start_of_audio>'
  for i in range(len(model.pieces), 256001):
    model.pieces.add(piece=f'<more{i}>', score=-i)
  model.pieces[255999].piece = '<start_of_image>'
  for tag, kind in (
    ('<end_of_image>', gm.text.Gemma3Tokenizer),
    ('<start_of_audio>', gm.text.Gemma3nTokenizer),
  ):
    model.pieces[111].piece = '<my_image_end>'
    model.pieces[256000].piece = tag
    path = tmp_path / f'{kind.__name__}.model'
    path.write_bytes(model.SerializeToString())
    assert type(gm.text.Tokenizer.from_path(path)) is kind
  model.pieces[255999].piece = '<other>'
  path.with_name('other.model').write_bytes(model.SerializeToString())
  with pytest.raises(ValueError, match='not the vocabulary of a known Gemma'):
    gm.text.Tokenizer.from_path(path.with_name('other.model'))


# Custom tokens.


def test_custom_tokens():
  tokenizer = gm.text.Gemma3TinyTokenizer(
    custom_tokens={0: '<a>', 17: 'my tag'}
  )
  special = tokenizer.special_tokens
  assert tokenizer.encode('my tag') == [special.CUSTOM + 17]
  assert tokenizer.encode(['my tag']) == [special.CUSTOM + 17]
  assert tokenizer.decode(special.CUSTOM + 17) == 'my tag'
  assert tokenizer.decode(special.CUSTOM) == '<a>'
  assert tokenizer.encode('<unused17>') != [special.CUSTOM + 17]


@pytest.mark.parametrize('custom, message', [
  ({99: '<c>'}, 'custom_tokens has key 99, but unused tokens are 0 to 98'),
  ({-1: '<c>'}, 'custom_tokens has key -1'),
  ({3: ''}, r'custom_tokens\[3\] is empty'),
  ({3: '\n'}, r"<unused3> cannot be called '\\n': token 107 has that text"),
  ({3: '<c>', 4: '<c>'}, "<unused4> cannot be called '<c>': token 9 has"),
])  # fmt: skip
def test_custom_tokens_that_cannot_be(custom, message):
  with pytest.raises(ValueError, match=message):
    gm.text.Gemma3TinyTokenizer(custom_tokens=custom).encode('x')


def test_custom_tokens_of_another_vocabulary():
  tokenizer = gm.text.Gemma2Tokenizer(
    gm.text.Gemma3TinyTokenizer().path, custom_tokens={0: '<a>'}
  )
  with pytest.raises(ValueError, match="Token 7 is '<unused1>' and not '<unu"):
    tokenizer.encode('x')
  tokenizer = gm.text.Tokenizer(tokenizer.path, custom_tokens={0: '<a>'})
  with pytest.raises(ValueError, match='SpecialTokens has no unused tokens'):
    tokenizer.encode('x')


def test_pickles_compares_and_hashes(tokenizer):
  custom = gm.text.Gemma3TinyTokenizer(custom_tokens={0: '<a>'})
  for one in (tokenizer, custom):
    one.encode('opened')
    copy = pickle.loads(pickle.dumps(one))
    assert copy == one
    assert copy.encode('<a>') == one.encode('<a>')
    assert hash(copy) == hash(one)
    assert len({copy, one}) == 1
  assert custom != tokenizer
  assert gm.text.Gemma3Tokenizer('x') != gm.text.Gemma2Tokenizer('x')


# Pictures.


def test_plot_of_logits(tokenizer):
  pytest.importorskip('plotly')
  logits = np.linspace(-5, 5, tokenizer.vocab_size, dtype=np.float32)
  logits[[107, 300]] = 9, 8
  for given in (logits, logits[None], jnp.asarray(logits, jnp.bfloat16)):
    figure = tokenizer.plot_logits(given, keep_top=3)
    bars = figure.data[0]
    assert list(bars.x[:2]) == [repr('\n'), repr(tokenizer.tokens[300])]
    assert len(bars.x) == len(bars.y) == 3
    whole = np.exp(np.asarray(given, np.float64))
    assert bars.y[0] == pytest.approx(whole.max() / whole.sum(), rel=1e-3)
    titles = (figure.layout.title, figure.layout.xaxis.title)
    assert [title.text for title in (*titles, figure.layout.yaxis.title)] == [
      'Probability Distribution of Tokens', 'Tokens', 'Probability'
    ]  # fmt: skip
  assert len(tokenizer.plot_logits(logits).data[0].x) == 30
  wide = np.append(logits, np.float32(20))
  assert '<id 2048>' in tokenizer.plot_logits(wide).data[0].x[0]


@pytest.mark.parametrize('shape', [(2, 2048), (1, 1, 2048), (), (0,)])
def test_plot_of_several_positions(tokenizer, shape):
  with pytest.raises(ValueError, match=r'must be \[V\] or \[1, V\]'):
    tokenizer.plot_logits(np.zeros(shape))


def test_plot_without_plotly(tokenizer, monkeypatch):
  monkeypatch.setitem(sys.modules, 'plotly', None)
  with pytest.raises(ImportError, match=r'pip install "gemma\[notebook\]"'):
    tokenizer.plot_logits(np.zeros(2048))
  with pytest.raises(ValueError, match='keep_top is 0'):
    tokenizer.plot_logits(np.zeros(2048), keep_top=0)
