"""Token by token back to text, without splitting a character."""

from gemma.gm.text import _tokenizer


class Detokenizer:
  """Text of a growing sequence of tokens.

  A character outside of the vocabulary is several byte tokens. They are held
  back while they may still become a character, which is at most three of them.
  So the pieces joined together are the text of the whole sequence.

  ```python
  >>> from gemma import gm
  >>> from gemma.gm.text import _detokenizer
  >>> tokenizer = gm.text.Gemma3TinyTokenizer()
  >>> detokenizer = _detokenizer.Detokenizer(tokenizer)
  >>> [detokenizer.add(token) for token in tokenizer.encode('\U0001f642!')]
  ['', '', '', '🙂', '!']

  ```
  """

  def __init__(self, tokenizer: _tokenizer.Tokenizer):
    """Starts with no tokens.

    Args:
      tokenizer: The vocabulary.
    """
    self._tokenizer = tokenizer
    self._held: list[int] = []
    self._bytes = bytearray()  # Those that the held tokens stand for.

  def add(self, token: int) -> str:
    """The text that is certain after one more token; maybe empty."""
    value = self._tokenizer.byte_of(token)
    if value is None:
      return self.flush() + self._tokenizer.decode([token])
    self._held.append(token)
    self._bytes.append(value)
    text = ''
    while self._held and (size := self._certain()):
      text += self._tokenizer.decode(self._held[:size])
      del self._held[:size], self._bytes[:size]
    return text

  def flush(self) -> str:
    """What is still held back, at the end of the sequence."""
    text = self._tokenizer.decode(self._held)
    self._held.clear()
    self._bytes.clear()
    return text

  def _certain(self) -> int:
    """How many of the held bytes can be decoded now.

    None while they may still become a character, and all when they are one.
    Otherwise the first, which cannot be part of a character.
    """
    try:
      self._bytes.decode()
    except UnicodeDecodeError as e:
      unfinished = e.start == 0 and e.reason == 'unexpected end of data'
      return 0 if unfinished else 1
    return len(self._bytes)
