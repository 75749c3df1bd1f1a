"""What the page on losses shows runs as it stands."""

import pathlib
import re

import pytest

PAGE = pathlib.Path(__file__).parents[1] / 'docs' / 'losses.md'


@pytest.mark.slow
def test_page_runs(capsys):
  """All Python of the page in order, as one program."""
  blocks = re.findall(
    r'^```python\n(.*?)^```', PAGE.read_text(), re.DOTALL | re.MULTILINE
  )
  assert len(blocks) == 4
  exec(compile('\n'.join(blocks), PAGE.name, 'exec'), {'__name__': 'page'})
  assert re.fullmatch(r'[\d.]+ [\d.]+\n', capsys.readouterr().out)
