"""Who guesses tokens ahead of the model, in speculative decoding."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from gemma.gm.nn import _like
from gemma.gm.nn import _lora
from gemma.gm.nn import _transformer


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptLookup:
  """Guesses that what followed the same words before follows them again.

  Needs no second model; pays where answers repeat their prompt: summaries,
  edits, code (https://github.com/apoorvumang/prompt-lookup-decoding).

  Attributes:
    num_tokens: Tokens guessed at a time.
    ngram: Tokens that must be the same; if these many are nowhere, fewer.
  """

  num_tokens: int = 4
  ngram: int = 3

  def __post_init__(self):
    if self.num_tokens < 1 or self.ngram < 1:
      raise ValueError(f'{self} must have at least 1 of each.')


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DraftModel:
  """A smaller model with the same vocabulary that writes ahead.

  The model checks all guesses in one pass, and keeps those that it would have
  sampled itself, so that the answer has the same distribution
  (https://arxiv.org/abs/2211.17192). A model that does not see may write ahead
  for one that does: its guesses are then those from the text alone.

  Attributes:
    model: The smaller model.
    params: Its parameters.
    num_tokens: Tokens guessed at a time.
  """

  model: _like.TransformerLike
  params: Mapping[str, Any] = dataclasses.field(repr=False)
  num_tokens: int = 4

  def __post_init__(self):
    if self.num_tokens < 1:
      raise ValueError(f'num_tokens={self.num_tokens} must be at least 1.')


Draft = PromptLookup | DraftModel


@dataclasses.dataclass(frozen=True)
class ModelDrafter:
  """A `DraftModel` without its parameters: what a program depends on.

  Attributes:
    model: The smaller model.
    num_tokens: Tokens guessed at a time.
  """

  model: _like.TransformerLike
  num_tokens: int


Drafter = PromptLookup | ModelDrafter


def drafter(draft: Draft | None) -> Drafter | None:
  """What a program depends on of a draft."""
  if isinstance(draft, DraftModel):
    return ModelDrafter(free(draft.model), draft.num_tokens)
  return draft


def free(model: _like.TransformerLike) -> _like.TransformerLike:
  """The model, free to return what is asked of it.

  Adapters are in the parameters: what creates them is not needed, unless it has
  a factor for them. A model of one's own has no default to set free.
  """
  if isinstance(model, _transformer.Transformer):
    return model.clone(return_last_only=None)
  if not isinstance(model, _lora.LoRA):
    return model
  plain = model.model.clone(return_last_only=None)
  return plain if model.factor == 1 else model.clone(model=plain)


def sees_the_same(
  draft: _like.TransformerLike, model: _like.TransformerLike
) -> bool:
  """Whether both see, and images have as many soft tokens in each."""
  mine, other = draft.config.vision_encoder, model.config.vision_encoder
  if mine is None or other is None:
    return False
  return mine.num_mm_tokens_per_image == other.num_mm_tokens_per_image


def check(draft: Draft | None, model: _like.TransformerLike) -> None:
  """Raises if a draft model has another vocabulary than the model."""
  if not isinstance(draft, DraftModel):
    return
  mine, other = model.config.num_embed, draft.model.config.num_embed
  versions = model.INFO.tokenizer_version, draft.model.INFO.tokenizer_version
  if mine != other or (all(versions) and versions[0] != versions[1]):
    raise ValueError(
      f'The draft model {type(draft.model).__name__} has {other} tokens of '
      f'tokenizer {versions[1]!r}, the model {mine} of {versions[0]!r}. A '
      'draft must have the same vocabulary.'
    )
