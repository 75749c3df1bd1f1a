"""A model of a user's own in samplers: a module around another one."""

from flax import linen as nn
import jax.numpy as jnp
import pytest

from gemma import gm


class Biased(nn.Module):
  """Adds a parameter to the logits of a model."""

  model: gm.nn.Transformer
  INFO = gm.nn.Gemma3_Tiny.INFO

  @property
  def config(self):
    return self.model.config

  @nn.compact
  def __call__(self, tokens, **kwargs):
    out = self.model(tokens, **kwargs)
    return out.replace(logits=self._biased(out.logits))

  @nn.compact
  def logits(self, hidden):
    return self._biased(self.model.logits(hidden))

  def _biased(self, logits):
    bias = self.param('bias', nn.initializers.zeros, logits.shape[-1:])
    return logits + jnp.broadcast_to(bias, logits.shape)

  def init_cache(self, **kwargs):
    return self.model.init_cache(**kwargs)


@pytest.fixture(scope='module')
def plain(wide):
  return {**wide, 'cache_length': 64, 'pad_length': 16, 'max_out_length': 8}


@pytest.fixture(scope='module')
def own(plain):
  """The same model as a module of one's own, that never says some token."""

  def fields(*banned):
    ids = jnp.arange(plain['model'].config.num_embed)
    bias = jnp.where(jnp.isin(ids, jnp.array(banned)), -1e9, 0)
    params = {'model': plain['params'], 'bias': bias}
    return {**plain, 'model': Biased(plain['model']), 'params': params}

  return fields


def test_what_is_like_a_transformer(own, plain):
  for model in (
    own()['model'],
    plain['model'],
    gm.nn.LoRA(rank=1, model=plain['model']),
  ):
    assert isinstance(model, gm.nn.TransformerLike)
  assert not isinstance(nn.Dense(1), gm.nn.TransformerLike)


def _sample(fields, **kwargs):
  return gm.text.Sampler(**fields, **kwargs).sample(
    ['To be', 'What is'], max_new_tokens=6, return_state=True
  )


def test_samplers_take_it(own, plain):
  expected = _sample(plain).token_ids
  assert _sample(own()).token_ids == expected
  guessed = _sample(own(), draft=gm.text.PromptLookup())
  assert guessed.token_ids == expected
  first = expected[0][0]
  answers = _sample(own(first)).token_ids
  assert all(answers)
  assert all(first not in answer for answer in answers)


def test_chats_and_scores_use_it(own, plain):
  texts = []
  for fields in (own(), plain):
    chat = gm.text.ChatSampler(**fields, multi_turn=True)
    texts.append([chat.chat(x, max_new_tokens=4) for x in ('Hello.', 'Why?')])
  assert texts[0] == texts[1]
  scores = [gm.text.Sampler(**x).score('To be') for x in (own(), plain)]
  assert scores[0] == scores[1]
