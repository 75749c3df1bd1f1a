"""How the library is put together: layers, cycles, weight of the import."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# Rooms, from left to right: a room imports from those before it only.
ROOMS = (
  'math',
  'vision',
  'nn',
  'sharding',
  'ckpts',
  'text',
  'data',
  'losses',
  'training',
  'evals',
  '_pretrained',
)
HEAVY = (
  'tensorflow', 'kauldron', 'torch', 'pandas', 'transformers', 'matplotlib',
  'grain', 'pyarrow', 'orbax', 'llguidance', 'huggingface_hub',
)  # fmt: skip


def modules():
  for path in sorted((ROOT / 'gemma').rglob('*.py')):
    name = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
    yield name.removesuffix('.__init__'), path


def imports_of(path):
  """Modules of ours that a file imports, at its top or inside functions."""
  names = {name for name, _ in modules()}
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names if alias.name in names)
    elif isinstance(node, ast.ImportFrom):
      for alias in node.names:
        whole = f'{node.module}.{alias.name}'
        if whole in names:
          yield whole
        elif node.module in names:
          yield node.module


def room_of(name):
  parts = name.split('.')
  return parts[2] if len(parts) > 2 and parts[1] == 'gm' else None


@pytest.mark.parametrize('name, path', [*modules()], ids=lambda x: str(x)[-40:])
def test_rooms_import_leftwards(name, path):
  if path.name == '__init__.py' or room_of(name) not in ROOMS:
    return
  for other in imports_of(path):
    if room_of(other) in ROOMS:
      left, right = ROOMS.index(room_of(other)), ROOMS.index(room_of(name))
      assert left <= right, f'{name} imports {other}'
      assert room_of(name) != 'math' or room_of(other) == 'math'


def test_imports_have_no_cycle():
  graph = {
    name: set(imports_of(path)) - {name}
    for name, path in modules()
    if path.name != '__init__.py'
  }
  done, open_ = set(), []

  def visit(name):
    assert name not in open_, f'cycle: {open_[open_.index(name) :]}'
    if name not in done and name in graph:
      open_.append(name)
      for other in graph[name]:
        visit(other)
      open_.pop()
      done.add(name)

  for name in graph:
    visit(name)


def loaded_by(code):
  """Top-level packages that are loaded after some code ran on its own."""
  code += '; import sys; print(*sorted({m.split(".")[0] for m in sys.modules}))'
  out = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  return set(out.stdout.split())


def test_import_is_light():
  loaded = loaded_by(
    'from gemma import gm; gm.nn.Gemma3_4B; gm.text.ChatSampler; '
    'gm.text.Sampler; gm.ckpts.load_params; gm.from_pretrained; '
    'gm.data.Seq2SeqTask'
  )
  # Flax brings its own share; ours must add nothing heavy to it.
  assert not (loaded - loaded_by('import flax.linen')) & {*HEAVY}
  assert not loaded & {*HEAVY} - {'orbax'}


def test_names_are_those_of_the_modules_behind_the_door():
  """Every name of every room can be reached."""
  from gemma import gm

  # What is behind that of `evals` is made when Kauldron is there.
  doors = {name for name in ROOMS if not name.startswith('_')} - {'evals'}
  for room in (gm, *(getattr(gm, name) for name in sorted(doors))):
    for name in dir(room):
      if not name.startswith('_'):
        getattr(room, name)


def test_core_needs_no_extra():
  import tomllib

  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  for line in project['dependencies']:
    assert not any(name in line for name in HEAVY if name != 'orbax')


@pytest.mark.parametrize(
  'name', ['Attention', 'Block', 'FeedForward', 'Transformer', 'KVCache']
)
def test_one_class_for_all_generations(name):
  source = [file.read_text() for file in (ROOT / 'gemma').rglob('*.py')]
  assert sum(text.count(f'\nclass {name}(') for text in source) == 1
