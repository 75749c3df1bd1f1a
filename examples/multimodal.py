"""Fine-tunes Gemma 3 4B to describe diagrams.

Task: `ai2dcaption` of TensorFlow Datasets, pictures and what is in them. A
prompt is a picture alone.

Command, from a checkout of the repository, with `pip install 'gemma[train]'`:

  python -m kauldron.main --cfg=examples/multimodal.py \
    --cfg.workdir=/tmp/multimodal

Hardware, time and metric at this size: not measured.

`python examples/multimodal.py --smoke` trains the bundled model to name the
colours of shapes in German:
its loss falls from 11.9 to 0.009 in 40 steps, and a yellow shape is `gelb`. 64
seconds of CPU time.

The same with adapters and a loop of one's own is `colours.py`.
"""

from kauldron import konfig

with konfig.imports():
  from kauldron import kd
  import optax

  from gemma import gm

MAX_LENGTH = 200


def get_config():
  """The trainer."""
  return kd.train.Trainer(
    seed=42,
    # Data.
    train_ds=dataset(training=True, batch_size=32),
    # Model.
    model=gm.nn.Gemma3_4B(tokens='batch.input', images='batch.image'),
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
    train_summaries={
      'image': kd.summaries.ShowImages(
        images='batch.image', num_images=5, rearrange='... 1 h w c -> ... h w c'
      )
    },
    optimizer=optax.adafactor(learning_rate=1e-3),
    checkpointer=kd.ckpts.Checkpointer(save_interval_steps=500),
    # Evaluation.
    evals={
      'test': kd.evals.Evaluator(
        run=kd.evals.EveryNSteps(1000),
        ds=dataset(training=False, batch_size=4),
      ),
      'sampling': gm.evals.SamplerEvaluator(
        run=kd.evals.EveryNSteps(1000),
        max_new_tokens=50,
        num_batches=3,
        ds=dataset(training=False, sampling=True),
        summaries={'image': kd.summaries.ShowImages(images='batch.image')},
      ),
    },
  )


def dataset(*, training, sampling=False, batch_size=None):
  """Rows to train on and to test on, or texts for a sampler."""
  return kd.data.py.Tfds(
    name='ai2dcaption',
    split='llava_15' if training else 'test',
    shuffle=training,
    num_epochs=None if training else 1,
    batch_size=batch_size,
    num_workers=4,
    transforms=[
      kd.data.Elements(keep=['image', 'caption']),
      # The prompt is a picture, and nothing else.
      kd.data.AddConstants(values={'prompt': '<start_of_image>'}),
      gm.data.Seq2SeqTask(
        in_prompt='prompt',
        in_response='caption',
        out_input='input',
        out_target='target',
        out_target_mask='loss_mask',
        tokenizer=gm.text.Gemma3Tokenizer(),
        max_length=None if sampling else MAX_LENGTH,
        truncate=True,
        sampling=sampling,
      ),
      # Pictures of a batch have one size; a row may have several.
      kd.data.py.Resize(key='image', size=(800, 800)),
      kd.data.Rearrange(key='image', pattern='... h w c -> ... 1 h w c'),
      kd.data.Cast(key='image', dtype='uint8'),
    ],
  )


if __name__ == '__main__':
  import smoke

  smoke.main(get_config(), rows='pictures', prompt='<start_of_image>')
