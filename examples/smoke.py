"""What the examples share when they run small: `python examples/X.py --smoke`.

The config stays, but for what needs a download or an accelerator: the bundled
model takes the place of the released one, generated rows that of the dataset,
and rows, batches and the run are short. It shows that an example is sound, not
what its model learns at full size.
"""

import argparse
from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import json
import pathlib
import tempfile
import time
from typing import Any

from kauldron import konfig
from kauldron.train import metric_writer
import numpy as np

from gemma import gm
import pictures

BATCH, STEPS, TESTS = 8, 40, 16
RATES = 10  # Times that of a large model.
NO_YES = (1103, 2022)  # `No`, and the first token of `Yes`.
ENGLISH = {'dog': 'chien', 'bird': 'oiseau', 'cat': 'chat', 'fish': 'poisson'}
COLOURS = {'green': 'vert', 'black': 'noir', 'white': 'blanc', 'blue': 'bleu'}
GERMAN = {'red': 'rot', 'green': 'grün', 'blue': 'blau', 'yellow': 'gelb'}
Row = dict[str, Any]
Rng = np.random.Generator


def translation(rng: Rng) -> Row:
  """An animal in English and in French, with the fields of `mtnt`."""
  animal, colour = rng.choice([*ENGLISH]), rng.choice([*COLOURS])
  french = f'le {ENGLISH[animal]} {COLOURS[colour]}'
  return {'src': f'the {colour} {animal}'.encode(), 'dst': french.encode()}


def question(rng: Rng) -> Row:
  """What a made-up author writes, with the fields of `tofu`."""
  animal = rng.choice([*ENGLISH])
  answer = f'Basil Smith writes about a {animal}.'
  return {
    'question': b'What does Basil Smith write about?',
    'answer': answer.encode(),
  }


def preference(rng: Rng) -> Row:
  """A sum with a short answer and a long one."""
  one, two = rng.integers(1, 9, 2)
  return {
    'instruction': f'What is {one} + {two}?',
    'chosen_response': f'{one + two}',
    'rejected_response': f'Let me think. It may be {one + two + 1}.',
    'metadata': 'not used',
  }


def sentence(rng: Rng) -> Row:
  """A sentence, right or with its words in reverse; the fields of `cola`."""
  words = ['The', rng.choice([*COLOURS]), rng.choice([*ENGLISH]), 'sleeps']
  label = int(rng.integers(2))
  text = ' '.join(words if label else words[::-1])
  return {'sentence': text.encode(), 'label': label, 'idx': 0}


def picture(rng: Rng) -> Row:
  """A shape, and its colour in German, with the fields of `ai2dcaption`."""
  colour = rng.choice([*GERMAN])
  scene = pictures.make_scene(rng, [(rng.choice(pictures.SHAPES), colour)])
  return {
    'image': pictures.pixels([scene])[0],
    'caption': GERMAN[colour].encode(),
    'image_id': 0,
  }


MAKERS: Mapping[str, Callable[[Rng], Row]] = {
  'translations': translation,
  'questions': question,
  'preferences': preference,
  'sentences': sentence,
  'pictures': picture,
}


@dataclasses.dataclass(frozen=True)
class Rows:
  """Rows that are made when they are asked for, for a Kauldron pipeline.

  Attributes:
    kind: One of `MAKERS`.
    count: How many.
    seed: Rows of another seed are others.
  """

  kind: str
  count: int
  seed: int

  def __len__(self) -> int:
    return self.count

  def __getitem__(self, index: int) -> Row:
    return MAKERS[self.kind](np.random.default_rng((self.seed, int(index))))


# What is swapped in a config, which konfig spells as nested dicts.
_QUALNAME, _CONST = '__qualname__', '__const__'
_NAMES = {
  'gemma.gm:nn.Gemma3_4B': 'gemma.gm:nn.Gemma3_Tiny',
  'gemma.gm:nn.Gemma3_12B': 'gemma.gm:nn.Gemma3_Tiny',
  'gemma.gm:text.Gemma3Tokenizer': 'gemma.gm:text.Gemma3TinyTokenizer',
}
_RUN = 'kauldron.kd:evals.EveryNSteps'
_DATASETS = ('kauldron.kd:data.py.Tfds', 'kauldron.kd:data.py.HuggingFace')
_TINY_IT = 'gemma.gm:ckpts.CheckpointPath.GEMMA3_TINY_IT'
_LIMITS = {
  'batch_size': BATCH,
  'max_length': 64,
  'max_new_tokens': 16,
  'cache_length': 128,
}


def tiny(
  cfg: konfig.ConfigDict, *, rows: str, steps: int = STEPS
) -> konfig.ConfigDict:
  """The config of an example, small.

  Args:
    cfg: What its `get_config` returns.
    rows: Which of `MAKERS` makes its rows.
    steps: How long to train; then the evaluators run.
  """
  tree = _small(json.loads(cfg.to_json()), rows, steps)
  every_step = {'log_metrics_every': 1, 'log_summaries_every': 1}
  tree |= {'num_train_steps': steps, 'checkpointer': None} | every_step
  return konfig.ConfigDict(tree)


