"""Kauldron's trainer with models, data, losses and checkpoints of the library.

Calls are those of the published notebooks; the names of the model, its weights
and its tokenizer are others, and the data is here.
"""

import dataclasses
import json

import jax
import numpy as np
import optax
import pytest

from gemma import gm
from gemma.gm.ckpts import _tree
import small_tiny

pytestmark = pytest.mark.kauldron
pytest.importorskip('kauldron')

TINY_IT = gm.ckpts.CheckpointPath.GEMMA3_TINY_IT
ROWS = [
  {'src': f'Say {i % 4}', 'dst': f'number {i % 4}!', 'id': i} for i in range(32)
]
LENGTH = 32


@pytest.fixture(scope='module')
def kd():
  from kauldron import kd

  return kd


@pytest.fixture(scope='module')
def tokenizer():
  return gm.text.Gemma3TinyTokenizer()


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
  """Folder with those of the small model."""
  folder = tmp_path_factory.mktemp('weights') / 'small'
  small_tiny.save(folder)
  return folder


@pytest.fixture(scope='module')
def file(tmp_path_factory):
  path = tmp_path_factory.mktemp('data') / 'rows.json'
  path.write_text(json.dumps(ROWS))
  return path


def make_ds(kd, file, tokenizer, **fields):
  """Pairs of a file; those for a sampler have no batches, and an end."""
  sampling = fields.get('sampling', False)
  return kd.data.py.Json(
    path=str(file),
    shuffle=not sampling,
    num_epochs=1 if sampling else None,
    batch_size=fields.get('batch_size', None if sampling else 8),
    num_workers=0,
    transforms=[
      kd.data.Elements(drop=['id']),
      gm.data.Seq2SeqTask(
        in_prompt='src',
        in_response='dst',
        out_input='input',
        out_target='target',
        out_target_mask='loss_mask',
        tokenizer=tokenizer,
        max_length=None if sampling else LENGTH,
        truncate=True,
        sampling=sampling,
      ),
    ],
  )


@pytest.fixture(scope='module')
def ds(kd, file, tokenizer):
  return make_ds(kd, file, tokenizer)


def loss_of(aux):
  [state] = aux.loss_states.values()
  return float(state.compute())


def test_finetuning_notebook(kd, ds, tokenizer, tmp_path):
  ex = ds[0]
  text = tokenizer.decode(ex['input'][0])
  assert text.startswith('<start_of_turn>user\nSay ')

  model = gm.nn.Gemma3_Tiny(tokens='batch.input', text_only=True)
  loss = kd.losses.SoftmaxCrossEntropyWithIntLabels(
    logits='preds.logits',
    labels='batch.target',
    mask='batch.loss_mask',
  )
  trainer = kd.train.Trainer(
    seed=42,
    workdir=tmp_path / 'run',
    train_ds=ds,
    model=model,
    init_transform=gm.ckpts.LoadCheckpoint(path=TINY_IT),
    num_train_steps=16,
    log_metrics_every=1,  # One program for all steps.
    log_summaries_every=1,
    train_losses={'loss': loss},
    optimizer=optax.adafactor(learning_rate=1e-2),
  )
  state, aux = trainer.train()
  assert loss_of(aux) < 0.3
  sampler = gm.text.ChatSampler(
    model=model, params=state.params, tokenizer=tokenizer, max_out_length=16
  )
  assert sampler.chat('Say 3').startswith('number')

  gm.ckpts.save_params(state.params, tmp_path / 'saved')
  saved = gm.ckpts.load_params(tmp_path / 'saved')
  for new, old in zip(
    jax.tree.leaves(saved), jax.tree.leaves(state.params), strict=True
  ):
    np.testing.assert_array_equal(new, old)


