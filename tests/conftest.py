"""Strict settings for every test, made before the library is imported."""

import os
import pathlib

_ROOT = pathlib.Path(__file__).parents[1]
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Several devices, and programs that compile fast rather than run fast.
os.environ.setdefault(
  'XLA_FLAGS',
  '--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0',
)
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(_ROOT / '.jax_cache'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.2')
os.environ.setdefault('HF_HUB_OFFLINE', '1')

import jax
import jaxtyping
import pytest

# Helpers, some of which need torch.
collect_ignore = ['hf.py', 'make_golden.py']

# Shape types of the library are checked on every call.
jaxtyping.install_import_hook('gemma', 'shape_checker.check')

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_default_matmul_precision', 'highest')


@pytest.fixture(scope='session')
def tiny():
  """The bundled model, its weights and its tokenizer."""
  from gemma import gm

  return gm.from_pretrained(gm.ckpts.CheckpointPath.GEMMA3_TINY_IT)
