"""Two processes with two devices each are one program."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

import run_processes

SCRIPT = pathlib.Path(run_processes.__file__)
LIMIT = 600  # Seconds.
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('processes')


@pytest.fixture(scope='module')
def ends(folder):
  """How each life of two processes ended; none outlives the tests."""
  flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=2'
  with subprocess.Popen(
    [sys.executable, SCRIPT, folder],
    env=os.environ | {'XLA_FLAGS': flags},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,  # A group, to end with all that it starts.
  ) as process:
    try:
      out, errors = process.communicate(timeout=LIMIT)
    finally:
      if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
  assert process.returncode == 0, errors[-3000:]
  found = json.loads(out.splitlines()[-1])
  assert found['whole']['codes'] == [0, 0], errors[-3000:]
  return found


def losses(end):
  return [float.fromhex(x) for x in end['losses']]


def test_equal_one_process(ends, tmp_path):
  one = run_processes.run(tmp_path / 'one', tmp_path / 'one.json')
  whole, other = ends['whole']['results']
  assert whole == other
  assert whole['text'] == whole['streamed'] == one['text']
  np.testing.assert_allclose(losses(one), losses(whole), rtol=1e-5)


def test_go_on_after_a_kill_and_save_when_one_is_told_to_end(ends, folder):
  """SIGKILL before a step, and in the next life SIGTERM before a later one."""
  assert ends['killed']['codes'] == [-signal.SIGKILL] * 2
  assert ends['told']['codes'] == [128 + signal.SIGTERM] * 2
  resumed, other = ends['told']['results']
  assert resumed == other
  done = len(resumed['losses'])
  assert run_processes.TOLD_AT <= done < run_processes.LONG
  newest = max(os.listdir(folder / 'run' / 'checkpoints'))
  assert newest == f'step_{done:08}'
  # Those before the newest checkpoint are read from a table.
  new = slice(run_processes.KILLED_AT - 1, run_processes.TOLD_AT)
  whole, _ = ends['whole']['results']
  assert resumed['losses'][new] == whole['losses'][new]
