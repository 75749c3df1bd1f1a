"""Text to token ids and back, over SentencePiece."""

from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import functools
import os
import pathlib
import re
from typing import Any
from typing import ClassVar
from typing import TypeAlias

import numpy as np
import sentencepiece

from gemma.gm.text import _special_tokens
from gemma.gm.text import _tokenizer_files

_SPACE = '\u2581'  # SentencePiece's sign for a space.

PathLike: TypeAlias = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """A vocabulary. Use the class of a generation, `from_version` or `from_path`.

  The model file is read on first use. A path on the web is looked up in the
  cache folder first: `$GEMMA_CACHE_DIR/tokenizer/`, by default `~/.gemma`.

  ```python
  >>> from gemma import gm
  >>> tokenizer = gm.text.Gemma3TinyTokenizer()
  >>> tokenizer.decode(tokenizer.encode('To be, or not to be'))
  'To be, or not to be'

  ```

  Attributes:
    path: A `tokenizer.model` (SentencePiece) or `tokenizer.json`.
    custom_tokens: New texts for unused tokens: `{0: '<my-tag>'}` makes
      `<unused0>` spell `<my-tag>`.
    special_tokens: Ids of control tokens, an enum class.
    FORBIDDEN_TOKENS: Ids that samplers never pick.
    VERSION: What `from_version` calls it.
  """

  path: PathLike
  custom_tokens: Mapping[int, str] = dataclasses.field(
    default_factory=dict, kw_only=True, hash=False
  )

  VERSION: ClassVar[int | str | None] = None
  FORBIDDEN_TOKENS: ClassVar[tuple[int, ...]] = ()
  special_tokens: ClassVar[Any] = _special_tokens.SpecialTokens

  @classmethod
  def from_version(cls, version: int | str) -> 'Tokenizer':
    """The tokenizer of a generation: 2, 3 or '3-tiny'.

    Gemma 1 has that of Gemma 2.
    """
    for kind in _KINDS:
      if kind.VERSION == version:
        return kind()
    raise ValueError(
      f'Unsupported tokenizer version: {version!r}. Known are '
      f'{[kind.VERSION for kind in _KINDS]}.'
    )

  @classmethod
  def from_path(cls, path: PathLike) -> 'Tokenizer':
    """The tokenizer of a file or folder, of the class that its ids tell.

    Args:
      path: `tokenizer.model`, `tokenizer.json`, or a folder with one of them.

    Raises:
      FileNotFoundError: If there is none.
      ValueError: If the vocabulary is not that of a Gemma model.
    """
    file = _tokenizer_files.find(pathlib.Path(path))
    for kind in _KINDS:
      tokenizer = kind(file)
      if tokenizer.has_own_ids():
        return tokenizer
    raise ValueError(
      f'{file} is not the vocabulary of a known Gemma model: its turn and '
      'image tags have other ids than those of '
      f'{[kind.__name__ for kind in _KINDS]}.'
    )

  def encode(
    self,
    text: str | list[str],
    *,
    add_bos: bool = False,
    add_eos: bool = False,
    allow_special: bool = True,
  ) -> list[int]:
    """Token ids of a text.

    Args:
      text: A string, or a list of pieces that are one token each.
      add_bos: Whether to begin with the beginning-of-sequence token.
      add_eos: Whether to end with the end-of-sequence token.
      allow_special: Whether tags such as `<start_of_turn>` in a string become
        control tokens. False spells them out as ordinary text: right for any
        text that is not one's own.

    Raises:
      ValueError: If a piece is not in the vocabulary.
    """
    if not isinstance(text, str):
      ids = [self._piece_id(piece) for piece in text]
    elif allow_special:
      ids = self._processor.encode(text)
    else:
      ids = self._processor.encode(self._without_tags(text))
      ids = [token for part in ids for token in part]
    if add_bos:
      ids = [self.special_tokens.BOS, *ids]
    if add_eos:
      ids = [*ids, self.special_tokens.EOS]
    return ids

  def decode(self, ids: Any) -> str:
    """Text of an id, a list of ids, or a 0-d or 1-d array.

    Padding, BOS and EOS vanish; other control tokens appear as their tag.
    """
    ids = np.asarray(ids)
    if ids.ndim > 1:
      raise ValueError(f'Array must be 0 or 1 dimensional, not {ids.shape}.')
    return self._processor.decode([int(i) for i in np.atleast_1d(ids)])

  def split(self, text: str) -> list[str]:
    """The pieces of a text."""
    pieces = self._processor.encode(text, out_type=str)
    return [piece.replace(_SPACE, ' ') for piece in pieces]

  @functools.cached_property
  def vocab_size(self) -> int:
    return self._processor.vocab_size()

  @functools.cached_property
  def tokens(self) -> list[str]:
    """All pieces, by id."""
    pieces = map(self._processor.id_to_piece, range(self.vocab_size))
    return [piece.replace(_SPACE, ' ') for piece in pieces]

  @property
  def model_proto(self) -> bytes:
    """The SentencePiece model: what a `tokenizer.model` holds."""
    return self._processor.serialized_model_proto()

  def has_own_ids(self) -> bool:
    """Whether the file has the class's control tokens at their ids."""
    return all(
      self._processor.piece_to_id(tag) == token
      for tag, token in self._tags().items()
    )

  def _tags(self) -> dict[str, int]:
    """Tags of this vocabulary, and their ids."""
    members = self.special_tokens.__members__
    tags = _special_tokens.TAGS.items()
    return {tag: members[name] for name, tag in tags if name in members}

  def __getstate__(self) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(self)]
    return {name: vars(self)[name] for name in names}

  @functools.cached_property
  def _processor(self) -> sentencepiece.SentencePieceProcessor:
    custom = tuple(sorted(self.custom_tokens.items()))
    first = self.special_tokens.CUSTOM if custom else 0
    return _tokenizer_files.load(os.fspath(self.path), custom, int(first))

  def _piece_id(self, piece: str) -> int:
    token = self._processor.piece_to_id(piece.replace(' ', _SPACE))
    if token == self.special_tokens.UNK:
      raise ValueError(
        f'{piece!r} is an unknown token: it is not one piece of the '
        f'vocabulary. As a string it is {self.split(piece)}.'
      )
    return token

  def _without_tags(self, text: str) -> list[str]:
    """Cuts every tag behind its first character, so that none is left."""
    either = '|'.join(map(re.escape, self._tags()))
    cuts = [match.start() + 1 for match in re.finditer(either, text)]
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]


