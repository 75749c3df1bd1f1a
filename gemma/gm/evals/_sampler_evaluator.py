"""An evaluator of Kauldron's trainer: the model answers, and it is logged.

The one file of the library that imports Kauldron at its top: an evaluator has
to be a subclass of Kauldron's. The door of this room imports it on first use.
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

try:
  from kauldron import kd
  from kauldron import kontext
  from kauldron.utils import config_util
except ModuleNotFoundError as e:
  if e.name != 'kauldron':
    raise
  raise ImportError(
    "gm.evals.SamplerEvaluator runs in Kauldron's trainer, which is not "
    "installed: pip install 'gemma[train]'."
  ) from e

from gemma.gm.evals import _prompts
from gemma.gm.evals import _texts
from gemma.gm.nn import _anchored
from gemma.gm.text import _sampler
from gemma.gm.text import _sampling
from gemma.gm.text import _tokenizer


class SamplerEvaluator(kd.evals.EvaluatorBase):
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
  ds: Any = config_util.ROOT_CFG_REF.eval_ds
  model: Any = config_util.ROOT_CFG_REF.model
  losses: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  summaries: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  sampling: _sampling.SamplingMethod | Sequence[_sampling.SamplingMethod] = (
    _sampling.Greedy()
  )
  seed: Any = config_util.ROOT_CFG_REF.seed
  prompt: str | None = None
  target: str | None = None
  tokenizer: _tokenizer.Tokenizer | None = None

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.cache and self.num_batches is None:
      raise ValueError(
        'cache=True keeps all batches. Say how many: num_batches=1.'
      )
    if self.ds is None:
      raise ValueError(
        f'The evaluator {self.name!r} has no dataset. Give it one (ds=...), or '
        'give the trainer one (eval_ds=...).'
      )

  def evaluate(self, state: Any, step: int) -> Any:
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
  def __dashboards__(self) -> Any:
    """No charts: texts have none."""
    return kd.kdash.NoopDashboard()

  @functools.cached_property
  def _source(self) -> _prompts.Source:
    if self.prompt is None:
      return _prompts.find(self.ds)
    return _prompts.Source(prompt=self.prompt, target=self.target)

  @functools.cached_property
  def _batches(self) -> Any:
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
  def _auxiliaries(self) -> kd.train.Auxiliaries:
    texts = {'prompt': self._source.prompt, 'answer': 'preds.text'}
    if self._source.target is not None:
      texts['gt'] = self._source.target
    shown = {k: kd.summaries.ShowTexts(texts=v) for k, v in texts.items()}
    return kd.train.Auxiliaries(
      losses=self.losses,
      metrics=self.metrics,
      summaries={**shown, **self.summaries},
    )

  def _new_sampler(self, params: Any) -> _sampler.Sampler:
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
    self, sampler: _sampler.Sampler, state: Any, batch: Any, index: int
  ) -> '_Answered':
    """Answers to the prompts of a batch."""
    context = kd.train.Context.from_state_and_batch(state=state, batch=batch)
    source = self._source
    prompts = _read(context, source.prompt)
    path = sampler.model.__kontext_keys__()['images']
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

  def _write(self, step: int, answered: Sequence['_Answered']) -> None:
    self.writer.write_step_metrics(
      step=step, aux=_merge(answered), schedules={}, log_summaries=True
    )
    if jax.process_index() == 0:
      _texts.save(
        self.base_cfg.workdir / self.name / f'samples_{step:08}.jsonl',
        [part.columns for part in answered],
      )


class _Answered(NamedTuple):
  """A batch with answers: what is logged of it, and its texts."""

  aux: kd.train.AuxiliariesState
  columns: dict[str, str | list[str]]


def _merge(answered: Sequence[_Answered]) -> kd.train.AuxiliariesState:
  if not answered:
    raise ValueError('The dataset of a SamplerEvaluator has no batch.')
  return functools.reduce(operator.or_, [part.aux for part in answered])


def _read(context: kd.train.Context, path: str) -> str | list[str]:
  return _texts.read(_get(context, path))


def _get(context: kd.train.Context, path: str) -> Any:
  return kontext.get_by_path(context, path)


def _sharding(prompts: str | list[str]) -> Any:
  """Rows on all devices if they divide among them, or else everywhere."""
  if isinstance(prompts, str) or len(prompts) % jax.device_count():
    return kd.sharding.REPLICATED
  return kd.sharding.FIRST_DIM
