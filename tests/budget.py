"""Cost table at the end of a test run: programs and seconds, by file.

A test costs the programs that XLA compiles for it. JAX's monitoring
events give the counts. Workers of pytest-xdist send theirs with their reports.
"""

import collections
import dataclasses
import os
import time
from typing import ClassVar

import jax
import pytest

_COMPILE = '/jax/core/compile/backend_compile_duration'
_LOWER = (
  '/jax/core/compile/jaxpr_trace_duration',
  '/jax/core/compile/jaxpr_to_mlir_module_duration',
)
_HIT = '/jax/compilation_cache/cache_hits'


@dataclasses.dataclass
class Cost:
  """Counts and seconds of tests.

  Attributes:
    programs: Programs compiled, or read from the disk cache.
    hits: Programs read from the disk cache.
    compiling: Seconds in XLA, or reading its programs.
    lowering: Seconds tracing and lowering; a trace inside another counts twice.
    seconds: Seconds in all, with setup and teardown.
    tests: Number of tests.
  """

  programs: int = 0
  hits: int = 0
  compiling: float = 0.0
  lowering: float = 0.0
  seconds: float = 0.0
  tests: int = 0

  def __add__(self, other: 'Cost') -> 'Cost':
    mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
    return Cost(*(a + b for a, b in zip(mine, theirs, strict=True)))

  def __sub__(self, other: 'Cost') -> 'Cost':
    mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
    return Cost(*(a - b for a, b in zip(mine, theirs, strict=True)))


class _Meter:
  """Counts of this process."""

  total: ClassVar[Cost] = Cost()

  @classmethod
  def duration(cls, event: str, seconds: float, **_: object) -> None:
    if event == _COMPILE:
      cls.total += Cost(programs=1, compiling=seconds)
    elif event in _LOWER:
      cls.total += Cost(lowering=seconds)

  @classmethod
  def event(cls, event: str, **_: object) -> None:
    if event == _HIT:
      cls.total += Cost(hits=1)

  @classmethod
  def now(cls) -> Cost:
    return dataclasses.replace(cls.total, seconds=time.monotonic())


jax.monitoring.register_event_duration_secs_listener(_Meter.duration)
jax.monitoring.register_event_listener(_Meter.event)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem):
  """Measures a test with its fixtures."""
  item.stash[_BEFORE] = _Meter.now()
  return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
  """Attaches the cost to the last report of a test."""
  report = yield
  if report.when == 'teardown':
    cost = _Meter.now() - item.stash[_BEFORE]
    report.cost = dataclasses.astuple(dataclasses.replace(cost, tests=1))
  return report


_BEFORE = pytest.StashKey[Cost]()
_TESTS: dict[str, Cost] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
  """Collects costs, where all reports arrive."""
  if hasattr(report, 'cost'):
    _TESTS[report.nodeid] = Cost(*report.cost)


def pytest_terminal_summary(terminalreporter) -> None:
  """Prints the table, dearest file first."""
  files: dict[str, Cost] = collections.defaultdict(Cost)
  for nodeid, cost in _TESTS.items():
    files[nodeid.split('::', maxsplit=1)[0]] += cost
  files = {name: cost for name, cost in files.items() if cost.programs}
  write = terminalreporter.write_line
  write('')
  write('programs  cached  compiling s  tracing s  seconds  tests  file')
  total = sum(files.values(), Cost())
  rows = sorted(files.items(), key=lambda row: -row[1].programs)
  for name, cost in [*rows, ('in all', total)]:
    write(
      f'{cost.programs:8}  {cost.hits:6}  {cost.compiling:11.1f}  '
      f'{cost.lowering:9.1f}  {cost.seconds:7.1f}  {cost.tests:5}  {name}'
    )
  path = os.environ.get('TEST_COSTS')
  if path and 'PYTEST_XDIST_WORKER' not in os.environ:
    with open(path, 'a', encoding='utf-8') as file:
      for nodeid, cost in sorted(_TESTS.items()):
        file.write('\t'.join(map(str, dataclasses.astuple(cost))))
        file.write(f'\t{nodeid}\n')