def test_lora_notebook(kd, ds, tokenizer, weights, tmp_path):
  model = gm.nn.LoRA(
    rank=4, model=small_tiny.model(tokens='batch.input', text_only=True)
  )
  trainer = kd.train.Trainer(
    seed=42,
    workdir=tmp_path,
    train_ds=ds,
    model=model,
    init_transform=gm.ckpts.SkipLoRA(
      wrapped=gm.ckpts.LoadCheckpoint(path=weights)
    ),
    num_train_steps=8,
    log_metrics_every=1,
    log_summaries_every=1,
    train_losses={
      'loss': kd.losses.SoftmaxCrossEntropyWithIntLabels(
        logits='preds.logits', labels='batch.target', mask='batch.loss_mask'
      )
    },
    optimizer=kd.optim.partial_updates(
      optax.adafactor(learning_rate=0.05), mask=kd.optim.select('lora')
    ),
    writer=None,
  )
  state, _ = trainer.train()
  base, lora = gm.peft.split_params(state.params)
  loaded = gm.ckpts.load_params(weights, text_only=True)
  base, loaded = _tree.leaves(base), _tree.leaves(loaded)
  assert base.keys() == loaded.keys()
  for path, x in base.items():
    np.testing.assert_array_equal(x, loaded[path])
  assert all(np.any(np.asarray(x, np.float32)) for x in jax.tree.leaves(lora))
  # Of the weights that stay, the optimizer keeps nothing.
  kept = sum(x.size for x in jax.tree.leaves(state.opt_state))
  assert kept < 2 * sum(x.size for x in jax.tree.leaves(lora))
  sampler = gm.text.ChatSampler(
    model=model, params=state.params, tokenizer=tokenizer, max_out_length=4
  )
  assert isinstance(sampler.chat('Say 3'), str)


@pytest.mark.exhaustive  # As test_losses_kauldron.py, in bfloat16.
def test_loss_without_logits(kd, ds, tmp_path):
  """It is the loss of the logits, and its gradient too: same steps."""
  model = gm.nn.Gemma3_Tiny(
    tokens='batch.input', text_only=True, return_hidden_states=True
  )
  keys = {'labels': 'batch.target', 'mask': 'batch.loss_mask'}
  trainer = kd.train.Trainer(
    seed=42,
    workdir=tmp_path,
    train_ds=ds,
    model=model,
    init_transform=gm.ckpts.LoadCheckpoint(path=TINY_IT),
    num_train_steps=2,
    train_losses={
      'linear': gm.losses.LinearCrossEntropy(softcap=None, weight=0.5, **keys),
      'dense': gm.losses.CrossEntropy(
        logits='preds.logits', weight=0.5, **keys
      ),
    },
    log_metrics_every=1,
    log_summaries_every=1,
    optimizer=optax.adafactor(learning_rate=1e-2),
    writer=None,
  )
  _, aux = trainer.train()
  values = {k: float(v.compute()) for k, v in aux.loss_states.items()}
  assert values['linear'] == pytest.approx(values['dense'], rel=1e-2)


