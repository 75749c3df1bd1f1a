"""Strict settings for every test, made before the library is imported."""

import ctypes
import os
import pathlib
import sys

_ROOT = pathlib.Path(__file__).parents[1]
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Several devices, and programs that compile fast rather than run fast; flags of
# yours are kept.
os.environ['XLA_FLAGS'] = (
  '--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0 '
  + os.environ.get('XLA_FLAGS', '')
)
# Of its own for each worker: JAX takes no lock to read or write them.
_WORKER = os.environ.get('PYTEST_XDIST_WORKER', 'alone')
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR', str(_ROOT / '.jax_cache' / _WORKER)
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.2')
os.environ.setdefault('HF_HUB_OFFLINE', '1')

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

# Helpers, some of which need torch.
collect_ignore = ['hf.py', 'make_golden.py']

# Shape types of the library are checked on every call.
jaxtyping.install_import_hook('gemma', 'shape_checker.check')

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_default_matmul_precision', 'highest')


def pytest_collection_modifyitems(items):
  """Of the tests that run on every tiny model, most are slow."""
  import cases

  for item in items:
    callspec = getattr(item, 'callspec', None)
    case = callspec.params.get('case') if callspec else None
    if isinstance(case, cases.Case) and case.name not in cases.FAST:
      item.add_marker('slow')


@pytest.fixture(scope='module', autouse=True)
def _forget_programs():
  """Compiled programs hold memory maps, of which a process may have 65,530.

  What compilers used goes back to the system: two thirds of all memory.
  """
  yield
  jax.clear_caches()
  if sys.platform == 'linux':
    ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(autouse=True)
def _trainers_put_anything_into_trees(request):
  """Shapes, shardings, names: types that no field of a tree has."""
  used = request.node.get_closest_marker('kauldron') is not None
  jaxtyping.config.update('jaxtyping_disable', used)
  yield
  jaxtyping.config.update('jaxtyping_disable', False)


@pytest.fixture(scope='session')
def tiny():
  """The bundled model, its weights and its tokenizer."""
  from gemma import gm

  return gm.from_pretrained(gm.ckpts.CheckpointPath.GEMMA3_TINY_IT)


@pytest.fixture(scope='session')
def wide(tiny):
  """The bundled model in float32, as keywords of a sampler."""
  params = jax.tree.map(lambda x: x.astype(jnp.float32), tiny.params)
  return {'model': tiny.model, 'params': params, 'tokenizer': tiny.tokenizer}
