"""`Sampler` under the name that it has elsewhere for Gemma 4."""

import dataclasses

from gemma.gm.text import _sampler


@dataclasses.dataclass(kw_only=True, eq=False)
class Gemma4Sampler(_sampler.Sampler):
  """`Sampler`, under its published name for Gemma 4.

  What it has besides is about images and sounds. Models of Gemma 4 read text
  only here, so another value than the default is an error.

  Attributes:
    patch_size: Pixels of a patch.
    max_soft_tokens: Most tokens of an image.
    pooling_kernel_size: Patches of a token, in each direction.
    audio_sample_rate: Of sounds, in Hz.
    audio_seq_length: Most tokens of a sound.
  """

  patch_size: int = 16
  max_soft_tokens: int = 1120
  pooling_kernel_size: int = 3
  audio_sample_rate: int = 16000
  audio_seq_length: int = 750

  def __post_init__(self):
    super().__post_init__()
    for field in dataclasses.fields(Gemma4Sampler):
      value = getattr(self, field.name)
      if field.name not in _TEXT and value != field.default:
        raise ValueError(
          f'{field.name}={value} is about images or sounds, but models of '
          'Gemma 4 read text only here. Leave it out.'
        )


_TEXT = {field.name for field in dataclasses.fields(_sampler.Sampler)}
