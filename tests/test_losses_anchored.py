"""Two models beside each other."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from gemma import gm

CASE = cases.NAMED['gemma1_mqa']
OTHER = jax.tree.map(lambda x: 1.2 * x, CASE.params)
BOTH = {'policy': CASE.params, 'anchor': OTHER}


@dataclasses.dataclass(frozen=True)
class State:
  """A training state, as loaders see it."""

  params: dict

  def replace(self, **changes):
    return dataclasses.replace(self, **changes)


def shapes(model, tokens):
  init = jax.eval_shape(model.init, jax.random.key(0), tokens)
  return jax.tree.map(lambda x: (x.shape, x.dtype), init['params'])


@pytest.mark.parametrize('lora', [False, True])
def test_params(lora):
  """Those of the policy twice, by default of its own kind."""
  tokens = jnp.asarray(CASE.tokens(1, 4))
  policy = CASE.model
  if lora:
    policy = gm.nn.LoRA(rank=2, model=policy, dtype=jnp.float32)
  expected = shapes(policy, tokens)
  got = shapes(gm.nn.AnchoredPolicy(policy=policy), tokens)
  assert got == {'policy': expected, 'anchor': expected}
  got = shapes(gm.nn.AnchoredPolicy(policy=policy, anchor=CASE.model), tokens)
  assert got == {'policy': expected, 'anchor': shapes(CASE.model, tokens)}


def test_both_get_the_same():
  tokens = jnp.asarray(CASE.tokens(2, 6)).reshape(1, 2, 6)
  model = gm.nn.AnchoredPolicy(policy=CASE.model)
  out = model.apply({'params': BOTH}, tokens, return_hidden_states=True)
  assert isinstance(out, gm.nn.AnchoredPolicyOutput)
  for got, params in ((out.policy, CASE.params), (out.anchor, OTHER)):
    expected = CASE.model.apply(
      {'params': params}, tokens, return_hidden_states=True
    )
    np.testing.assert_array_equal(got.logits, expected.logits)
    np.testing.assert_array_equal(got.hidden_states, expected.hidden_states)
  assert (out.policy.logits != out.anchor.logits).any()


def test_the_anchor_has_no_gradient():
  tokens = jnp.asarray(CASE.tokens(2, 7)).reshape(1, 2, 7)
  model = gm.nn.AnchoredPolicy(policy=CASE.model)
  loss = gm.losses.DpoLoss()

  def value(params):
    out = model.apply({'params': params}, tokens[..., :-1])
    return loss(
      tokens=tokens[..., 1:],
      sequence_mask=jnp.ones(tokens[..., 1:].shape, bool),
      policy_logits=out.policy.logits,
      anchor_logits=out.anchor.logits,
    )

  grads = jax.jit(jax.grad(value))(BOTH)
  assert not any(x.any() for x in jax.tree.leaves(grads['anchor']))
  assert any(x.any() for x in jax.tree.leaves(grads['policy']))


def test_what_it_says_of_itself():
  policy = gm.nn.Gemma3_1B(tokens='batch.tokens')
  model = gm.nn.AnchoredPolicy(policy=policy)
  assert model.config == policy.config and model.INFO == policy.INFO
  assert model.__kontext_keys__() == policy.__kontext_keys__()
  assert model.__kontext_keys__()['tokens'] == 'batch.tokens'


@pytest.mark.slow
def test_loaded_and_sampled(tmp_path):
  """From a checkpoint to both, and from the policy to a sampler."""
  case = cases.GEMMA3
  gm.ckpts.save_params(case.params, tmp_path / 'm')
  loader = gm.ckpts.AnchoredPolicyLoader(
    policy=gm.ckpts.LoadCheckpoint(tmp_path / 'm')
  )
  model = gm.nn.AnchoredPolicy(policy=case.model)
  tokens = jnp.asarray(case.tokens(1, 4))
  params = model.init(jax.random.key(0), tokens)['params']
  params = loader.transform(State(params)).params
  out = model.apply({'params': params}, tokens)
  np.testing.assert_array_equal(out.policy.logits, out.anchor.logits)
  np.testing.assert_array_equal(out.policy.logits, case.apply(tokens).logits)
  sampler = dataclasses.replace(case.sampler(), params=params['policy'])
  prompt = case.prompts(5)
  got = sampler.sample(prompt, max_new_tokens=3, return_state=True)
  expected = case.sampler().sample(prompt, max_new_tokens=3, return_state=True)
  assert got.text == expected.text
