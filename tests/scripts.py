"""Runs examples and benchmarks in the process of the tests."""

import contextlib
import importlib.util
import io
import pathlib
import subprocess
import sys

import jaxtyping

ROOT = pathlib.Path(__file__).parents[1]


def load(script):
  """The module of a script, which finds the modules beside it."""
  path = ROOT / script
  if str(path.parent) not in sys.path:
    sys.path.append(str(path.parent))  # Behind the modules of the tests.
  if path.parent.name == 'examples':  # They import each other.
    return importlib.import_module(path.stem)
  name = f'{path.parent.name}_{path.stem}'
  if name not in sys.modules:
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
  return sys.modules[name]


def run(script, *args):
  """Output of `python SCRIPT ARGS`."""
  with unchecked(), contextlib.redirect_stdout(io.StringIO()) as out:
    load(script).main([*map(str, args)])
  return out.getvalue()


def run_apart(script, *args):
  """Output of a script in a process of its own."""
  command = [sys.executable, str(ROOT / script), *map(str, args)]
  out = subprocess.run(command, capture_output=True, text=True, check=False)
  assert out.returncode == 0, out.stdout + out.stderr
  return out.stdout


@contextlib.contextmanager
def unchecked():
  """Leaves shape types unchecked: ahead of time, trees hold other types."""
  jaxtyping.config.update('jaxtyping_disable', True)
  try:
    yield
  finally:
    jaxtyping.config.update('jaxtyping_disable', False)
