"""What the page about data shows runs as it stands."""

import pathlib
import re

PAGE = pathlib.Path(__file__).parents[1] / 'docs' / 'data.md'


def test_page_runs():
  blocks = re.findall(
    r'^```python\n(.*?)^```', PAGE.read_text(), re.DOTALL | re.MULTILINE
  )
  assert len(blocks) >= 5
  exec(compile('\n'.join(blocks), PAGE.name, 'exec'), {'__name__': 'page'})