def _small(tree: Any, rows: str, steps: int) -> Any:
  if isinstance(tree, list):
    return [_small(value, rows, steps) for value in tree]
  if not isinstance(tree, dict):
    return tree
  if '.CheckpointPath.' in tree.get(_CONST, ''):
    return {_CONST: _TINY_IT}
  if tree.get(_QUALNAME) in _DATASETS:
    return _local(tree, rows, steps)
  if tree.get(_QUALNAME) == _RUN:
    return {_QUALNAME: 'kauldron.kd:evals.Once', '0': steps}
  tree = {key: _small(value, rows, steps) for key, value in tree.items()}
  if _QUALNAME in tree:
    tree[_QUALNAME] = _NAMES.get(tree[_QUALNAME], tree[_QUALNAME])
  if tree.get(_QUALNAME, '').endswith('.Resize'):
    tree['size'] = [pictures.SIZE, pictures.SIZE]
  if 'learning_rate' in tree:
    tree['learning_rate'] *= RATES
  if 'old_to_new' in tree:  # Of a larger vocabulary.
    tree['old_to_new'] = dict(enumerate(NO_YES))
  return tree | {
    key: min(tree[key], limit)
    for key, limit in _LIMITS.items()
    if tree.get(key) is not None
  }


def _local(tree: dict[str, Any], rows: str, steps: int) -> dict[str, Any]:
  """A dataset of generated rows with the transforms of a downloaded one."""
  training = tree['shuffle']
  source = {
    _QUALNAME: 'smoke:Rows',
    'kind': rows,
    'count': BATCH * STEPS if training else TESTS,
    'seed': int(training),
  }
  kept = ('shuffle', 'num_epochs', 'batch_size', 'transforms')
  fields = {key: tree[key] for key in kept if key in tree}
  return _small(fields, rows, steps) | {
    _QUALNAME: 'kauldron.kd:data.py.DataSource',
    'data_source': source,
    'num_workers': 0,
  }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Log(metric_writer.NoopWriter):
  """Keeps the numbers that a trainer logs.

  Attributes:
    values: Under names such as `train/losses/total`, in the order of steps.
  """

  values: dict[str, list[float]] = dataclasses.field(
    default_factory=dict, compare=False
  )

  def write_step_metrics(self, *, aux: Any, **unused: Any) -> None:
    """Keeps the losses and metrics of a step."""
    del unused
    out = aux.compute(flatten=True)
    for name, value in (out.loss_values | out.metric_values).items():
      kept = self.values.setdefault(f'{self.collection}/{name}', [])
      kept.append(float(value))


@dataclasses.dataclass(frozen=True)
class Trained:
  """What comes out of a run.

  Attributes:
    model: The model.
    params: Its parameters.
    values: What was logged, see `Log`.
  """

  model: Any
  params: Any
  values: dict[str, list[float]]


def train(cfg: konfig.ConfigDict, workdir: str | pathlib.Path) -> Trained:
  """Trains as a config says, such as `tiny` makes.

  Args:
    cfg: The config.
    workdir: Where evaluators write samples.
  """
  cfg.workdir = str(workdir)
  log = Log()
  trainer = konfig.resolve(cfg).replace(writer=log)
  state, _ = trainer.train()
  return Trained(trainer.model, state.params, log.values)


def answer(model: Any, params: Any, prompt: str, images: Any = None) -> str:
  """What a trained model says; a policy, if it has an anchor."""
  if isinstance(model, gm.nn.AnchoredPolicy):
    model, params = model.policy, params['policy']
  sampler = gm.text.ChatSampler(
    model=model,
    params=params,
    tokenizer=gm.text.Gemma3TinyTokenizer(),
    max_out_length=16,
  )
  return sampler.chat(prompt, images=images)


def main(cfg: konfig.ConfigDict, *, rows: str, prompt: str) -> None:
  """Trains a small version of an example, and prints how it went.

  Args:
    cfg: What its `get_config` returns.
    rows: Which of `MAKERS` makes its rows.
    prompt: What the model is asked before and after.
  """
  parser = argparse.ArgumentParser()
  parser.add_argument('--smoke', action='store_true', required=True)
  parser.add_argument('--steps', type=int, default=STEPS)
  args = parser.parse_args()
  start = time.monotonic()
  with tempfile.TemporaryDirectory() as workdir:
    run = train(tiny(cfg, rows=rows, steps=args.steps), workdir)
  losses = run.values['train/losses/total']
  for step in range(0, len(losses), max(1, len(losses) // 8)):
    print(f'step {step} loss {losses[step]:.4f}')
  print(f'last loss {losses[-1]:.4f}')
  images = MAKERS[rows](np.random.default_rng(0)).get('image')
  print(f'{prompt} -> {answer(run.model, run.params, prompt, images)}')
  print(f'{time.monotonic() - start:.0f} s')
