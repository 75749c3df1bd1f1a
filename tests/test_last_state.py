"""What a call goes on from: states and parameters that are no longer good."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

import cases
from gemma import gm

CASE = cases.GEMMA3
PROMPT = CASE.prompts(9)[0]


def copied():
  return jax.tree.map(jnp.copy, CASE.params)


@pytest.fixture(scope='module')
def state():
  return CASE.sampler().sample(PROMPT, return_state=True).state


def test_earlier_state_of_a_stream():
  sampler = CASE.sampler()
  parts = [*sampler.sample(PROMPT, stream=True, return_state=True)]
  first, *_, last = parts
  with pytest.raises(ValueError, match='good until its next piece'):
    _ = first.state
  with pytest.raises(ValueError, match='good until its next piece'):
    sampler.sample([5], last_state=first.kept_state)
  assert sampler.sample([5], last_state=last.state) is not None


def delete(tree):
  for leaf in jax.tree.leaves(tree):
    leaf.delete()


@pytest.mark.parametrize(
  'call',
  [
    lambda s: s.sample(PROMPT),
    lambda s: s.sample(PROMPT, stream=True),
    lambda s: s.score([PROMPT]),
    lambda s: s.embed([PROMPT]),
    lambda s: dataclasses.replace(s, params=s.params).sample(PROMPT),
  ],
)
def test_parameters_that_were_given_away(call):
  """As to a training step that reuses their memory."""
  params = copied()
  sampler = dataclasses.replace(CASE.sampler(), params=params)
  sampler.sample(PROMPT, max_new_tokens=1)
  delete(params)
  with pytest.raises(ValueError, match=r'state\.params, or train a copy'):
    call(sampler)


@pytest.mark.parametrize('name', ['gemma1_mqa', 'gemma2_by_head_dim'])
def test_state_of_another_model(state, name):
  with pytest.raises(ValueError, match='last_state is of another model: layer'):
    cases.NAMED[name].sampler().sample(PROMPT, last_state=state)


def test_state_of_another_dtype(state):
  params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), CASE.params)
  sampler = dataclasses.replace(CASE.sampler(), params=params)
  with pytest.raises(ValueError, match=r'has float32\[.*bfloat16\['):
    sampler.sample(PROMPT, last_state=state)


def test_chat_begins_without_a_state(tiny, state):
  with pytest.raises(ValueError, match='begins without turns and last_state'):
    gm.text.ChatSampler(
      model=tiny.model,
      params=tiny.params,
      tokenizer=tiny.tokenizer,
      last_state=state,
    )
