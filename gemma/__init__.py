"""Google's Gemma family of open models, in JAX.

```python
from gemma import gm

model, params, tokenizer = gm.from_pretrained('/path/to/gemma-3-1b-it')
```
"""

from typing import NoReturn

__version__ = '0.1.0'


def __getattr__(name: str) -> NoReturn:
  raise AttributeError(
    f'module `gemma` has no attribute {name!r}. The library is '
    f'`from gemma import gm`, then `gm.{name}`.'
  )
