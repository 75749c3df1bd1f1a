"""A text and its label, which the model says in one token."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from gemma.gm.data import _notes
from gemma.gm.data import _paths
from gemma.gm.data import _task
from gemma.gm.data import _text
from gemma.gm.data import _transform

Key = _transform.Key


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassificationTask(_task.Task):
  """A text, and its label as the one token that comes next.

  There are two ways to train on it. `label` goes with what a model gives for
  the last token (`return_last_only=True`); `target` and `loss_mask` are those
  of any other task, with the last token alone trained.

  ```python
  >>> from gemma import gm
  >>> task = gm.data.ClassificationTask(
  ...   labels={0: 'No', 1: 'A'},
  ...   template='Is this good English? {text} Answer:',
  ...   tokenizer=gm.text.Gemma3TinyTokenizer(),
  ...   max_length=32,
  ... )
  >>> row = task({'text': 'I is.', 'label': 0})
  >>> row['input'].shape
  (32,)
  >>> row['target'][row['loss_mask']] == row['label']
  array([ True])

  ```

  Attributes:
    in_text: The text; bytes are decoded.
    in_label: The label.
    labels: What the model says for each label: words of one token, in a list by
      their number, or in a dict. The word itself is a label too.
    template: The text with all that is around it, as in `FormatText`.
    chat: Whether the user says it, and the label is what the model answers;
      otherwise it stands alone.
    out_input: Key of the tokens, `int32[max_length]`.
    out_target: Key of the token after each, `int32[max_length]`.
    out_target_mask: Key of which are trained, `bool[max_length]`.
    out_label: Key of the label's token, `int32[1]`.
    tokenizer: The vocabulary.
    max_length: How long rows are; None leaves each its own length.
    truncate: Whether to shorten texts for which that is too short. The template
      stays whole.
    keep: Keys that go along as they are.
  """

  in_text: Key = 'text'
  in_label: Key = 'label'
  labels: Sequence[str] | Mapping[Any, str]
  template: str = '{text}'
  chat: bool = False
  out_input: Key = 'input'
  out_target: Key = 'target'
  out_target_mask: Key = 'loss_mask'
  out_label: Key = 'label'

  def __post_init__(self) -> None:
    if '{text}' not in self.template:
      raise ValueError(
        f'Template must contain {{text}}, where the text goes, and not be '
        f'{self.template!r}.'
      )

  @property
  def row_keys(self) -> _transform.RowKeys:
    """Where input, target and mask are."""
    return _transform.RowKeys(
      self.out_input, self.out_target, self.out_target_mask
    )

  def map(self, element: _paths.Element) -> dict[str, Any]:
    """The fields, the label, and what is kept.

    Args:
      element: The element.

    Raises:
      KeyError: If it has no text or label, or an unknown one.
      ValueError: If it is too long, or a label is not one token.
    """
    text = _text.text_of(
      _paths.read(element, self.in_text, self.name), self.name
    )
    label = self._token_of(_paths.read(element, self.in_label, self.name))
    ids = self._fitting(text)
    trained = [False] * len(ids) + [True]
    return self.kept(element) | self.row(
      [*ids, label], trained, **{self.out_label: np.array([label], np.int32)}
    )

  def _fitting(self, text: str) -> list[int]:
    """Tokens of the longest beginning of a text that is not too long."""
    ids = self._encode(text)
    limit = self.max_length
    if not self.truncate or limit is None or len(ids) <= limit:
      return ids
    _notes.truncated()
    low, high = 0, len(text)
    while low < high:
      middle = (low + high + 1) // 2
      fits = len(self._encode(text[:middle])) <= limit
      low, high = (middle, high) if fits else (low, middle - 1)
    ids = self._encode(text[:low])
    if len(ids) > limit:
      raise ValueError(
        f'The template of {self.name} has {len(ids)} tokens without a text, '
        f'more than max_length={limit}. Raise max_length.'
      )
    return ids

  def _encode(self, text: str) -> list[int]:
    whole = self.template.replace('{text}', text)
    if self.chat:
      return _text.prompt_ids(self.tokenizer, whole)
    return [self.tokenizer.special_tokens.BOS, *self.tokenizer.spell(whole)]

  def _token_of(self, label: Any) -> int:
    if isinstance(label, np.ndarray | np.generic):
      label = label.item()
    words: Mapping[Any, str] = (
      self.labels
      if isinstance(self.labels, Mapping)
      else dict(enumerate(self.labels))
    )
    if isinstance(label, bytes):
      label = label.decode()
    word = label if label in words.values() else words.get(label)
    if word is None:
      raise KeyError(
        f'Label {label!r} not found in labels={words}. Add it, or leave such '
        'examples out.'
      )
    ids = self.tokenizer.spell(word)
    if len(ids) != 1:
      raise ValueError(
        f'The label {word!r} is {len(ids)} tokens, {self.tokenizer.split(word)}'
        '. Take words of one token.'
      )
    return ids[0]
