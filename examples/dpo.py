"""Teaches Gemma 3 4B which of two answers is better, with DPO.

Task: `argilla/distilabel-math-preference-dpo` of Hugging Face: instructions
with an answer that was chosen and one that was rejected. The model is trained
beside a copy of how it was, https://arxiv.org/abs/2305.18290.

Command, from a checkout of the repository, with
`pip install 'gemma[train]' datasets`:

  python -m kauldron.main --cfg=examples/dpo.py --cfg.workdir=/tmp/dpo

Hardware, time and metric at this size: not measured.

`python examples/dpo.py --smoke` trains the bundled model to prefer short
answers; a loss of 0.6931 is that of the model as it was:
the loss falls to 0.003 in 40 steps, and `What is 2 + 3?` has the answer `5`. 54
seconds of CPU time.
"""

from kauldron import konfig

with konfig.imports():
  from kauldron import kd
  import optax

  from gemma import gm


def get_config():
  """The trainer."""
  return kd.train.Trainer(
    seed=42,
    # Data.
    train_ds=kd.data.py.HuggingFace(
      path='argilla/distilabel-math-preference-dpo',
      split='train',
      shuffle=True,
      batch_size=16,
      transforms=[
        kd.data.Elements(
          keep=['instruction', 'chosen_response', 'rejected_response']
        ),
        gm.data.ContrastiveTask(
          in_prompt='instruction',
          in_chosen='chosen_response',
          in_rejected='rejected_response',
          out_tokens='tokens',
          out_targets='targets',
          out_mask='mask',
          tokenizer=gm.text.Gemma3Tokenizer(),
          max_length=512,
          truncate=True,
        ),
      ],
    ),
    # Model.
    model=gm.nn.AnchoredPolicy(
      policy=gm.nn.Gemma3_4B(tokens='batch.tokens', text_only=True)
    ),
    init_transform=gm.ckpts.AnchoredPolicyLoader(
      policy=gm.ckpts.LoadCheckpoint(path=gm.ckpts.CheckpointPath.GEMMA3_4B_IT)
    ),
    # Training.
    num_train_steps=10_000,
    train_losses={
      'dpo': gm.losses.DpoLoss(
        tokens='batch.targets',
        sequence_mask='batch.mask',
        policy_logits='preds.policy.logits',
        anchor_logits='preds.anchor.logits',
      )
    },
    optimizer=optax.adafactor(learning_rate=1e-4),
    checkpointer=kd.ckpts.Checkpointer(save_interval_steps=500),
  )


if __name__ == '__main__':
  import smoke

  smoke.main(get_config(), rows='preferences', prompt='What is 2 + 3?')
