"""Samplers over several devices give what one device gives."""

import dataclasses

import jax
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import pytest

from gemma import gm

PROMPTS = ['ROMEO:', 'A', 'To be, or', 'What is the matter?']


@pytest.fixture(scope='module')
def sampler(wide):
  return gm.text.Sampler(
    **wide,
    cache_length=64,
    max_out_length=16,
    pad_length=16,
    max_batch_size=4,
  )


@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit])
@pytest.mark.slow
def test_batch_over_devices(sampler, kind):
  """On meshes of both kinds; also a second turn, and prompts in line."""
  mesh = jax.make_mesh((4,), ('devices',), axis_types=(kind,))
  rows = NamedSharding(mesh, PartitionSpec('devices'))
  everywhere = NamedSharding(mesh, PartitionSpec())
  spread = dataclasses.replace(
    sampler, params=jax.device_put(sampler.params, everywhere)
  )
  alone = sampler.sample(PROMPTS, return_state=True)
  out = spread.sample(PROMPTS, sharding=rows, return_state=True)
  assert out.text == alone.text
  assert len(out.state.cache['layer_0']['k'].sharding.device_set) == 4
  more = {'last_state': alone.state}
  expected = sampler.sample(['x'] * 4, **more)
  again = {'last_state': out.state, 'sharding': lambda tree: rows}
  assert spread.sample(['x'] * 4, **again) == expected
  many = PROMPTS * 2
  assert spread.sample(many, sharding=rows) == sampler.sample(many)
  assert spread.sample('A', sharding=everywhere) == alone.text[1]


def test_rows_that_do_not_divide(sampler):
  kind = jax.sharding.AxisType.Explicit
  mesh = jax.make_mesh((4,), ('devices',), axis_types=(kind,))
  rows = NamedSharding(mesh, PartitionSpec('devices'))
  with pytest.raises(ValueError, match='do not divide'):
    sampler.sample(PROMPTS[:3], sharding=rows)
