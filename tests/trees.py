"""Trees of parameters, and what tests of checkpoints ask of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore

import cases
from gemma.gm.ckpts import _tree

CASE = cases.GEMMA3
LAYOUTS = pytest.mark.parametrize('layout', ['NESTED', 'FLAT', 'STACKED'])
VISION = 'SigLiPFromPatches_0'
WIDE = 'mm_input_projection', 'mm_soft_embedding_norm'


def equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)
  assert jax.tree.leaves(dtypes(a)) == jax.tree.leaves(dtypes(b))


def dtypes(tree):
  return jax.tree.map(lambda x: x.dtype, tree)


def cast(tree, dtype):
  return jax.tree.map(lambda x: x.astype(dtype), tree)


def zeros(tree):
  return jax.tree.map(jnp.zeros_like, tree)


def over(count, *axes):
  """A sharding over some of the devices."""
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:count]), ('x',))
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))


def with_vision(side=256):
  """A text model, and a make-believe encoder whose arrays are the larger."""
  params = jax.tree.map(lambda x: x, CASE.params)
  rng = np.random.RandomState(0)
  big = rng.normal(size=(side, side)).astype(np.float32)
  params['vision_encoder'] = {'siglip_encoder': {'a': {'kernel': big}}}
  params['embedder'] |= {
    'mm_input_projection': {'w': jnp.asarray(big, jnp.bfloat16)},
    'mm_soft_embedding_norm': {'scale': jnp.ones(3, jnp.bfloat16)},
  }
  return jax.tree.map(jnp.asarray, params)


def text_of(params):
  out = {k: v for k, v in params.items() if k != 'vision_encoder'}
  embedder = out['embedder'].items()
  out['embedder'] = {k: v for k, v in embedder if k not in WIDE}
  return out


def change(**changes):
  """Zeros like the tiny model's, with some parameters changed or removed."""
  flat = _tree.flatten(zeros(CASE.params))
  for path, value in changes.items():
    if value is None:
      del flat[path]
    else:
      flat[path] = value
  return _tree.unflatten(flat)


def bytes_read():
  name = '/tensorstore/kvstore/file/bytes_read'
  found = tensorstore.experimental_collect_matching_metrics(name)
  return sum(value['value'] for metric in found for value in metric['values'])


def save_trainer(params, folder, opt_state=()):
  """A step as a trainer writes it: see `golden/checkpoints/trainer`."""
  import orbax.checkpoint as ocp

  state = {
    'params': params,
    'opt_state': opt_state,
    'step': np.asarray(3),
    'collections': {},
  }
  args = ocp.args.Composite(default=ocp.args.StandardSave(state))
  handler = ocp.CompositeCheckpointHandler()
  with ocp.Checkpointer(handler) as checkpointer:
    checkpointer.save(folder, args=args)