@dataclasses.dataclass(frozen=True)
class Gemma2Tokenizer(Tokenizer):
  """The vocabulary of Gemma 1 and 2: 256,000 pieces."""

  path: PathLike = 'gs://gemma-data/tokenizers/tokenizer_gemma2.model'

  VERSION = 2
  special_tokens = _special_tokens.Gemma2Tokens


@dataclasses.dataclass(frozen=True)
class Gemma3Tokenizer(Tokenizer):
  """The vocabulary of Gemma 3: 262,144 pieces."""

  path: PathLike = 'gs://gemma-data/tokenizers/tokenizer_gemma3.model'

  VERSION = 3
  special_tokens = _special_tokens.Gemma3Tokens
  FORBIDDEN_TOKENS = (
    _special_tokens.Gemma3Tokens.START_OF_IMAGE,
    _special_tokens.Gemma3Tokens.END_OF_IMAGE,
  )


@dataclasses.dataclass(frozen=True)
class Gemma3TinyTokenizer(Tokenizer):
  """The vocabulary of the bundled model."""

  path: PathLike = _tokenizer_files.SHIPPED

  VERSION = '3-tiny'
  special_tokens = _special_tokens.Gemma3TinyTokens
  FORBIDDEN_TOKENS = (
    _special_tokens.Gemma3TinyTokens.START_OF_IMAGE,
    _special_tokens.Gemma3TinyTokens.END_OF_IMAGE,
  )


_KINDS: Iterable[type[Any]] = (
  Gemma2Tokenizer,
  Gemma3Tokenizer,
  Gemma3TinyTokenizer,
)
