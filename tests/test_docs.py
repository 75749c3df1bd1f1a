"""What the documents show runs as it stands.

All of it in one process, because the pages have many programs in common.
"""

import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
NOTEBOOKS = sorted((ROOT / 'colabs').glob('*.ipynb'))
slow = pytest.mark.slow


@pytest.mark.parametrize(
  'page, count, written',
  [
    pytest.param('README.md', 5, ['config.json'], marks=slow),
    pytest.param(
      'docs/training.md',
      6,
      ['run/curves.svg', 'adapter', 'model/config.json'],
      marks=slow,
    ),
    pytest.param('docs/scale.md', 4, [], marks=slow),
    pytest.param('docs/adapters.md', 6, [], marks=slow),
    ('docs/data.md', 5, []),
  ],
)
def test_page_runs(page, count, written, tmp_path):
  run_page(page, count, tmp_path)
  for name in written:
    assert (tmp_path / 'mine' / name).exists()


@slow
def test_page_on_losses_runs(tmp_path, capsys):
  run_page('docs/losses.md', 4, tmp_path)
  assert re.fullmatch(r'[\d.]+ [\d.]+\n', capsys.readouterr().out)


def run_page(page, count, folder):
  """Runs all Python of a page in order, as one program that writes there."""
  blocks = re.findall(
    r'^```python\n(.*?)^```',
    (ROOT / page).read_text(),
    re.DOTALL | re.MULTILINE,
  )
  assert len(blocks) >= count
  code = '\n'.join(blocks).replace('/tmp/mine', str(folder / 'mine'))
  exec(compile(code, page, 'exec'), {'__name__': 'page'})


@slow
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