class Evaluated:
  """A trained state without training, and an evaluator of a trainer."""

  def __init__(self, kd, train_ds, weights, folder, **fields):
    """Takes fields of the evaluator besides those that all have."""
    fields = {'run': kd.evals.Once(0), 'max_new_tokens': 4, **fields}
    evaluator = gm.evals.SamplerEvaluator(**fields)
    self.trainer = kd.train.Trainer(
      seed=42,
      workdir=folder,
      train_ds=train_ds,
      model=small_tiny.model(tokens='batch.input', text_only=True),
      optimizer=optax.sgd(0.1),
      evals={'sampling': evaluator},
    )
    params = gm.ckpts.load_params(weights, text_only=True)
    self.state = kd.train.TrainState(
      step=0, params=params, opt_state=None, collections={}
    )

  def run(self):
    self.aux = self.trainer.evals['sampling'].evaluate(self.state, 7)
    folder = self.trainer.workdir / 'sampling'
    lines = (folder / 'samples_00000007.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]


def logged_texts(folder):
  """What TensorBoard would show of an evaluator."""
  from tensorboard.backend.event_processing import event_accumulator
  from tensorboard.util import tensor_util

  events = event_accumulator.EventAccumulator(str(folder))
  events.Reload()
  return {
    tag: [
      tensor_util.make_ndarray(event.tensor_proto).tolist()
      for event in events.Tensors(tag)
    ]
    for tag in events.Tags()['tensors']
  }


def test_answers_are_logged(kd, ds, file, tokenizer, weights, tmp_path):
  prompts = make_ds(kd, file, tokenizer, sampling=True)
  evaluated = Evaluated(kd, ds, weights, tmp_path, ds=prompts, num_batches=2)
  rows = evaluated.run()
  sampler = gm.text.Sampler(
    model=evaluated.trainer.model,
    params=evaluated.state.params,
    tokenizer=tokenizer,
    cache_length=4096,
    max_out_length=4,
  )
  for row, i in zip(rows, (0, 1), strict=True):
    assert row['prompt'] == (
      f'<start_of_turn>user\nSay {i}<end_of_turn>\n<start_of_turn>model\n'
    )
    assert row['answer'] == sampler.sample(row['prompt'])
    assert row['gt'] == f'number {i}!<end_of_turn>'
  texts = logged_texts(tmp_path / 'sampling')
  for name in ('prompt', 'answer', 'gt'):
    [value] = texts[f'summaries/{name}']
    assert [text.decode() for text in value] == [row[name] for row in rows]


def test_answers_of_a_batch(kd, ds, file, tokenizer, weights, tmp_path):
  """Rows together are as rows alone, also of other pipelines, by their key."""
  alone = Evaluated(
    kd,
    ds,
    weights,
    tmp_path / 'a',
    ds=make_ds(kd, file, tokenizer, sampling=True),
    num_batches=4,
  ).run()
  mixed = kd.data.py.Mix(
    datasets=[make_ds(kd, file, tokenizer, sampling=True)],
    shuffle=False,
    batch_size=4,
    num_epochs=1,
    num_workers=0,
  )
  fields = {'ds': mixed, 'num_batches': 1, 'cache': True}
  assert Evaluated(kd, ds, weights, tmp_path / 'b', **fields).run() == alone
  named = Evaluated(
    kd,
    ds,
    weights,
    tmp_path / 'c',
    prompt='batch.input',
    tokenizer=tokenizer,
    sampling=gm.text.RandomSampling(temperature=2.0),
    **fields,
  )
  rows = named.run()
  assert [row['prompt'] for row in rows] == [row['prompt'] for row in alone]
  assert [row['answer'] for row in rows] != [row['answer'] for row in alone]
  assert named.run() == rows  # The same seed at every step.
  assert 'gt' not in rows[0]


def test_answers_of_a_policy(kd, ds, file, tokenizer, weights, tmp_path):
  prompts = make_ds(kd, file, tokenizer, sampling=True)
  one = Evaluated(kd, ds, weights, tmp_path / 'a', ds=prompts, num_batches=1)
  rows = one.run()
  model = gm.nn.AnchoredPolicy(policy=one.trainer.model)
  two = Evaluated(
    kd, ds, weights, tmp_path / 'b', ds=prompts, num_batches=1, model=model
  )
  two.state = dataclasses.replace(
    one.state, params={'policy': one.state.params, 'anchor': {}}
  )
  assert two.run() == rows


def test_what_an_evaluator_cannot_do(
  kd, ds, file, tokenizer, weights, tmp_path
):
  with pytest.raises(ValueError, match='Say how many: num_batches=1'):
    Evaluated(kd, ds, weights, tmp_path, ds=ds, cache=True)
  with pytest.raises(ValueError, match=r'Give it one \(ds=...\)'):
    Evaluated(kd, ds, weights, tmp_path).run()
  with pytest.raises(ValueError, match='set sampling=True'):
    Evaluated(kd, ds, weights, tmp_path, ds=ds, num_batches=1).run()
  tokens = Evaluated(
    kd, ds, weights, tmp_path, ds=ds, num_batches=1, prompt='batch.input'
  )
  with pytest.raises(ValueError, match='is not a text'):
    tokens.run()
  endless = dataclasses.replace(
    make_ds(kd, file, tokenizer, sampling=True), num_epochs=None
  )
  with pytest.raises(ValueError, match='repeats without end'):
    Evaluated(kd, ds, weights, tmp_path, ds=endless).run()


@pytest.mark.mesh
def test_calls_of_the_sharding_notebook(kd, tiny):
  """With all weights divided among the devices, however small."""
  fsdp = kd.sharding.FSDPSharding(min_size_to_shard_mb=0)
  params = gm.ckpts.load_params(TINY_IT, sharding=fsdp)
  table = params['embedder']['input_embedding']
  part = table.addressable_shards[0].data
  assert part.size * 8 == table.size
  chat = gm.text.ChatSampler(
    model=tiny.model, params=params, tokenizer=tiny.tokenizer, cache_length=64
  )
  alone = dataclasses.replace(chat, params=tiny.params)
  assert chat.chat('Say hello.') == alone.chat('Say hello.')
  prompt = np.asarray(tiny.tokenizer.encode('Say hello.', add_bos=True))
  prompt = kd.sharding.with_sharding_constraint(prompt, kd.sharding.REPLICATED)
  out = tiny.model.apply({'params': params}, prompt, return_last_only=True)
  whole = tiny.model.apply(
    {'params': tiny.params}, prompt, return_last_only=True
  )
  assert out.logits.argmax() == whole.logits.argmax()
  assert gm.text.Gemma3TinyTokenizer().plot_logits(out.logits) is not None
