"""Fine-tunes Gemma 3 4B on pairs of texts: it translates English to French.

Task: `mtnt/en-fr` of TensorFlow Datasets, noisy sentences and translations.

Command, from a checkout of the repository, with `pip install 'gemma[train]'`:

  python -m kauldron.main --cfg=examples/seq2seq.py --cfg.workdir=/tmp/seq2seq

Any value is a flag: `--cfg.train_ds.batch_size=8`.

Hardware, time and metric at this size: not measured. All weights are trained on
each device: parameters, gradients and activations of 32 rows of 512 tokens.
`sharding.py` divides them, and `lora.py` trains few.

`python examples/seq2seq.py --smoke` trains the bundled model on made-up pairs:
its loss falls from 13.0 to 0.005 in 40 steps, and `the green bird` becomes
`le oiseau vert`. 68 seconds of CPU time, most of them to import and to compile.
"""

from kauldron import konfig

with konfig.imports():
  from kauldron import kd
  import optax

  from gemma import gm

MAX_LENGTH = 512


def get_config():
  """The trainer."""
  return kd.train.Trainer(
    seed=42,
    # Data.
    train_ds=dataset(training=True, batch_size=32),
    # Model.
    model=gm.nn.Gemma3_4B(tokens='batch.input'),
    init_transform=gm.ckpts.LoadCheckpoint(
      path=gm.ckpts.CheckpointPath.GEMMA3_4B_IT
    ),
    # Training.
    num_train_steps=10_000,
    train_losses={
      'xentropy': kd.losses.SoftmaxCrossEntropyWithIntLabels(
        logits='preds.logits', labels='batch.target', mask='batch.loss_mask'
      )
    },
    optimizer=optax.adafactor(learning_rate=1e-3),
    checkpointer=kd.ckpts.Checkpointer(save_interval_steps=500),
    # Evaluation.
    evals={
      'test': kd.evals.Evaluator(
        run=kd.evals.EveryNSteps(1000),
        ds=dataset(training=False, batch_size=32),
      ),
      'sampling': gm.evals.SamplerEvaluator(
        run=kd.evals.EveryNSteps(1000),
        max_new_tokens=50,
        num_batches=1,
        ds=dataset(training=False, sampling=True),
      ),
    },
  )


def dataset(*, training, sampling=False, batch_size=None):
  """Rows to train on and to test on, or texts for a sampler."""
  return kd.data.py.Tfds(
    name='mtnt/en-fr',
    split='train' if training else 'test',
    shuffle=training,
    num_epochs=None if training else 1,
    batch_size=batch_size,
    num_workers=4,
    transforms=[
      gm.data.Seq2SeqTask(
        in_prompt='src',
        in_response='dst',
        out_input='input',
        out_target='target',
        out_target_mask='loss_mask',
        tokenizer=gm.text.Gemma3Tokenizer(),
        max_length=None if sampling else MAX_LENGTH,
        truncate=True,
        sampling=sampling,
      )
    ],
  )


if __name__ == '__main__':
  import smoke

  smoke.main(get_config(), rows='translations', prompt='the green bird')
