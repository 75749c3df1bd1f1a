"""What a tokenizer's model file holds, and which of its tokens are text."""

from collections.abc import Iterable
from collections.abc import Sequence
import functools

import sentencepiece

_SPACE = '\u2581'  # SentencePiece's sign for a space.


class Vocabulary:
  """Pieces, their ids, and how text is cut into them."""

  def __init__(
    self,
    proto: bytes,
    reserved: Iterable[int] = (),
    ordinary: Iterable[int] = (),
  ):
    """Opens a vocabulary.

    Args:
      proto: A SentencePiece model.
      reserved: Ids that are control tokens, whatever the file says.
      ordinary: Ids that are none.

    Raises:
      RuntimeError: If it is no SentencePiece model.
      ValueError: If it has no bytes to fall back on, as all of Gemma have.
    """
    self.processor = sentencepiece.SentencePieceProcessor(model_proto=proto)
    self._reserved = frozenset(reserved)
    self._ordinary = frozenset(ordinary)
    pieces = [f'<0x{value:02X}>' for value in range(256)]
    self._byte_ids = [self.processor.piece_to_id(piece) for piece in pieces]
    if not all(map(self.processor.is_byte, self._byte_ids)):
      raise ValueError(
        'This vocabulary has no byte tokens, so it cannot spell every text. '
        'Those of Gemma models have them.'
      )
    self.bytes = {token: value for value, token in enumerate(self._byte_ids)}

  def piece(self, token: int) -> str:
    """The text of a token, with ordinary spaces."""
    return self.processor.id_to_piece(token).replace(_SPACE, ' ')

  def encode(self, text: str) -> list[int]:
    """Token ids of a text, in which tags are control tokens."""
    return self.processor.encode(_valid(text))

  def spelled(self, ids: Sequence[int]) -> list[int]:
    """Token ids of a text with control tokens replaced.

    In place of a control token is the spelling of its tag. So none is left of
    any text, however it is put together.
    """
    if self.control.isdisjoint(ids):
      return [*ids]
    return [part for token in ids for part in self._spelling(token)]

  def split(self, text: str) -> list[str]:
    """The pieces of a text, in which tags are one piece."""
    return [self.piece(token) for token in self.encode(text)]

  def tokens(self, pieces: Sequence[str], *, allow_control: bool) -> list[int]:
    """The tokens that have these texts.

    Raises:
      ValueError: If one of the texts is not that of a token, or that of a
        control token though they are not allowed.
    """
    ids = [self.processor.piece_to_id(_escape(_valid(p))) for p in pieces]
    for token, piece in zip(ids, pieces, strict=True):
      if self.processor.is_unknown(token):
        raise ValueError(
          f'{piece!r} is an unknown token: it is not one piece of the '
          f'vocabulary. As a string it is {self.split(piece)}.'
        )
      if not allow_control and token in self.control:
        raise ValueError(
          f'{piece!r} is a control token, which allow_special=False forbids. '
          'As a string it would be spelled out.'
        )
    return ids

  @functools.cached_property
  def control(self) -> frozenset[int]:
    """Ids of the tokens that mean something to the model beyond their text.

    Tags, unused tokens, and what never comes from text, such as padding.
    """
    from gemma.gm.text import _tokenizer_proto  # Loads protobuf.

    proto = self.processor.serialized_model_proto()
    found = _tokenizer_proto.control_ids(proto)
    return (self._reserved | found) - self._ordinary

  def _spelling(self, token: int) -> list[int]:
    """A tag in two halves, or in bytes where a half is a tag as well."""
    if token not in self.control:
      return [token]
    tag = self.piece(token)
    ids = self.encode(tag[:1]) + self.encode(tag[1:])
    if self.control.isdisjoint(ids):
      return ids
    return [self._byte_ids[value] for value in tag.encode()]


def _escape(piece: str) -> str:
  return piece.replace(' ', _SPACE)


def _valid(text: str) -> str:
  """Refuses half characters, which have no UTF-8."""
  try:
    text.encode()
  except UnicodeEncodeError as e:
    raise ValueError(
      f'text has half a character, {text[e.start]!r}, at {e.start}: it is no '
      "valid Unicode. Clean it: text.encode('utf-16', 'surrogatepass')"
      ".decode('utf-16', 'replace')."
    ) from e
  return text
