"""What an anchor thinks of pairs of answers, computed once and kept.

Axes: *B any batch dims, P the two answers of a pair, L length.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import itertools
from typing import Any

import numpy as np

from gemma.gm.losses import _logprobs
from gemma.gm.nn import _lora

_FIELDS = ('tokens', 'targets', 'mask')


def with_anchor_logprobs(
  model: _lora.Model,
  params: _logprobs.Params,
  examples: Iterable[Mapping[str, Any]],
  *,
  batch_size: int = 8,
) -> list[dict[str, Any]]:
  """Pairs of answers with the log-probabilities that an anchor gives them.

  After this the anchor can be let go: a training step holds one model, and
  makes one forward pass. Do it before anything random is done to the pairs.

  ```python
  >>> import numpy as np
  >>> from gemma import gm
  >>> tiny = gm.from_pretrained(gm.ckpts.CheckpointPath.GEMMA3_TINY_IT)
  >>> pair = {name: np.full((2, 6), 300) for name in ('tokens', 'targets')}
  >>> pair['mask'] = np.ones((2, 6), bool)
  >>> (new,) = gm.losses.with_anchor_logprobs(tiny.model, tiny.params, [pair])
  >>> new['anchor_logprobs'].shape
  (2,)

  ```

  Args:
    model: The anchor.
    params: Its parameters, those that the policy starts from.
    examples: Pairs with `tokens`, `targets` and `mask`, `[2, L]`, or batches
      of them, `[B, 2, L]`.
    batch_size: How many pairs to look at together. Batches are taken as they
      are.

  Returns:
    The same, each with `anchor_logprobs`, `f32[2]` or `f32[B, 2]`.

  Raises:
    ValueError: If an example lacks something, or shapes disagree.
  """
  if batch_size < 1:
    raise ValueError(f'batch_size={batch_size} is not positive.')
  found = []
  for shape, alike in itertools.groupby(examples, _shape):
    for group in _groups(alike, batch_size if len(shape) == 2 else 1):
      # Filled up, so that there is one program for each shape of an example.
      full = [*group, *group[-1:] * batch_size][:batch_size]
      rows = full if len(shape) == 2 else group
      fields = (np.stack([row[name] for row in rows]) for name in _FIELDS)
      logprobs = np.asarray(_logprobs.token_logprobs(model, params, *fields))
      found += [
        {**example, 'anchor_logprobs': new}
        for example, new in zip(group, logprobs, strict=False)
      ]
  return found


def _shape(example: Mapping[str, Any]) -> tuple[int, ...]:
  """Shape of the tokens of an example that has all it needs."""
  if missing := [name for name in _FIELDS if name not in example]:
    raise ValueError(f'An example has {sorted(example)}, but no {missing}.')
  shape = np.shape(example['tokens'])
  if len(shape) < 2 or shape[-2] != 2:
    raise ValueError(
      f'`tokens` has shape {shape}, not [2, L] or [B, 2, L]: the chosen answer '
      'and the rejected one.'
    )
  return shape


def _groups(
  items: Iterable[Mapping[str, Any]], size: int
) -> Iterator[list[Mapping[str, Any]]]:
  items = iter(items)
  while group := list(itertools.islice(items, size)):
    yield group
