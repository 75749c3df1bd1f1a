"""Strict settings for every test, made before the library is imported."""

import ctypes
import importlib.metadata
import os
import pathlib
import sys

import compile_cache

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Several devices, and programs that compile fast rather than run fast. Flags
# from outside come last and win.
_FLAGS = [
  '--xla_force_host_platform_device_count=4',
  '--xla_backend_optimization_level=0',
  # Small programs split for threads compile 15 to 20 % slower, and every core
  # has a worker.
  '--xla_cpu_parallel_codegen_split_count=1',
]
if importlib.metadata.version('jaxlib').startswith(('0.8.', '0.9.', '0.10.')):
  # The older emitters compile in 60 % of the time; newer versions lack them.
  _FLAGS.append('--xla_cpu_use_fusion_emitters=false')
os.environ['XLA_FLAGS'] = ' '.join([*_FLAGS, os.environ.get('XLA_FLAGS', '')])
_PROGRAMS = compile_cache.CompileCache(
  pathlib.Path(
    os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache',
    'gemma-tests',
  )
)
os.environ['JAX_COMPILATION_CACHE_DIR'] = str(_PROGRAMS.folder)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.2')
# These would make the folder's name a part of each program's key.
os.environ['JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES'] = 'none'
os.environ.setdefault('HF_HUB_OFFLINE', '1')

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

pytest_plugins = ['budget']
# Helpers, some of which need torch.
collect_ignore = ['hf.py', 'make_golden.py']

# Shape types of the library are checked on every call.
jaxtyping.install_import_hook('gemma', 'shape_checker.check')

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_default_matmul_precision', 'highest')

# Linux allows a process 65,530 memory maps, and compiled programs hold them.
_MAX_MAPS = 30_000


def pytest_collection_modifyitems(items):
  """Of the tests that run on every tiny model, most are slow."""
  import cases

  for item in items:
    callspec = getattr(item, 'callspec', None)
    case = callspec.params.get('case') if callspec else None
    if isinstance(case, cases.Case) and case.name not in cases.FAST:
      item.add_marker('slow')


def pytest_sessionfinish():
  """Keeps what was compiled for the next run."""
  _PROGRAMS.close()


@pytest.fixture(scope='module', autouse=True)
def _share_programs():
  """Programs live on into the next file, while memory maps last."""
  yield
  _PROGRAMS.sync()
  if sys.platform == 'linux':
    with open('/proc/self/maps', encoding='utf-8') as maps:
      if sum(1 for _ in maps) > _MAX_MAPS:
        jax.clear_caches()
    # What compilers used goes back to the system: two thirds of all memory.
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
