"""Streams of tokens back to text."""

import numpy as np
import pytest

from gemma import gm
from gemma.gm.text import _detokenizer
from texts import TEXTS


@pytest.fixture(scope='module')
def tokenizer():
  return gm.text.Gemma3TinyTokenizer()


def stream(tokenizer, ids):
  """The pieces of a stream; more than three tokens are never held back."""
  detokenizer = _detokenizer.Detokenizer(tokenizer)
  for i, token in enumerate(ids):
    yield detokenizer.add(token)
    assert len(detokenizer._held) <= 3, ids[: i + 1]
  yield detokenizer.flush()


@pytest.mark.parametrize('text', [*TEXTS, 'ab🙂🙂c\ufffd', '\ufffd\ufffd東'])
def test_stream_of_pieces_is_the_text(tokenizer, text):
  assert ''.join(stream(tokenizer, tokenizer.encode(text))) == text


def test_stream_splits_no_character(tokenizer):
  pieces = [*stream(tokenizer, tokenizer.encode('東🙂 é'))]
  assert '\ufffd' not in ''.join(pieces)
  assert {'東', '🙂'} <= {*pieces}


def test_broken_bytes_are_not_held_back(tokenizer):
  byte = {tokenizer.byte_of(i): i for i in range(tokenizer.vocab_size)}
  ids = [byte[value] for value in b'\xff\xe6\x97\xf0\x9f\x99A\xc3']
  pieces = [*stream(tokenizer, ids)]
  broken = '\ufffd'
  assert pieces == [
    broken, '', '', broken * 2, '', '', broken * 3 + 'A', '', broken,
  ]  # fmt: skip


@pytest.mark.slow
def test_stream_of_any_tokens_is_their_text(tokenizer):
  """Random tokens, among them many bytes, tags, and what vanishes."""
  rng = np.random.RandomState(0)
  byte = [i for i in range(tokenizer.vocab_size) if tokenizer.byte_of(i)]
  high = [i for i in byte if tokenizer.byte_of(i) >= 0x80]
  characters = ('é', '東', '🙂', '\ufffd', '\ud7ff', '\U0010ffff')
  whole = [list(map(byte_id(tokenizer), c.encode())) for c in characters]
  for _ in range(10_000):
    ids = [*rng.randint(0, tokenizer.vocab_size, 2), *rng.choice(high, 2)]
    ids += [*rng.choice(byte, 1), *whole[rng.randint(len(whole))]]
    ids += [*rng.randint(0, 7, 1), *rng.choice(high, 3)]
    cut = rng.randint(len(ids))
    ids = [int(i) for i in (*ids[cut:], *ids[:cut])]
    assert ''.join(stream(tokenizer, ids)) == tokenizer.decode(ids), ids


def byte_id(tokenizer):
  ids = {tokenizer.byte_of(i): i for i in range(tokenizer.vocab_size)}
  return ids.__getitem__
