"""The state of a run, for the tests of its checkpoints and their processes."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax

DTYPES = (
  'bfloat16', 'float16', 'float32', 'int8', 'uint32', 'bool', 'complex64',
  'int4', 'uint4', 'int2', 'float8_e4m3fn', 'float8_e5m2', 'float4_e2m1fn',
)  # fmt: skip


def sharding(shape, names, spec):
  devices = np.array(jax.devices()[: np.prod(shape)]).reshape(shape)
  return NamedSharding(Mesh(devices, tuple(names)), P(*spec))


def sharded(seed, wide, keys):
  """A state whose weights are split as `wide`, and its keys as `keys`."""
  rng = np.random.default_rng(seed)
  weights = rng.normal(size=(16, 24)).astype(np.float32)
  nibbles = rng.integers(-8, 8, (16, 24)).astype('int4')
  params = {
    'w': jax.device_put(weights, wide),
    'half': jax.device_put(weights.astype('bfloat16'), wide),
    'nibbles': jax.device_put(nibbles, wide),
  }
  adam = optax.adam(1e-3).init({'w': params['w']})
  random = jax.device_put(jax.random.split(jax.random.key(seed), 16), keys)
  return {'params': params, 'opt_state': adam, 'keys': random}


def everything():
  """Every kind of leaf and node."""
  params = {'w': jnp.arange(6.0).reshape(2, 3), 'empty': {}}
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.masked(optax.adam(1e-3), {'w': True, 'empty': {}}),
    optax.MultiSteps(optax.sgd(0.1, momentum=0.9), 2),
  )
  return {
    'params': params,
    'opt_state': optimizer.init(params),
    'dtypes': {name: jnp.arange(8).astype(name) for name in DTYPES},
    'key': jax.random.key(1),
    'keys': jax.random.split(jax.random.key(2, impl='rbg'), 3),
    'legacy': jax.random.PRNGKey(3),
    'none': None,
    'void': (),
    'no_rows': jnp.zeros((0, 3)),
    'python': [3, -(2**70), 2.5, float('inf'), True, 'text', b'\0\xff'],
    'numpy': [np.arange(3.0), np.float64(1.5), np.array(7), np.zeros((0, 2))],
    'weak': [jnp.asarray(2.0), jnp.full((3,), 4)],
    'same.name': jnp.ones(1),
    'same': {'name': jnp.zeros(1)},
  }


def bits(x):
  """The bytes of a leaf, and all that may differ beside them."""
  if not isinstance(x, jax.Array | np.ndarray | np.generic):
    return type(x), x
  about = (type(x), str(x.dtype), x.shape)
  if isinstance(x, jax.Array):
    about += (x.sharding, x.committed, x.aval.weak_type)
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      x = jax.random.key_data(x)
  return *about, np.asarray(x).tobytes()


def assert_same(a, b):
  """Every bit, and dtype, structure, kind, sharding, weak type."""
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert bits(x) == bits(y)
