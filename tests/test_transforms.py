"""What a trainer calls to fill its state."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from gemma import gm
from trees import CASE
from trees import change
from trees import equal
from trees import zeros

# What a trainer calls.


@dataclasses.dataclass(frozen=True)
class State:
  """A training state, as transforms see it."""

  params: dict
  step: int = 0

  def replace(self, **changes):
    return dataclasses.replace(self, **changes)


def test_load_checkpoint(tmp_path):
  gm.ckpts.save_params(CASE.params, tmp_path / 'm', layout='FLAT')
  state = State(zeros(CASE.params), step=7)
  transform = gm.ckpts.LoadCheckpoint(tmp_path / 'm')
  new = transform.transform(state)
  equal(new.params, CASE.params)
  assert new.step == 7
  assert all(x.is_deleted() for x in jax.tree.leaves(state.params))
  assert transform.transform_after_optimizer(new) is new


def test_skip_lora(tmp_path):
  gm.ckpts.save_params(CASE.params, tmp_path / 'm')
  given = zeros(CASE.params)
  adapters = {'lora': {'a': jnp.ones((3, 2)), 'b': jnp.ones((2, 3))}}
  given['layer_0']['attn']['q_einsum']['_LoRAEinsum_0'] = adapters
  given['layer_1']['mlp']['_LoRAEinsum_linear'] = adapters
  given['layer_2']['empty'] = {}
  transform = gm.ckpts.SkipLoRA(wrapped=gm.ckpts.LoadCheckpoint(tmp_path / 'm'))
  new = transform.transform(State(given)).params
  assert jax.tree.structure(new) == jax.tree.structure(given)
  assert new['layer_1']['mlp'].pop('_LoRAEinsum_linear') == adapters
  assert new['layer_0']['attn']['q_einsum'].pop('_LoRAEinsum_0') == adapters
  assert new['layer_2'].pop('empty') == {}
  equal(new, CASE.params)
  state = State(new)
  assert transform.transform_after_optimizer(state) is state


def test_anchored_policy(tmp_path):
  gm.ckpts.save_params(CASE.params, tmp_path / 'p')
  other = jax.tree.map(lambda x: x + 1, CASE.params)
  gm.ckpts.save_params(other, tmp_path / 'a')
  policy = gm.ckpts.LoadCheckpoint(tmp_path / 'p')

  def state():
    return State({'policy': zeros(CASE.params), 'anchor': zeros(CASE.params)})

  both = gm.ckpts.AnchoredPolicyLoader(policy=policy).transform(state()).params
  equal(both['policy'], CASE.params)
  equal(both['anchor'], CASE.params)
  jax.tree.map(lambda x: x.delete(), both['policy'])
  equal(both['anchor'], CASE.params)  # A copy, not the same arrays.

  anchor = gm.ckpts.LoadCheckpoint(tmp_path / 'a')
  loader = gm.ckpts.AnchoredPolicyLoader(policy=policy, anchor=anchor)
  both = loader.transform(state()).params
  equal(both['policy'], CASE.params)
  equal(both['anchor'], other)


def test_anchored_policy_errors(tmp_path):
  gm.ckpts.save_params(CASE.params, tmp_path / 'm')
  loader = gm.ckpts.AnchoredPolicyLoader(
    policy=gm.ckpts.LoadCheckpoint(tmp_path / 'm')
  )
  with pytest.raises(ValueError, match="under \\['a'\\], not under"):
    loader.transform(State({'a': {}}))
  given = {
    'policy': zeros(CASE.params),
    'anchor': change(**{'final_norm/scale': None}),
  }
  with pytest.raises(ValueError, match="copy .*'final_norm/scale'"):
    loader.transform(State(given))
  assert not any(x.is_deleted() for x in jax.tree.leaves(given))
