"""Where in its batches a dataset has prompts, and how they are read."""

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
from typing import Any

from gemma.gm.data import _seq2seq
from gemma.gm.text import _tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
  """Paths of texts in the context of a trainer.

  Attributes:
    prompt: Path of the prompts.
    target: Path of the answers that are expected, if there are any.
    tokenizer: The tokenizer of the task that made the prompts.
  """

  prompt: str
  target: str | None = None
  tokenizer: _tokenizer.Tokenizer | None = None


def find(dataset: Any) -> Source:
  """Where the `Seq2SeqTask` of a pipeline writes its texts.

  Args:
    dataset: A Kauldron pipeline, or a mixture of them.

  Raises:
    ValueError: If it has no such task, several that disagree, or one that
      makes tokens.
  """
  tasks = [*_tasks_of(dataset)]
  sources = {
    (f'batch.{task.out_input}', f'batch.{task.out_target}') for task in tasks
  }
  if len(sources) != 1:
    raise ValueError(
      f'The dataset has {len(sources)} places of prompts, not one: '
      f'{sorted(sources)}. End its transforms with gm.data.Seq2SeqTask(..., '
      "sampling=True), or name the place: prompt='batch.question'."
    )
  if not all(task.sampling for task in tasks):
    raise ValueError(
      'The Seq2SeqTask of the dataset has sampling=False and makes tokens. '
      'Samplers take texts: set sampling=True.'
    )
  prompt, target = sources.pop()
  return Source(prompt=prompt, target=target, tokenizer=tasks[0].tokenizer)


def _tasks_of(dataset: Any) -> Iterator[_seq2seq.Seq2SeqTask]:
  """The tasks of a pipeline, and of those that it mixes."""
  transforms = getattr(dataset, 'transforms', ())
  if isinstance(transforms, Mapping):
    transforms = transforms.values()
  for transform in transforms:
    if isinstance(transform, _seq2seq.Seq2SeqTask):
      yield transform
  for part in getattr(dataset, 'datasets', ()):
    yield from _tasks_of(part)
