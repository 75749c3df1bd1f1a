"""What belongs to a released model beside its shape."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelInfo:
  """Defaults that samplers and loaders take from a model class.

  Attributes:
    tokenizer_version: Version for `gm.text.Tokenizer.from_version`.
    default_ckpt: Path of the published weights.
  """

  tokenizer_version: int | str | None = None
  default_ckpt: str | None = None
