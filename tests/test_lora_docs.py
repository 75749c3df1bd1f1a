"""The page on adapters runs as it stands."""

import pathlib
import re

import pytest

PAGE = pathlib.Path(__file__).parents[1] / 'docs' / 'adapters.md'


@pytest.mark.slow
def test_page_runs():
  """All Python of the page in order, as one program."""
  blocks = re.findall(r'^```python\n(.*?)^```', PAGE.read_text(), re.S | re.M)
  assert len(blocks) >= 6
  exec(compile('\n'.join(blocks), PAGE.name, 'exec'), {'__name__': 'page'})
