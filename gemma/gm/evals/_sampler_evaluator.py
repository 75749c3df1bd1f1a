"""An evaluator of Kauldron's trainer: the model answers, and it is logged.

Kauldron is imported when `SamplerEvaluator` is first asked for: the class is
made then, of what is here and of Kauldron's own evaluator.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import math
import operator
from typing import Any
from typing import NamedTuple

import jax

from gemma.gm.evals import _prompts
from gemma.gm.evals import _texts
from gemma.gm.nn import _anchored
from gemma.gm.text import _sampler
from gemma.gm.text import _sampling
from gemma.gm.text import _tokenizer


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Answering:
  """Samples an answer to each prompt of a dataset.

  The prompts are texts that `gm.data.Seq2SeqTask(..., sampling=True)` made, or
  those that `prompt` names; they are taken verbatim, as `gm.text.Sampler` does.
  The first five are logged with their answers as texts; all are lines of
  `{workdir}/{name}/samples_{step}.jsonl`.

  ```python
  evaluator = gm.evals.SamplerEvaluator(
    run=kd.evals.EveryNSteps(1000),
    max_new_tokens=50,
    num_batches=3,
    ds=ds,
  )
  trainer = kd.train.Trainer(..., evals={'sampling': evaluator})
  ```

  Besides these fields it has `name`, `run` and `discard_opt` of any evaluator.

  Attributes:
    max_new_tokens: Tokens that an answer may have.
    cache_length: Tokens that a prompt and its answer may have together.
    pad_length: Sizes of the chunks in which prompts are read, see `Sampler`.
    num_batches: How many batches to take; by default all of them.
    cache: Whether to keep the batches for the next evaluation.
    ds: The dataset, by default `eval_ds` of the trainer. With a `batch_size`,
      prompts of a batch are answered together; without, one by one.
    model: The model, by default that of the trainer. That of a
      `gm.nn.AnchoredPolicy` is its policy.
    losses: Losses, which find the answers at `preds.text`.
    metrics: Metrics, likewise.
    summaries: Summaries, besides `prompt`, `answer` and `gt`.
    sampling: How to pick tokens.
    seed: Seed of random sampling, by default that of the trainer. It is the
      same at every step: answers differ by the weights alone.
    prompt: Where the prompts are, such as `batch.question`; by default where
      the `Seq2SeqTask` of the dataset writes them.
    target: Where the answers are that are expected, if `prompt` is given.
    tokenizer: By default that of the `Seq2SeqTask`, or else of the model.
  """

  max_new_tokens: int
  cache_length: int = 4096
  pad_length: int | tuple[int, ...] | None = (64, 256, 1024)
  num_batches: int | None = None
  cache: bool = False
  losses: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  summaries: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  sampling: _sampling.SamplingMethod | Sequence[_sampling.SamplingMethod] = (
    _sampling.Greedy()
  )
  prompt: str | None = None
  target: str | None = None
  tokenizer: _tokenizer.Tokenizer | None = None

  def evaluate(self: Any, state: Any, step: int) -> Any:
    """Answers all prompts, and logs them.

    Args:
      state: The training state.
      step: The step.

    Returns:
      The state of the losses, metrics and summaries of all batches.

    Raises:
      ValueError: If the dataset has no prompts, or no end; or if they are no
        texts, or do not fit into the cache.
    """
    self._assert_root_cfg_resolved()
    if self.discard_opt:
      state = state.replace(opt_state=None)
    # A trainer forbids transfers to devices that nobody asked for.
    with jax.transfer_guard('allow'):
      sampler = self._new_sampler(state.params)
      answered = [
        self._answer(sampler, state, batch, i)
        for i, batch in enumerate(self._batches)
      ]
      self._write(step, answered)
    return _merge(answered)

  @functools.cached_property
  def __dashboards__(self: Any) -> Any:
    """No charts: texts have none."""
    return _kauldron().kdash.NoopDashboard()

  @functools.cached_property
  def _source(self: Any) -> _prompts.Source:
    if self.prompt is None:
      return _prompts.find(self.ds)
    return _prompts.Source(prompt=self.prompt, target=self.target)

  @functools.cached_property
  def _batches(self: Any) -> Any:
    batches = self.ds
    if self.num_batches is not None:
      batches = batches.take(self.num_batches)
    elif getattr(self.ds, 'num_epochs', 1) is None:
      raise ValueError(
        f'The dataset of {self.name!r} repeats without end. Say how much of it '
        'to take: num_batches=1 here, or num_epochs=1 there.'
      )
    return batches.cache() if self.cache else batches

  @functools.cached_property
  def _auxiliaries(self: Any) -> Any:
    texts = {'prompt': self._source.prompt, 'answer': 'preds.text'}
    if self._source.target is not None:
      texts['gt'] = self._source.target
    kd = _kauldron()
    shown = {k: kd.summaries.ShowTexts(texts=v) for k, v in texts.items()}
    return kd.train.Auxiliaries(
      losses=self.losses,
      metrics=self.metrics,
      summaries={**shown, **self.summaries},
    )

  def _new_sampler(self: Any, params: Any) -> _sampler.Sampler:
    model = self.model
    if isinstance(model, _anchored.AnchoredPolicy):
      model, params = model.policy, params['policy']
    return _sampler.Sampler(
      model=model,
      params=params,
      tokenizer=self.tokenizer or self._source.tokenizer,
      sampling=self.sampling,
      cache_length=self.cache_length,
      max_out_length=self.max_new_tokens,
      pad_length=self.pad_length,
      max_batch_size=math.lcm(16, jax.device_count()),
    )

  def _answer(
    self: Any, sampler: _sampler.Sampler, state: Any, batch: Any, index: int
  ) -> '_Answered':
    """Answers to the prompts of a batch."""
    make = _kauldron().train.Context.from_state_and_batch
    context = make(state=state, batch=batch)
    source = self._source
    prompts = _read(context, source.prompt)
    path = getattr(sampler.model, 'images', None)
    answers = sampler.sample(
      prompts,
      images=None if path is None else _get(context, path),
      rng=jax.random.fold_in(jax.random.key(self.seed), index),
      sharding=_sharding(prompts),
      progress=False,
    )
    columns = {'prompt': prompts, 'answer': answers}
    if source.target is not None:
      columns['gt'] = _read(context, source.target)
    context = context.replace(preds={'text': answers})
    aux = self._auxiliaries.update_context(context).get_aux_state(
      return_losses=True, return_metrics=True, return_summaries=True
    )
    return _Answered(aux, columns)

  def _write(self: Any, step: int, answered: Sequence['_Answered']) -> None:
    self.writer.write_step_metrics(
      step=step, aux=_merge(answered), schedules={}, log_summaries=True
    )
    if jax.process_index() == 0:
      _texts.save(
        self.base_cfg.workdir / self.name / f'samples_{step:08}.jsonl',
        [part.columns for part in answered],
      )


def _check(evaluator: Any) -> None:
  """Raises if fields do not go together."""
  if evaluator.cache and evaluator.num_batches is None:
    raise ValueError(
      'cache=True keeps all batches. Say how many: num_batches=1.'
    )
  if evaluator.ds is None:
    raise ValueError(
      f'The evaluator {evaluator.name!r} has no dataset. Give it one (ds=...), '
      'or give the trainer one (eval_ds=...).'
    )


class _Answered(NamedTuple):
  """A batch with answers: what is logged of it, and its texts."""

  aux: Any
  columns: dict[str, str | list[str]]


def _merge(answered: Sequence[_Answered]) -> Any:
  if not answered:
    raise ValueError('The dataset of a SamplerEvaluator has no batch.')
  return functools.reduce(operator.or_, [part.aux for part in answered])


def _read(context: Any, path: str) -> str | list[str]:
  return _texts.read(_get(context, path))


def _get(context: Any, path: str) -> Any:
  return _kauldron().kontext.get_by_path(context, path)


def _sharding(prompts: str | list[str]) -> Any:
  """Rows on all devices if they divide among them, or else everywhere."""
  if isinstance(prompts, str) or len(prompts) % jax.device_count():
    return _kauldron().sharding.REPLICATED
  return _kauldron().sharding.FIRST_DIM


@functools.cache
def _kauldron() -> Any:
  try:
    from kauldron import kd
  except ModuleNotFoundError as e:
    if e.name != 'kauldron':
      raise
    raise ImportError(
      "gm.evals.SamplerEvaluator runs in Kauldron's trainer, which is not "
      "installed: pip install 'gemma[train]'."
    ) from e
  return kd


@functools.cache
def _evaluator() -> type:
  kd = _kauldron()
  from kauldron.utils import config_util

  base: Any = kd.evals.EvaluatorBase
  trainer = config_util.ROOT_CFG_REF

  class SamplerEvaluator(Answering, base):
    __doc__ = Answering.__doc__

    ds: Any = trainer.eval_ds
    model: Any = trainer.model
    seed: Any = trainer.seed

    def __post_init__(self) -> None:
      super().__post_init__()
      _check(self)

  SamplerEvaluator.__qualname__ = 'SamplerEvaluator'
  return SamplerEvaluator


def __getattr__(name: str) -> Any:
  if name == 'SamplerEvaluator':
    return _evaluator()
  raise AttributeError(f'{__name__} has no {name}.')
