"""Two processes with two devices each are one program."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).with_name('run_processes.py')
LIMIT = 600  # Seconds.
pytestmark = pytest.mark.slow


@pytest.fixture
def start():
  """Starts all processes of a program on four devices; none outlives a test."""
  with contextlib.ExitStack() as stack:

    def run(folder, count, *rest):
      with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
      # They compile longer than they run.
      flags = (
        f'--xla_force_host_platform_device_count={4 // count} '
        '--xla_backend_optimization_level=0'
      )
      env = {
        k: v for k, v in os.environ.items() if not k.startswith('JAX_COMP')
      }
      processes = [
        subprocess.Popen(
          [sys.executable, SCRIPT, *map(str, (port, count, i, folder, *rest))],
          env=env | {'XLA_FLAGS': flags},
          stdout=subprocess.PIPE,
          stderr=subprocess.PIPE,
          text=True,
        )
        for i in range(count)
      ]
      for process in processes:
        stack.enter_context(process)
        stack.callback(process.kill)
      return processes

    yield run


def results(processes):
  """What each process printed at its end."""
  out = []
  for process in processes:
    stdout, stderr = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, stderr[-3000:]
    out.append(json.loads(stdout.splitlines()[-1]))
  return out


def test_equal_one_process_and_survive_a_kill(start, tmp_path):
  (one,) = results(start(tmp_path / 'one', 1))
  whole = results(start(tmp_path / 'whole', 2))
  assert whole[0] == whole[1]
  assert whole[0]['text'] == one['text']
  assert ''.join(whole[0]['pieces']) == one['text'][0]
  both = ([float.fromhex(x) for x in run['losses']] for run in (one, whole[0]))
  np.testing.assert_allclose(*both, rtol=2e-3)  # Weights are bfloat16.

  first, last = start(tmp_path / 'killed', 2, 10, 'SIGKILL')
  last.communicate(timeout=LIMIT)
  assert last.returncode == -signal.SIGKILL
  first.kill()
  first.communicate()
  resumed, _ = results(start(tmp_path / 'killed', 2))
  assert resumed['text'] == whole[0]['text']
  # Those before the newest checkpoint are read from a table.
  assert resumed['losses'][8:] == whole[0]['losses'][8:]


def test_save_and_end_when_one_is_told_to(start, tmp_path):
  processes = start(tmp_path, 2, 6, 'SIGTERM')
  for process in processes:
    _, stderr = process.communicate(timeout=LIMIT)
    assert process.returncode == 128 + signal.SIGTERM, stderr[-3000:]
  newest = max(os.listdir(tmp_path / 'checkpoints'))
  assert 'step_00000006' <= newest < 'step_00000020'
