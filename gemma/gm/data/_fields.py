"""A prompt and a response as what a model is trained on."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from jaxtyping import Bool
from jaxtyping import Integer
import numpy as np

from gemma.gm.data import _arrays


@dataclasses.dataclass(frozen=True)
class Seq2SeqFields:
  """What a model is trained on, one value for each token that it sees.

  Attributes:
    input: The tokens.
    target: The token that comes after each.
    target_mask: Which targets are trained.
  """

  input: Integer[np.ndarray, 'L']
  target: Integer[np.ndarray, 'L']
  target_mask: Bool[np.ndarray, 'L']


def make_seq2seq_fields(prompt: Any, response: Any) -> Seq2SeqFields:
  """Tokens of a prompt and its response as input, target and mask.

  Only the response is trained: its first token is the target of the last token
  of the prompt.

  ```python
  >>> from gemma import gm
  >>> fields = gm.data.make_seq2seq_fields([10, 11, 12], [20, 1])
  >>> fields.input
  array([10, 11, 12, 20])
  >>> fields.target
  array([11, 12, 20,  1])
  >>> fields.target_mask
  array([False, False,  True,  True])

  ```

  Args:
    prompt: Token ids, a list or a 1-d array.
    response: Likewise; it may be empty.

  Returns:
    Arrays of one length: that of both together, less one.

  Raises:
    ValueError: If the prompt is empty, or they are not 1-d integers.
  """
  asked, answered = _ids('prompt', prompt), _ids('response', response)
  if not asked.size:
    raise ValueError(
      'The prompt is empty, so that nothing comes before the first token of '
      'the response. Begin it with the BOS token: encode(..., add_bos=True).'
    )
  if not answered.size:
    answered = answered.astype(asked.dtype)
  whole = np.concatenate([asked, answered])
  return fields_of(whole, np.arange(whole.size) >= asked.size)


def fields_of(
  ids: Sequence[int] | np.ndarray, trained: Sequence[bool] | np.ndarray
) -> Seq2SeqFields:
  """Input, target and mask of a sequence.

  Args:
    ids: Its tokens; at least one.
    trained: Which of them are trained.
  """
  tokens = _arrays.as_numpy(ids)
  return Seq2SeqFields(tokens[:-1], tokens[1:], np.array(trained, bool)[1:])


def _ids(name: str, value: Any) -> np.ndarray:
  ids = _arrays.as_numpy(value)
  if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
    raise ValueError(
      f'The {name} is {ids.dtype}{[*ids.shape]}, but has to be a 1-d list of '
      'token ids, without a batch.'
    )
  return ids
