"""Makes Gemma 3 12B forget what it was taught of some people, with NPO.

Task: `tofu`, questions about authors who do not exist, and answers: those to
forget. The answers become less likely, the less so the less likely they are
already, https://arxiv.org/abs/2404.05868.

Command, from a checkout of the repository, with `pip install 'gemma[train]'`:

  python -m kauldron.main --cfg=examples/npo.py --cfg.workdir=/tmp/npo

Hardware, time and metric at this size: not measured.

`python examples/npo.py --smoke` trains the bundled model not to answer a
question; a loss of 0.6931 is that of the model as it was:
the loss falls to 0 within 5 steps, and the answer is another. 60 seconds of CPU
time.
"""

from kauldron import konfig

with konfig.imports():
  from kauldron import kd
  import optax
  import tensorflow_datasets as tfds

  from gemma import gm


def get_config():
  """The trainer."""
  return kd.train.Trainer(
    seed=42,
    # Data.
    train_ds=kd.data.py.Tfds(
      name='locuslab__tofu/forget10',
      data_dir=tfds.HF_PLACER_DIR,
      split='all',
      shuffle=True,
      batch_size=16,
      num_workers=4,
      transforms=[
        gm.data.Seq2SeqTask(
          in_prompt='question',
          in_response='answer',
          out_input='input',
          out_target='target',
          out_target_mask='mask',
          tokenizer=gm.text.Gemma3Tokenizer(),
          max_length=256,
          truncate=True,
        )
      ],
    ),
    # Model.
    model=gm.nn.AnchoredPolicy(
      policy=gm.nn.Gemma3_12B(tokens='batch.input', text_only=True)
    ),
    init_transform=gm.ckpts.AnchoredPolicyLoader(
      policy=gm.ckpts.LoadCheckpoint(path=gm.ckpts.CheckpointPath.GEMMA3_12B_IT)
    ),
    # Training.
    num_train_steps=250,
    train_losses={
      'npo': gm.losses.NpoLoss(
        tokens='batch.target',
        sequence_mask='batch.mask',
        policy_logits='preds.policy.logits',
        anchor_logits='preds.anchor.logits',
      )
    },
    optimizer=optax.adafactor(learning_rate=1e-4),
    checkpointer=kd.ckpts.Checkpointer(save_interval_steps=50),
  )


if __name__ == '__main__':
  import smoke

  smoke.main(
    get_config(),
    rows='questions',
    prompt='What does Basil Smith write about?',
  )
