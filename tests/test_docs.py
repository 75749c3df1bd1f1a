"""What the documents show runs as it stands."""

import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
NOTEBOOKS = sorted((ROOT / 'colabs').glob('*.ipynb'))


def run_page(path, folder):
  """Runs all Python of a page in order, as one program that writes there."""
  blocks = re.findall(
    r'^```python\n(.*?)^```', path.read_text(), re.DOTALL | re.MULTILINE
  )
  assert len(blocks) >= 4
  code = '\n'.join(blocks).replace('/tmp/mine', str(folder / 'mine'))
  exec(compile(code, path.name, 'exec'), {'__name__': path.stem})


@pytest.mark.slow
def test_readme_runs(tmp_path):
  run_page(PAGES[0], tmp_path)
  assert (tmp_path / 'mine' / 'config.json').exists()


@pytest.mark.slow
def test_training_page_runs(tmp_path):
  run_page(ROOT / 'docs' / 'training.md', tmp_path)
  for name in ('run/curves.svg', 'adapter', 'model/config.json'):
    assert (tmp_path / 'mine' / name).exists()


@pytest.mark.slow
def test_scale_page_runs(tmp_path):
  run_page(ROOT / 'docs' / 'scale.md', tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs(path):
  """All code cells in order."""
  cells = json.loads(path.read_text())['cells']
  space = {'__name__': 'notebook'}
  for i, cell in enumerate(c for c in cells if c['cell_type'] == 'code'):
    exec(compile(''.join(cell['source']), f'{path.name}[{i}]', 'exec'), space)


@pytest.mark.parametrize('path', PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
  for target in re.findall(r'\]\(([^)#:]+)\)', path.read_text()):
    assert (path.parent / target).exists(), target
