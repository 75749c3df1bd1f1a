"""Token by token back to text, without splitting a character."""

from gemma.gm.text import _tokenizer

_BROKEN = '\ufffd'  # What bytes that are no character yet decode to.


class Detokenizer:
  """Text of a growing sequence of tokens.

  A character outside of the vocabulary is several byte tokens. Text is held
  back while it may end inside of one, so the pieces joined together are the
  text of the whole sequence.
  """

  def __init__(self, tokenizer: _tokenizer.Tokenizer):
    """Starts with no tokens.

    Args:
      tokenizer: The vocabulary.
    """
    self._tokenizer = tokenizer
    self._held: list[int] = []

  def add(self, token: int) -> str:
    """The text that is certain after one more token; maybe empty."""
    self._held.append(token)
    text = self._tokenizer.decode(self._held)
    if text.endswith(_BROKEN):
      return ''
    self._held.clear()
    return text

  def flush(self) -> str:
    """What is still held back, at the end of the sequence."""
    text = self._tokenizer.decode(self._held) if self._held else ''
    self._held.clear()
    return text
