"""Fine-tunes Gemma 3 4B to tell good sentences from bad ones.

Task: `glue/cola` of TensorFlow Datasets. The classes are two tokens, `Yes` and
`No`: only the token after the prompt is trained, so a model needs no new
parameters, and its logits of the two are the score.

Command, from a checkout of the repository, with `pip install 'gemma[train]'`:

  python -m kauldron.main --cfg=examples/classification.py \
    --cfg.workdir=/tmp/classification

Hardware, time and metric at this size: not measured.

`python examples/classification.py --smoke` trains the bundled model to tell
whether words are in reverse:
its loss falls from 9.3 to 0.06 in 40 steps, and it says `No` of such words.
63 seconds of CPU time.
"""

from kauldron import konfig

with konfig.imports():
  from kauldron import kd
  import optax

  from gemma import gm

MAX_LENGTH = 128
ANSWERS = {0: 1294, 1: 3553}  # The tokens `No` and `Yes`.
TEMPLATE = """\
  <start_of_turn>user
  Is this a correct English sentence? Answer with Yes or No.

  {text}<end_of_turn>
  <start_of_turn>model
  """


def get_config():
  """The trainer."""
  return kd.train.Trainer(
    seed=42,
    # Data.
    train_ds=dataset(training=True),
    # Model.
    model=gm.nn.Gemma3_4B(tokens='batch.sentence', return_last_only=True),
    init_transform=gm.ckpts.LoadCheckpoint(
      path=gm.ckpts.CheckpointPath.GEMMA3_4B_IT
    ),
    # Training.
    num_train_steps=10_000,
    train_losses={
      'xentropy': kd.losses.SoftmaxCrossEntropyWithIntLabels(
        logits='preds.logits', labels='batch.label'
      )
    },
    train_metrics={
      'accuracy': kd.metrics.Accuracy(
        logits='preds.logits', labels='batch.label'
      )
    },
    optimizer=optax.adafactor(learning_rate=1e-4),
    checkpointer=kd.ckpts.Checkpointer(save_interval_steps=500),
    # Evaluation.
    evals={
      'test': kd.evals.Evaluator(
        run=kd.evals.EveryNSteps(1000), ds=dataset(training=False)
      )
    },
  )


def dataset(*, training):
  """Prompts as tokens, and the token that answers each."""
  return kd.data.py.Tfds(
    name='glue/cola',
    split='train' if training else 'validation',
    shuffle=training,
    num_epochs=None if training else 1,
    batch_size=8,
    transforms=[
      kd.data.Elements(keep=['sentence', 'label']),
      gm.data.DecodeBytes(key='sentence'),
      gm.data.FormatText(key='sentence', template=TEMPLATE),
      gm.data.Tokenize(
        key='sentence', tokenizer=gm.text.Gemma3Tokenizer(), add_bos=True
      ),
      gm.data.Pad(key='sentence', max_length=MAX_LENGTH),
      gm.data.MapInts(key='label', old_to_new=ANSWERS),
      kd.data.Rearrange(key='label', pattern='... -> ... 1'),
    ],
  )


if __name__ == '__main__':
  import smoke

  question = 'Is this a correct English sentence? Answer with Yes or No.'
  smoke.main(
    get_config(),
    rows='sentences',
    prompt=f'{question}\n\nsleeps bird blue The',
  )
