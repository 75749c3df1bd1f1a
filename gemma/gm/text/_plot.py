"""A picture of what a model expects next."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def plot_logits(logits: Any, tokens: Sequence[str], *, keep_top: int) -> Any:
  """Bars of the most probable tokens; see `Tokenizer.plot_logits`."""
  logits = np.asarray(logits).astype(np.float32)  # bfloat16 has no sorting.
  if not logits.size or logits.shape not in ((logits.size,), (1, logits.size)):
    raise ValueError(
      f'logits have shape {logits.shape}, but must be [V] or [1, V]. Give '
      'those of one position, such as logits[0, -1].'
    )
  if keep_top < 1:
    raise ValueError(f'keep_top is {keep_top}, but must be at least 1.')
  logits = logits.reshape(-1)
  top = np.argsort(-logits, kind='stable')[:keep_top]
  labels = [_label(int(token), tokens) for token in top]
  return _bars(labels, _softmax(logits)[top])


def _softmax(logits: np.ndarray) -> np.ndarray:
  weights = np.exp(logits - logits.max())
  return weights / weights.sum()


def _label(token: int, tokens: Sequence[str]) -> str:
  """The text of a token; tables of models have rows beyond the vocabulary."""
  return repr(tokens[token] if token < len(tokens) else f'<id {token}>')


def _bars(labels: list[str], probabilities: np.ndarray) -> Any:
  try:
    from plotly import graph_objects
  except ImportError as e:
    raise ImportError(
      'plot_logits needs plotly: pip install "gemma[notebook]".'
    ) from e
  return graph_objects.Figure(
    data=graph_objects.Bar(x=labels, y=probabilities),
    layout={
      'title': 'Probability Distribution of Tokens',
      'xaxis': {'title': 'Tokens', 'type': 'category'},
      'yaxis': {'title': 'Probability'},
    },
  )
