"""What devices send each other, read from a compiled program."""

from collections.abc import Iterable
from collections.abc import Iterator
import dataclasses
import math
import re
from typing import Any

_KINDS = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
)
_BITS = re.compile(r'[a-z]+(\d+)')
_ARRAY = re.compile(r'\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]')
_START = re.compile(r'^(ENTRY )?%?([\w.\-]+) .*\{$')
_LINE = re.compile(
  r'^\s*(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<shape>\(.*?\)|\S+) '
  r'(?P<op>[\w\-]+)\((?P<operands>.*?)\)(?P<rest>.*)$'
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CALLED = re.compile(r'(?:body|calls|to_apply|condition)=%?([\w.\-]+)')
_GROUPS = re.compile(r'replica_groups=(?:\[\d+,(\d+)\]|\{\{([\d,]*)\})')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')


@dataclasses.dataclass(frozen=True)
class Collective:
  """An exchange between devices.

  Attributes:
    kind: `all-gather`, `all-reduce`, `reduce-scatter`, `all-to-all` or
      `collective-permute`. Compilers for CPUs spell the third as the second, of
      which each device takes its part; it is counted as what it is.
    nbytes: Bytes of what each device has afterwards, or had before if that is
      more.
    times: How often a run of the program does it: as often as its loops go
      around, where the compiler knows it.
    source: Where in the model it comes from.
  """

  kind: str
  nbytes: int
  times: int
  source: str


def collectives(compiled: Any) -> list[Collective]:
  """All that devices send each other in a compiled program.

  ```python
  >>> import jax, jax.numpy as jnp
  >>> from gemma import gm
  >>> compiled = jax.jit(lambda x: x + 1).lower(jnp.zeros(2)).compile()
  >>> gm.sharding.collectives(compiled)
  []

  ```

  Args:
    compiled: What `jax.jit(...).lower(...).compile()` returns.
  """
  program = _Program(compiled.as_text())
  return [*program.collectives(program.entry, 1)]


@dataclasses.dataclass(frozen=True)
class _Op:
  """An instruction."""

  name: str
  shape: str
  op: str
  operands: str
  rest: str

  @property
  def reads(self) -> list[str]:
    """Names of its operands."""
    return re.findall(r'%([\w.\-]+)', self.operands)


class _Program:
  """Instructions by computation."""

  def __init__(self, text: str):
    self._ops: dict[str, list[_Op]] = {}
    self.entry, current = '', ''
    for line in text.splitlines():
      if start := _START.match(line):
        current = start[2]
        self._ops[current] = []
        self.entry = current if start[1] else self.entry
      elif match := _LINE.match(line):
        self._ops.setdefault(current, []).append(_Op(**match.groupdict()))

  def collectives(self, computation: str, times: int) -> Iterator[Collective]:
    """Those of a computation that runs so often, and of all it calls."""
    ops = self._ops.get(computation, [])
    for op in ops:
      kind = op.op.removesuffix('-start')
      if kind in _KINDS:
        yield from self._of(op, kind, ops, times)
        continue
      trips = _TRIPS.search(op.rest)
      inner = times * (int(trips[1]) if trips else 1)
      if op.op in ('while', 'call', 'fusion', 'conditional', 'async-start'):
        for called in self._called(op):
          yield from self.collectives(called, inner)

  def _of(
    self, op: _Op, kind: str, ops: list[_Op], times: int
  ) -> Iterator[Collective]:
    """A collective, or all that a compiler has put together in one."""
    found = re.search(r'op_name="([^"]*)"', op.rest)
    source = found[1] if found else ''
    parts = [_nbytes(x) for x in _ARRAY.findall(op.shape)]
    if kind == 'reduce-scatter':
      parts = [nbytes * _group_size(op.rest) for nbytes in parts]
    if kind != 'all-reduce':
      yield Collective(kind, sum(parts), times, source)
      return
    for i, nbytes in enumerate(parts):
      sliced = self._is_sliced(op, i if len(parts) > 1 else None, ops)
      own = 'reduce-scatter' if sliced else kind
      yield Collective(own, nbytes, times, source)

  def _is_sliced(self, op: _Op, part: int | None, ops: list[_Op]) -> bool:
    """Whether all that reads a result takes a part of it."""
    name = op.name
    if part is not None:
      found = [
        x.name
        for x in ops
        if x.op == 'get-tuple-element'
        and x.reads == [name]
        and re.search(rf'index={part}\b', x.rest)
      ]
      if not found:
        return False
      name = found[0]
    readers = [x for x in ops if name in x.reads]
    return bool(readers) and all(self._slices(x, ops) for x in readers)

  def _slices(self, op: _Op, ops: list[_Op]) -> bool:
    if op.op in ('bitcast', 'copy', 'reshape', 'transpose', 'convert'):
      readers = [x for x in ops if op.name in x.reads]
      return bool(readers) and all(self._slices(x, ops) for x in readers)
    if op.op == 'fusion':
      inner = [x.op for name in self._called(op) for x in self._ops[name]]
      return 'dynamic-slice' in inner
    return op.op == 'dynamic-slice'

  def _called(self, op: _Op) -> Iterable[str]:
    names = _CALLED.findall(op.rest)
    if branches := _BRANCHES.search(op.rest):
      names += re.findall(r'%?([\w.\-]+)', branches[1])
    return dict.fromkeys(name for name in names if name in self._ops)


def _group_size(rest: str) -> int:
  """How many devices exchange something with each other."""
  found = _GROUPS.search(rest)
  if found is None:
    return 1
  return int(found[1]) if found[1] else found[2].count(',') + 1


def _bits(dtype: str) -> int:
  match = _BITS.match(dtype)
  return int(match[1]) if match else 8  # Of `pred`.


def _nbytes(array: tuple[str, str]) -> int:
  dtype, shape = array
  count = math.prod(int(n) for n in shape.split(',') if n)
  return max(1, _bits(dtype) * count // 8)
