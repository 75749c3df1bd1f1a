"""The released sizes, a class each; their numbers are in `_sizes.py`."""

from collections.abc import Callable
import dataclasses

from gemma.gm.nn import _config
from gemma.gm.nn import _info
from gemma.gm.nn import _sizes
from gemma.gm.nn import _transformer

_CHECKPOINTS = 'gs://gemma-data/checkpoints/'


def _info_of(version: int | str, ckpt: str | None = None) -> _info.ModelInfo:
  path = None if ckpt is None else _CHECKPOINTS + ckpt
  return _info.ModelInfo(tokenizer_version=version, default_ckpt=path)


class _WithVision(_transformer.Transformer):
  """A size that reads images.

  Attributes:
    text_only: Whether to leave the vision encoder out, with its parameters.
  """

  text_only: bool = False

  def __post_init__(self):
    if self.text_only:
      self.config = dataclasses.replace(
        self.config, vision_encoder=None, origin=_config.MULTIMODAL
      )
    super().__post_init__()


class _TextOnly(_transformer.Transformer):
  """A size of which the text model is here; it does not read images or sound.

  Attributes:
    text_only: Changes nothing: there are no encoders to leave out.
  """

  text_only: bool = False


class Gemma1_2B(_transformer.Transformer):
  """Gemma 1 2B."""

  config: _config.TransformerConfig = _sizes.GEMMA1_2B

  INFO = _info_of(2)


class Gemma1_7B(_transformer.Transformer):
  """Gemma 1 7B."""

  config: _config.TransformerConfig = _sizes.GEMMA1_7B

  INFO = _info_of(2)


class Gemma2_2B(_transformer.Transformer):
  """Gemma 2 2B."""

  config: _config.TransformerConfig = _sizes.GEMMA2_2B

  INFO = _info_of(2, 'gemma2-2b-it')


class Gemma2_9B(_transformer.Transformer):
  """Gemma 2 9B."""

  config: _config.TransformerConfig = _sizes.GEMMA2_9B

  INFO = _info_of(2, 'gemma2-9b-it')


class Gemma2_27B(_transformer.Transformer):
  """Gemma 2 27B."""

  config: _config.TransformerConfig = _sizes.GEMMA2_27B

  INFO = _info_of(2, 'gemma2-27b-it')


class Gemma3_Tiny(_WithVision):
  """The small model that ships with the package: Gemma 3 in full, tiny."""

  config: _config.TransformerConfig = _sizes.GEMMA3_TINY

  INFO = _info_of('3-tiny')


class Gemma3_270M(_transformer.Transformer):
  """Gemma 3 270M."""

  config: _config.TransformerConfig = _sizes.GEMMA3_270M

  INFO = _info_of(3)


class Gemma3_1B(_transformer.Transformer):
  """Gemma 3 1B."""

  config: _config.TransformerConfig = _sizes.GEMMA3_1B

  INFO = _info_of(3)


class Gemma3_4B(_WithVision):
  """Gemma 3 4B."""

  config: _config.TransformerConfig = _sizes.GEMMA3_4B

  INFO = _info_of(3)


class Gemma3_12B(_WithVision):
  """Gemma 3 12B."""

  config: _config.TransformerConfig = _sizes.GEMMA3_12B

  INFO = _info_of(3)


class Gemma3_27B(_WithVision):
  """Gemma 3 27B."""

  config: _config.TransformerConfig = _sizes.GEMMA3_27B

  INFO = _info_of(3)


class Gemma3n_E2B(_TextOnly):
  """Gemma 3n E2B: 2 billion parameters at work."""

  config: _config.TransformerConfig = _sizes.GEMMA3N_E2B

  INFO = _info_of('3n')


class Gemma3n_E4B(_TextOnly):
  """Gemma 3n E4B: 4 billion parameters at work."""

  config: _config.TransformerConfig = _sizes.GEMMA3N_E4B

  INFO = _info_of('3n')


class Gemma4_E2B(_TextOnly):
  """Gemma 4 E2B: 2 billion parameters beside its tables."""

  config: _config.TransformerConfig = _sizes.GEMMA4_E2B

  INFO = _info_of(4)


class Gemma4_E4B(_TextOnly):
  """Gemma 4 E4B: 4 billion parameters beside its tables."""

  config: _config.TransformerConfig = _sizes.GEMMA4_E4B

  INFO = _info_of(4)


class Gemma4_12B(_TextOnly):
  """Gemma 4 12B."""

  config: _config.TransformerConfig = _sizes.GEMMA4_12B

  INFO = _info_of(4)


class Gemma4_26B_A4B(_TextOnly):
  """Gemma 4 26B, of which a token takes 4 billion: experts."""

  config: _config.TransformerConfig = _sizes.GEMMA4_26B_A4B

  INFO = _info_of(4)


class Gemma4_31B(_TextOnly):
  """Gemma 4 31B."""

  config: _config.TransformerConfig = _sizes.GEMMA4_31B

  INFO = _info_of(4)


# By name, for command lines and tables.
PRESETS: dict[str, Callable[..., _transformer.Transformer]] = {
  model.__name__: model
  for model in (
    Gemma1_2B,
    Gemma1_7B,
    Gemma2_2B,
    Gemma2_9B,
    Gemma2_27B,
    Gemma3_Tiny,
    Gemma3_270M,
    Gemma3_1B,
    Gemma3_4B,
    Gemma3_12B,
    Gemma3_27B,
    Gemma3n_E2B,
    Gemma3n_E4B,
    Gemma4_E2B,
    Gemma4_E4B,
    Gemma4_12B,
    Gemma4_26B_A4B,
    Gemma4_31B,
  )
}
