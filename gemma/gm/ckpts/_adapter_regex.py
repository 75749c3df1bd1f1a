"""Regular expressions of adapter folders, matched in bounded time.

A regular expression of others may backtrack forever, and only a process can be
stopped: run as a script, this file matches what it reads from stdin.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import json
import pathlib
import re
import subprocess
import sys

SECONDS = 3
_LONGEST = 10_000  # Characters; published patterns have a few hundred.
_REPEAT = re.compile(r'[*+?{]')
_REPEATED_GROUP = re.compile(r'\)[*+?{]')


def match(
  pattern: str, names: Sequence[str], *, whole: bool = False
) -> list[str | None]:
  """Matches names from their start, as `re.match` does.

  Args:
    pattern: A regular expression.
    names: Names of modules.
    whole: Whether a match ends where the name ends, as of `re.fullmatch`.

  Returns:
    For each name the group `idx` of the match, empty if there is no such group;
    None if the name does not match.
  """
  compiled = re.compile(pattern)
  find = compiled.fullmatch if whole else compiled.match
  matches = map(find, names)
  return [m and (m.groupdict().get('idx') or '') for m in matches]


def match_in_time(
  patterns: Mapping[str, str],
  names: Sequence[str],
  *,
  where: str,
  whole: bool = False,
) -> dict[str, list[str | None]]:
  """`match` of several patterns, in another process if they may take long.

  Args:
    patterns: What was given, and the regular expression that is made of it.
    names: See `match`.
    where: Where they are from, for errors.
    whole: See `match`.

  Returns:
    What `match` returns, by what was given.

  Raises:
    ValueError: If it takes longer than `SECONDS`.
  """
  made = [*patterns.values()]
  slow = [own for own in patterns if not _is_quick(own)]
  found: list[list[str | None]] | None
  if not names or not slow:
    found = [match(pattern, names, whole=whole) for pattern in made]
  else:
    found = _match_apart(made, names, whole)
  if found is None:
    raise ValueError(
      f'{where}: {slow[0]!r} needs more than {SECONDS} s to match {len(names)} '
      'names of modules. Write it without repeats inside of repeats.'
    )
  return dict(zip(patterns, found, strict=True))


def _match_apart(
  patterns: Sequence[str], names: Sequence[str], whole: bool
) -> list[list[str | None]] | None:
  """`match` of each pattern in another process; None if that was stopped."""
  script = [sys.executable, '-I', '-S', str(pathlib.Path(__file__))]
  try:
    run = subprocess.run(
      script,
      input=json.dumps([patterns, list(names), whole]),
      capture_output=True,
      check=True,
      text=True,
      timeout=SECONDS,
    )
  except subprocess.TimeoutExpired:
    return None
  return json.loads(run.stdout)


def problem_of(pattern: str) -> str | None:
  """Why a pattern cannot be used; None if it can."""
  if len(pattern) > _LONGEST:
    return f'is longer than {_LONGEST} characters'
  try:
    re.compile(pattern)
  except (re.error, RecursionError, OverflowError) as e:
    return f'is no regular expression ({e})'
  return None


def _is_quick(pattern: str) -> bool:
  """Whether few ways to match a name of a module have to be tried."""
  few = len(_REPEAT.findall(pattern)) <= 3 and pattern.count('(') <= 2
  return few and not _REPEATED_GROUP.search(pattern)


if __name__ == '__main__':
  given, modules, to_the_end = json.load(sys.stdin)
  results = [match(pattern, modules, whole=to_the_end) for pattern in given]
  json.dump(results, sys.stdout)
