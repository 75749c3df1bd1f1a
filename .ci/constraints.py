"""Writes constraints.txt: known-good versions for each supported Python.

Makes a fresh environment for each Python that is found, installs the newest
versions of everything that pyproject.toml allows, and merges what it got.
"""

import collections
import pathlib
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
# torch is pinned for the parity tests, which run on the first.
EXTRAS = {'3.11': 'dev,train', '3.12': 'test,train', '3.13': 'test'}


def main() -> None:
  """Resolves, merges, writes."""
  found = {}
  for version, extra in EXTRAS.items():
    python = _run(ROOT / '.ci/find-python', version).strip()
    found[version] = _freeze(python, extra)
  header = '# Known-good versions. Written by `make constraints`.\n'
  (ROOT / 'constraints.txt').write_text(header + _merge(found))


def _freeze(python: str, extra: str) -> dict[str, str]:
  """Package to version in a fresh environment."""
  with tempfile.TemporaryDirectory() as folder:
    _run(python, '-m', 'venv', folder)
    pip = pathlib.Path(folder) / 'bin' / 'pip'
    _run(pip, 'install', '--quiet', f'{ROOT}[{extra}]')
    lines = _run(pip, 'freeze', '--exclude', 'gemma').splitlines()
  pairs = [line.split('==') for line in lines if '==' in line]
  # A local build, such as torch's 2.13.0+cpu, is any build of the version.
  return {name: version.split('+')[0] for name, version in pairs}


def _merge(found: dict[str, dict[str, str]]) -> str:
  """One line per package, or one per Python where versions differ."""
  versions: dict[str, dict[str, str]] = collections.defaultdict(dict)
  for python, packages in found.items():
    for name, version in packages.items():
      versions[name][python] = version
  lines = []
  for name in sorted(versions, key=str.lower):
    if len({*versions[name].values()}) == 1:
      lines.append(f'{name}=={next(iter(versions[name].values()))}')
      continue
    lines += [
      f'{name}=={version} ; python_version == "{python}"'
      for python, version in versions[name].items()
    ]
  return '\n'.join(lines) + '\n'


def _run(*command: object) -> str:
  out = subprocess.run(
    list(map(str, command)), check=True, capture_output=True, text=True
  )
  return out.stdout


if __name__ == '__main__':
  main()
