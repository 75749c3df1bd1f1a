"""A small run of training, for a process that may be killed.

Usage: python run_training.py FOLDER KIND [KILL_AT WHEN]

KIND is `lora` or `full`. With KILL_AT, the process kills itself at that step:
`before` the step, `after` it, or `while` a checkpoint is written.
"""

import os
import pathlib
import signal
import sys

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import jax.numpy as jnp
import numpy as np

import cases
from gemma import gm
from gemma import peft

CASE = cases.NAMED['gemma2_by_head_dim']
STEPS, SAVE_EVERY = 7, 2


def batch(case, rows, length, seed=0):
  """Random tokens; of row i, i + 1 are in the loss, or more."""
  rng = np.random.default_rng(seed)
  tokens = rng.integers(1, 280, (rows, length + 1)).astype(np.int32)
  learned = np.arange(length) <= np.arange(rows)[:, None]
  return {
    'input': tokens[:, :-1],
    'target': tokens[:, 1:],
    'loss_mask': learned,
  }
