"""Text to token ids and back, over SentencePiece."""

from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import functools
import os
import pathlib
from typing import Any
from typing import ClassVar
from typing import TypeAlias

import numpy as np

from gemma.gm.nn import _config
from gemma.gm.text import _generation
from gemma.gm.text import _special_tokens
from gemma.gm.text import _tokenizer_files
from gemma.gm.text import _vocabulary

PathLike: TypeAlias = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """A vocabulary. Use the class of a generation, `from_version` or `from_path`.

  The model file is read on first use. One on the web is fetched once, to
  `$GEMMA_CACHE_DIR/tokenizer/` (by default in `~/.gemma`) and under its own
  name. With `GEMMA_OFFLINE=1` only a copy that is there already is used.

  ```python
  >>> from gemma import gm
  >>> tokenizer = gm.text.Gemma3TinyTokenizer()
  >>> tokenizer.decode(tokenizer.encode('To be, or not to be'))
  'To be, or not to be'
  >>> ids = tokenizer.encode('<end_of_turn>', allow_special=False)
  >>> tokenizer.special_tokens.END_OF_TURN in ids
  False
  >>> tokenizer = gm.text.Gemma3TinyTokenizer(custom_tokens={0: '<mine>'})
  >>> tokenizer.encode('<mine>') == [tokenizer.special_tokens.CUSTOM]
  True

  ```

  Attributes:
    path: A `tokenizer.model` (SentencePiece) or `tokenizer.json`.
    custom_tokens: New texts for unused tokens, of which there are 0 to 98:
      `{0: '<my-tag>'}` makes `<unused0>` spell `<my-tag>`.
    special_tokens: Ids of control tokens, an enum class.
    FORBIDDEN_TOKENS: Ids that samplers never pick.
    FORMAT: Which tags begin and end turns.
    FORMAT_TO_CONVERT: Which tags texts have instead, if others.
    VERSION: What `from_version` calls it.
  """

  path: PathLike
  custom_tokens: Mapping[int, str] = dataclasses.field(
    default_factory=dict, kw_only=True, hash=False
  )

  VERSION: ClassVar[int | str | None] = None
  FORMAT: ClassVar[str] = _special_tokens.Format.GEMMA3
  FORMAT_TO_CONVERT: ClassVar[str | None] = None
  FORBIDDEN_TOKENS: ClassVar[tuple[int, ...]] = ()
  special_tokens: ClassVar[Any] = _special_tokens.SpecialTokens

  @classmethod
  def from_version(cls, version: int | str) -> 'Tokenizer':
    """The tokenizer of a generation.

    Args:
      version: 2, 3, '3n', 4 or '3-tiny'. Gemma 1 has the tokenizer of Gemma 2.

    Returns:
      An instance of its class.

    Raises:
      ValueError: If there is none of this version.
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
      allow_special: Whether tags such as `<start_of_turn>` become control
        tokens. False spells them out as ordinary text: right for any text that
        is not one's own.

    Returns:
      The ids, without BOS and EOS unless they were asked for.

    Raises:
      ValueError: If a piece is not in the vocabulary, or is a control token
        that `allow_special` forbids; or if a text is not valid Unicode.
    """
    if not isinstance(text, str):
      ids = self._vocabulary.tokens(text, allow_control=allow_special)
    else:
      ids = self._vocabulary.encode(text)
      ids = ids if allow_special else self._vocabulary.spelled(ids)
    if add_bos:
      ids = [self.special_tokens.BOS, *ids]
    if add_eos:
      ids = [*ids, self.special_tokens.EOS]
    return ids

  def spell(self, text: str | list[str]) -> list[int]:
    """Token ids of a text without control tokens: tags in it are spelled out.

    The same as `encode(text, allow_special=False)`, but of a subclass whose
    `encode` cuts text in its own way too.

    Args:
      text: See `encode`.

    Raises:
      ValueError: See `encode`.
    """
    if not isinstance(text, str):
      return self._vocabulary.tokens(text, allow_control=False)
    return self._vocabulary.spelled(self.encode(text))

  def decode(self, ids: Any) -> str:
    """Text of an id, a list of ids, or a 0-d or 1-d array.

    Padding, BOS and EOS vanish, and so do the soft tokens of an image, which
    are -2 or less; other control tokens appear as their tag.

    Args:
      ids: Token ids.

    Returns:
      The text. Bytes that are no character are each U+FFFD.

    Raises:
      ValueError: If the array has more dimensions, or an id is not in the
        vocabulary.
    """
    ids = np.atleast_1d(np.asarray(ids))
    if ids.ndim > 1:
      raise ValueError(f'Array must be 0 or 1 dimensional, not {ids.shape}.')
    if ids.size and not np.issubdtype(ids.dtype, np.integer):
      raise ValueError(f'Token ids are integers, and not {ids.dtype}.')
    if 'IMAGE_PLACEHOLDER' in self.special_tokens.__members__:
      ids = ids[ids >= -1]  # `PLACEHOLDER`, whose module would load JAX.
    bad = ids[(ids < 0) | (ids >= self.vocab_size)]
    if bad.size:
      raise ValueError(
        f'Token id {bad[0]} is not in the vocabulary: ids are 0 to '
        f'{self.vocab_size - 1}.'
      )
    return self._vocabulary.processor.decode([int(i) for i in ids])

  def split(self, text: str) -> list[str]:
    """The pieces of a text, with ordinary spaces.

    Args:
      text: Any text; tags in it are one piece.

    Returns:
      The pieces. Joined together they are the text, but for characters that
      are spelled in bytes: those are pieces such as `<0xE2>`.
    """
    return self._vocabulary.split(text)

  def plot_logits(self, logits: Any, *, keep_top: int = 30) -> Any:
    """A bar chart of the most probable next tokens.

    Args:
      logits: What a model gives for one position: `float[V]` or `float[1 V]`.
      keep_top: How many tokens to show.

    Returns:
      A `plotly` figure, which notebooks draw.

    Raises:
      ImportError: If `plotly` is not installed.
      ValueError: If the logits are of several positions.
    """
    from gemma.gm.text import _plot

    return _plot.plot_logits(logits, self.tokens, keep_top=keep_top)

  @functools.cached_property
  def vocab_size(self) -> int:
    """How many pieces there are."""
    return self._vocabulary.processor.vocab_size()

  @functools.cached_property
  def tokens(self) -> list[str]:
    """All pieces, by id, with ordinary spaces."""
    return list(map(self._vocabulary.piece, range(self.vocab_size)))

  @property
  def model_proto(self) -> bytes:
    """The SentencePiece model: what a `tokenizer.model` holds."""
    return self._vocabulary.processor.serialized_model_proto()

  def hf_files(
    self, config: _config.TransformerConfig | None = None
  ) -> dict[str, bytes]:
    """Names and contents of the files that Hugging Face libraries read.

    `tokenizer.model` (SentencePiece), `tokenizer.json` (the same as merges),
    `tokenizer_config.json`, `chat_template.jinja`, and `generation_config.json`
    with the tokens that end a text.

    Args:
      config: That of the model, as large ones of Gemma 4 begin their turns with
        an empty thought.
    """
    from gemma.gm.text import _tokenizer_export  # Loads protobuf.

    return _tokenizer_export.hf_files(
      self.model_proto,
      self.special_tokens,
      generation=self.generation,
      control=self.control_ids,
      spelling=self.FORMAT,
      empty_thought=config is not None and self.begins_with_thought(config),
    )

  def begins_with_thought(self, config: _config.TransformerConfig) -> bool:
    """Whether a model begins its turns with an empty thought, if not to think.

    The large models of Gemma 4 do: 12B, 26B and 31B, but not E2B and E4B.
    """
    return (
      self.FORMAT == _special_tokens.Format.GEMMA4
      and not config.per_layer_input_dim
    )

  def byte_of(self, token: int) -> int | None:
    """The byte that a token stands for; None if it is a piece of text."""
    return self._vocabulary.bytes.get(token)

  @property
  def control_ids(self) -> frozenset[int]:
    """Ids of the tokens that mean something to the model beyond their text."""
    return self._vocabulary.control

  @property
  def generation(self) -> _generation.Generation:
    """What `generation_config.json` beside the file says of tokens."""
    if '://' in os.fspath(self.path):
      return _generation.Generation()
    path = pathlib.Path(self.path).expanduser()
    return _generation.read(path if path.is_dir() else path.parent)

  def has_own_ids(self) -> bool:
    """Whether the file has the class's control tokens at their ids."""
    piece_to_id = self._vocabulary.processor.piece_to_id
    tags_of = _special_tokens.tags_of(self.special_tokens, self.FORMAT)
    return all(
      token in map(piece_to_id, tags) for token, tags in tags_of.items()
    )

  def __getstate__(self) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(self)]
    return {name: vars(self)[name] for name in names}

  @functools.cached_property
  def _vocabulary(self) -> _vocabulary.Vocabulary:
    custom = tuple(sorted(self.custom_tokens.items()))
    path = os.fspath(self.path)
    return _tokenizer_files.load(path, self.special_tokens, custom)


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
class Gemma3nTokenizer(Tokenizer):
  """The vocabulary of Gemma 3n: as large as that of Gemma 3."""

  path: PathLike = 'gs://gemma-data/tokenizers/tokenizer_gemma3n.model'

  VERSION = '3n'
  special_tokens = _special_tokens.Gemma3nTokens
  FORBIDDEN_TOKENS = (
    _special_tokens.Gemma3nTokens.START_OF_IMAGE,
    _special_tokens.Gemma3nTokens.END_OF_IMAGE,
  )


@dataclasses.dataclass(frozen=True)
class Gemma4Tokenizer(Tokenizer):
  """The vocabulary of Gemma 4: as large as that of Gemma 3, with other tags."""

  path: PathLike = 'gs://gemma-data/tokenizers/tokenizer_gemma4.model'

  VERSION = 4
  FORMAT = _special_tokens.Format.GEMMA4
  special_tokens = _special_tokens.Gemma4Tokens
  FORBIDDEN_TOKENS = (
    _special_tokens.Gemma4Tokens.START_OF_IMAGE,
    _special_tokens.Gemma4Tokens.END_OF_IMAGE,
    _special_tokens.Gemma4Tokens.START_OF_AUDIO,
    _special_tokens.Gemma4Tokens.END_OF_AUDIO,
    _special_tokens.Gemma4Tokens.IMAGE_PLACEHOLDER,
    _special_tokens.Gemma4Tokens.AUDIO_PLACEHOLDER,
    _special_tokens.Gemma4Tokens.VIDEO_PLACEHOLDER,
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
  Gemma3nTokenizer,
  Gemma4Tokenizer,
  Gemma3TinyTokenizer,
)
