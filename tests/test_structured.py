"""Answers of a given form, and tokens that may not come, in a sampler."""

import dataclasses
import itertools
import json
import re

import jax.numpy as jnp
import pytest

import cases
from gemma import gm

RANDOM = gm.text.RandomSampling()
PROMPTS = ['ROMEO:', 'What is it?', 'A', 'Go on, my lord', 'Hm']
SCHEMA = gm.text.JsonSchema(
  {
    'type': 'object',
    'properties': {'ok': {'type': 'boolean'}, 'n': {'enum': [1, 22, 333]}},
    'required': ['ok', 'n'],
    'additionalProperties': False,
  },
  whitespace='',
)
DATE = gm.text.Regex(r'[12][0-9]{3}-[01][0-9]')


@pytest.fixture(scope='module')
def sampler(wide):
  return gm.text.Sampler(**wide, **cases.TEXT)


@pytest.mark.parametrize('schema', [SCHEMA, DATE], ids=['json', 'regex'])
@pytest.mark.slow
def test_one_batch_or_many_have_the_form(sampler, schema):
  """Each row on its own, and the same in a batch, a queue or a stream."""
  fields = {'schema': schema, 'sampling': RANDOM, 'rng': 0}
  out = sampler.sample(PROMPTS[:4], return_state=True, **fields)
  for text, reason in zip(out.text, out.finish_reason, strict=True):
    assert reason in ('stop', 'eos')
    if schema is DATE:
      assert re.fullmatch(DATE.pattern, text)
    else:
      value = json.loads(text)
      assert value['n'] in (1, 22, 333)
      assert value['ok'] in (True, False)
  assert len({*out.text}) > 1
  assert sampler.sample(PROMPTS[1], **fields) == out.text[1]
  assert (
    ''.join(sampler.sample(PROMPTS[1], stream=True, **fields)) == (out.text[1])
  )
  few = dataclasses.replace(sampler, max_batch_size=4)
  last = sampler.sample(PROMPTS[4], **fields)
  assert few.sample(PROMPTS, **fields) == [*out.text, last]


@pytest.mark.slow
def test_with_penalties_and_stop_tokens_of_ones_own(sampler):
  sampling = gm.text.Chain(RANDOM, gm.text.Penalties(frequency=2.0))
  digits = [sampler.codec.encode(d) for d in '56789']
  banned = [ids[0] for ids in digits if len(ids) == 1]
  strict = dataclasses.replace(sampler, forbidden_tokens=banned)
  texts = strict.sample(PROMPTS[:4], schema=DATE, sampling=sampling, rng=1)
  assert all(re.fullmatch(DATE.pattern, text) for text in texts)


def even(tokens, count):
  """Even ids after odd ones, odd ids after even ones.

  A row that begins with 300 is to end at its eighth token.
  """
  last = tokens[count - 1]
  other = jnp.arange(2048) % 2 != last % 2
  return other & ((tokens[1] != 300) | (count < 8))


@pytest.mark.slow
def test_mask_of_a_users_own(sampler):
  """It sees the tokens of its row, the newest last."""
  out = sampler.sample(
    PROMPTS[:4], logits_mask=even, sampling=RANDOM, rng=0, return_state=True
  )
  for prompt, row in zip(PROMPTS[:4], out.token_ids, strict=True):
    said = sampler.codec.encode(prompt, add_bos=True)[-1:] + row
    assert all((a + b) % 2 for a, b in itertools.pairwise(said))
  alone = sampler.sample(PROMPTS[2], logits_mask=even, sampling=RANDOM, rng=0)
  assert alone == out.text[2]


@pytest.mark.slow
def test_mask_that_leaves_nothing_ends_the_row(sampler):
  row = [2, 300, 301, 302, 303]
  out = sampler.sample(row, logits_mask=even, return_state=True)
  assert out.finish_reason == 'eos'
  assert len(out.token_ids) == 4


@pytest.mark.slow
def test_mask_with_guesses(sampler):
  """Guesses are checked against the mask, each at its own place."""
  draft = gm.text.PromptLookup(num_tokens=2, ngram=1)
  guessing = dataclasses.replace(sampler, draft=draft)
  prompt = 'to be or not to be'
  expected = sampler.sample(prompt, logits_mask=even)
  assert guessing.sample(prompt, logits_mask=even) == expected


def test_schema_that_leaves_nothing(sampler):
  only = gm.text.Regex('z')
  every = [i for i in range(2048) if 'z' in sampler.codec.decode(i)]
  byte = [i for i in range(2048) if sampler.codec.byte_of(i) == ord('z')]
  strict = dataclasses.replace(sampler, forbidden_tokens=[*every, *byte])
  with pytest.raises(ValueError, match='schema allows next are forbidden'):
    strict.sample('A', schema=only)


def test_what_does_not_go_together(sampler):
  draft = gm.text.PromptLookup()
  guessing = dataclasses.replace(sampler, draft=draft)
  with pytest.raises(ValueError, match='not with a schema. Leave one out'):
    guessing.sample('A', schema=DATE)

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Mine(gm.text.SamplingMethod):
    def get_next_tokens(self, logits, rng):
      return jnp.argmax(logits, axis=-1)

  with pytest.raises(ValueError, match='sampling methods of this library only'):
    guessing.sample('A', sampling=Mine())
  with pytest.raises(ValueError, match='found in the schema'):
    sampler.sample('A', schema={'type': 'nonsense'})
