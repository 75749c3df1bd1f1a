"""Logits that are NaN or infinite end their row, and say so."""

import dataclasses
import math

import jax.numpy as jnp
import pytest

import cases
from gemma import gm

# An input of its own for each token, beside the table that makes logits.
CASE = cases.NAMED['gemma4_per_layer']
PROMPT = CASE.prompts(9)[0]
METHODS = {
  'greedy': gm.text.Greedy(),
  'random': gm.text.RandomSampling(),
  'top-k': gm.text.TopkSampling(k=3),
  'top-p': gm.text.TopPSampling(p=0.5),
  'min-p': gm.text.MinP(p=0.5),
}


def sampler_with(name, change, **fields):
  """A sampler with one table of the model changed."""
  embedder = CASE.params['embedder']
  embedder = {**embedder, name: change(embedder[name])}
  sampler = CASE.sampler(**fields)
  return dataclasses.replace(
    sampler, params={**CASE.params, 'embedder': embedder}
  )


def unspeakable(token, value=math.nan):
  """Spoils the logit of one token, for rows that do not have it."""
  return sampler_with('input_embedding', lambda x: x.at[token].set(value))


def unheard(token, **fields):
  """Spoils all logits behind one token."""
  return sampler_with(
    'per_layer_embeddings', lambda x: x.at[token].set(jnp.nan), **fields
  )


@pytest.fixture(scope='module')
def answer():
  return CASE.sampler().sample(PROMPT, return_state=True).token_ids


@pytest.mark.parametrize('name', METHODS)
def test_one_logit_is_nan(name):
  """Filters do not hide it."""
  other = next(i for i in range(200, 299) if i not in PROMPT)
  fields = {'sampling': METHODS[name], 'rng': 0, 'return_state': True}
  out = unspeakable(other).sample(PROMPT, **fields)
  assert (out.finish_reason, out.token_ids, out.text) == ('nan', [], '')
  assert out.state.contexts() == [PROMPT]


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize('name', ['greedy', 'random'])
def test_all_logits_are_not_finite(name, value):
  sampler = sampler_with('input_embedding', lambda x: x * value)
  out = sampler.sample(PROMPT, sampling=METHODS[name], return_state=True)
  assert (out.finish_reason, out.token_ids) == ('nan', [])


@pytest.mark.parametrize('draft', [None, gm.text.PromptLookup(num_tokens=3)])
def test_within_an_answer(answer, draft):
  """Tokens before it are the same: whole, in a stream, and with guesses."""
  place = next(i for i, t in enumerate(answer) if i > 2 and t not in PROMPT)
  place = answer.index(answer[place])
  sampler = unheard(answer[place], draft=draft)
  out = sampler.sample(PROMPT, return_state=True)
  assert out.finish_reason == 'nan'
  assert out.token_ids == answer[: place + 1]
  assert out.state.contexts() == [PROMPT + out.token_ids]
  *pieces, last = sampler.sample(PROMPT, stream=True, return_state=True)
  assert last.finish_reason == 'nan'
  assert [t for p in pieces for t in p.token_ids] == out.token_ids
  # Where a sampler goes on from it, it still says so.
  more = sampler.sample([5], last_state=out.state, return_state=True)
  assert (more.finish_reason, more.token_ids) == ('nan', [])


def test_other_rows_go_on(answer):
  """Also where another prompt takes the slot of one that ended."""
  rows = [PROMPT, [*PROMPT, 250], PROMPT]
  sampler = unheard(250, max_batch_size=2)
  out = sampler.sample(rows, return_state=True, progress=False)
  assert out.finish_reason == ['length', 'nan', 'length']
  assert out.token_ids == [answer, [], answer]


@dataclasses.dataclass(frozen=True)
class Own(gm.text.SamplingMethod):
  """A method of a user's own: the likeliest token, or one beyond the table."""

  def get_next_tokens(self, logits, rng):
    best = jnp.argmax(logits, axis=-1)
    return jnp.where(jnp.isneginf(logits[5]), 300, best)


def test_method_and_mask_of_a_user(answer):
  """A mask that leaves something does not turn NaN into an end."""
  fields = {'return_state': True, 'logits_mask': all_but_5, 'sampling': Own()}
  out = unheard(PROMPT[-1]).sample(PROMPT, **fields)
  assert (out.finish_reason, out.token_ids) == ('nan', [])
  out = CASE.sampler().sample(PROMPT, **fields)
  assert (out.finish_reason, out.token_ids) == ('nan', [])
  fields['sampling'] = gm.text.Greedy()
  out = unheard(PROMPT[-1]).sample(PROMPT, **fields)
  assert (out.finish_reason, out.token_ids) == ('nan', [])


def all_but_5(tokens, count):
  return jnp.arange(CASE.config.num_embed) != 5


def test_chat_goes_on_without_the_state(tiny):
  scale = tiny.params['final_norm']['scale'] * jnp.nan
  chat = gm.text.ChatSampler(
    model=tiny.model,
    params={**tiny.params, 'final_norm': {'scale': scale}},
    tokenizer=tiny.tokenizer,
    multi_turn=True,
  )
  assert chat.chat('Hi', max_new_tokens=3) == ''
  assert chat.finish_reason == 'nan'
  assert chat.last_state is None
  assert [m['content'] for m in chat.messages] == ['Hi', '']
