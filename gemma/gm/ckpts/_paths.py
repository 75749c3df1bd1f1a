"""Where the published checkpoints are, and the one that ships here."""

import enum
import pathlib

_BUCKET = 'gs://gemma-data/checkpoints/'
_SHIPPED = pathlib.Path(__file__).parents[2] / 'models'


class CheckpointPath(enum.StrEnum):
  """Paths of checkpoints. A member is a string and goes wherever a path does.

  `PT` is pre-trained, `IT` instruction-tuned.
  """

  GEMMA2_2B_PT = _BUCKET + 'gemma2-2b-pt'
  GEMMA2_2B_IT = _BUCKET + 'gemma2-2b-it'
  GEMMA2_9B_PT = _BUCKET + 'gemma2-9b-pt'
  GEMMA2_9B_IT = _BUCKET + 'gemma2-9b-it'
  GEMMA2_27B_PT = _BUCKET + 'gemma2-27b-pt'
  GEMMA2_27B_IT = _BUCKET + 'gemma2-27b-it'

  GEMMA3_TINY_IT = str(_SHIPPED / 'gemma3-tiny-it')
  GEMMA3_270M_PT = _BUCKET + 'gemma3-270m-pt'
  GEMMA3_270M_IT = _BUCKET + 'gemma3-270m-it'
  GEMMA3_1B_PT = _BUCKET + 'gemma3-1b-pt'
  GEMMA3_1B_IT = _BUCKET + 'gemma3-1b-it'
  GEMMA3_4B_PT = _BUCKET + 'gemma3-4b-pt'
  GEMMA3_4B_IT = _BUCKET + 'gemma3-4b-it'
  GEMMA3_12B_PT = _BUCKET + 'gemma3-12b-pt'
  GEMMA3_12B_IT = _BUCKET + 'gemma3-12b-it'
  GEMMA3_27B_PT = _BUCKET + 'gemma3-27b-pt'
  GEMMA3_27B_IT = _BUCKET + 'gemma3-27b-it'
