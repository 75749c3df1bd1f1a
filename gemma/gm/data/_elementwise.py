"""Transforms of single values: text, tokens, labels."""

from collections.abc import Mapping
import dataclasses
import string
import textwrap
from typing import Any

import numpy as np

from gemma.gm.data import _arrays
from gemma.gm.data import _text
from gemma.gm.data import _transform
from gemma.gm.text import _tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeBytes(_transform.ElementWise):
  """Turns bytes into text. Text stays as it is.

  ```python
  >>> from gemma import gm
  >>> gm.data.DecodeBytes(key='text')({'text': b'Hi', 'label': 1})
  {'text': 'Hi', 'label': 1}

  ```

  Attributes:
    key: What to decode: bytes, arrays of one such, and lists of them.
    encoding: How it is encoded.
  """

  encoding: str = 'utf-8'

  def map_element(self, value: Any) -> Any:
    """The text, or a list of texts."""
    if isinstance(value, np.ndarray):
      value = value.tolist()
    if isinstance(value, list | tuple):
      return [self.map_element(item) for item in value]
    if isinstance(value, str):
      return str(value)
    if not isinstance(value, bytes):
      raise TypeError(
        f'{self.name} takes bytes, and not a {type(value).__name__}: '
        f'{value!r:.60}.'
      )
    return value.decode(self.encoding)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FormatText(_transform.ElementWise):
  r"""Puts a text into a template.

  ```python
  >>> from gemma import gm
  >>> template = '''
  ...   Is this good English? {text}
  ...   Answer: '''
  >>> gm.data.FormatText(key='text', template=template)({'text': 'I is.'})
  {'text': '\nIs this good English? I is.\nAnswer: '}

  ```

  Attributes:
    key: The text; bytes are decoded, and numbers written.
    template: A text with `{text}` in it, of which common indentation is taken
      off. Of a template with other braces in it, such as JSON, nothing but
      `{text}` is replaced. Otherwise it is a format string, in which `{{` is
      one brace.
  """

  template: str

  def __post_init__(self) -> None:
    if '{text}' not in self.template:
      raise ValueError(
        f'Template must contain {{text}}, where the text goes, and not be '
        f'{self.template!r}.'
      )

  def map_element(self, value: Any) -> str:
    """The template with the text in it."""
    template = textwrap.dedent(self.template)
    text = _text.text_of(value, self.name)
    if _is_format(template):
      return template.format(text=text)
    return template.replace('{text}', text)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokenize(_transform.ElementWise):
  """Turns text into token ids.

  ```python
  >>> from gemma import gm
  >>> tokenizer = gm.text.Gemma3TinyTokenizer()
  >>> tokenize = gm.data.Tokenize(key='text', tokenizer=tokenizer)
  >>> tokenize({'text': 'Hi'})['text'] == tokenizer.encode('Hi')
  True

  ```

  Attributes:
    key: The text; bytes are decoded.
    tokenizer: The vocabulary.
    add_eos: Whether to end with the end-of-sequence token.
    add_bos: Whether to begin with the beginning-of-sequence token.
    allow_special: Whether tags in the text become control tokens, as those of a
      template of yours should. False spells them out: right for any text that
      is not one's own.
  """

  tokenizer: _tokenizer.Tokenizer
  add_eos: bool = False
  add_bos: bool = False
  allow_special: bool = True

  def map_element(self, value: Any) -> list[int]:
    """The ids."""
    tokenizer, special = self.tokenizer, self.tokenizer.special_tokens
    if not isinstance(value, list):
      value = _text.text_of(value, self.name)
    ids = (tokenizer.encode if self.allow_special else tokenizer.spell)(value)
    begin = [special.BOS] if self.add_bos else []
    return [*begin, *ids, *([special.EOS] if self.add_eos else [])]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pad(_transform.ElementWise):
  """Pads sequences with zeros; see `gm.data.pad`.

  ```python
  >>> from gemma import gm
  >>> gm.data.Pad(key='ids', max_length=4)({'ids': [5, 6]})
  {'ids': array([5, 6, 0, 0])}

  ```

  Attributes:
    key: The sequences.
    max_length: Their length afterwards.
    truncate: Whether to cut what is longer.
  """

  max_length: int
  truncate: bool = False

  def map_element(self, value: Any) -> Any:
    """The sequence of that length."""
    return _arrays.pad(value, self.max_length, truncate=self.truncate)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MapInts(_transform.ElementWise):
  """Replaces integers, such as labels by the tokens that say them.

  ```python
  >>> from gemma import gm
  >>> mapping = gm.data.MapInts(key='label', old_to_new={0: 1294, 1: 3553})
  >>> mapping({'label': 1})
  {'label': 3553}

  ```

  Attributes:
    key: The integers: one, or a list or array of them.
    old_to_new: What becomes of each.
  """

  old_to_new: Mapping[int, int]

  def map_element(self, value: Any) -> Any:
    """The new integers: an array if there were several."""
    if isinstance(value, list | tuple) or np.ndim(value):
      array = _arrays.as_numpy(value)
      new = [self._new(item) for item in array.ravel().tolist()]
      return _arrays.as_numpy(new).reshape(array.shape)
    return self._new(np.asarray(value).item())

  def _new(self, old: Any) -> int:
    if old not in self.old_to_new:
      raise KeyError(
        f'Label {old!r} not found in `old_to_new`, which has '
        f'{[*self.old_to_new]}.'
      )
    return self.old_to_new[old]


def _is_format(template: str) -> bool:
  """Whether braces are those of a format string about one text."""
  try:
    fields = [name for _, name, _, _ in string.Formatter().parse(template)]
    template.format(text='')
  except (ValueError, KeyError, IndexError, AttributeError):
    return False
  return all(name in (None, 'text') for name in fields)
