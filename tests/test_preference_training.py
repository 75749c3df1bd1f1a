"""A preference is learned, holds for what was not trained on, and is spoken.

Stories have a girl and a boy, of whom one gives something to the other, and
who is which is drawn by lot. The bundled model says of both kinds of story
alike that the one who got it had it. It shall say the girl.
"""

import itertools

import jax
import numpy as np
import optax
import pytest

from gemma import gm

GIRLS = ('Anna', 'Mary', 'Kate', 'Lucy', 'Emma', 'Rose', 'Alice', 'Jane')
BOYS = ('Tom', 'John', 'Peter', 'Sam', 'Paul', 'Henry', 'George', 'Mark')
THINGS = ('book', 'ball', 'ring', 'hat', 'coat', 'cup', 'key', 'map', 'pen')
LENGTH = 40


def story(rng, girl, boy):
  """A question about a giver and a taker."""
  one, other = rng.permutation([girl, boy])
  thing = rng.choice(THINGS)
  return f'{one} gave a {thing} to {other}. Who had the {thing}?'


def example(tokenizer, prompt, *answers):
  """A prompt with the chosen answer and the rejected."""
  head = f'<start_of_turn>user\n{prompt}<end_of_turn>\n<start_of_turn>model\n'
  prompt = tokenizer.encode(head, add_bos=True)
  ids = np.zeros((2, LENGTH + 1), np.int32)
  mask = np.zeros((2, LENGTH + 1), bool)
  for row, answer in enumerate(answers):
    whole = [*prompt, *tokenizer.encode(f'{answer}<end_of_turn>')]
    ids[row, : len(whole)] = whole
    mask[row, len(prompt) : len(whole)] = True
  return {'tokens': ids[:, :-1], 'targets': ids[:, 1:], 'mask': mask[:, 1:]}


def stack(examples):
  return {key: np.stack([x[key] for x in examples]) for key in examples[0]}


def make_set(rng):
  """Stories to train on, and stories of other pairs to test with.

  Of those to train on, some reject a girl who is in another story, so that an
  answer is taken from its own.
  """
  couples = [*itertools.product(GIRLS, BOYS)]
  rng.shuffle(couples)
  train, test = [], []
  for i, (girl, boy) in enumerate(couples):
    for _ in range(8):
      row = story(rng, girl, boy), girl, boy
      (test if i < 12 else train).append(row)
    if i >= 12:
      stranger = rng.choice([x for x in GIRLS if x != girl])
      train += [(story(rng, girl, boy), girl, stranger) for _ in range(4)]
  return train, test


@pytest.mark.slow
def test_dpo_of_the_bundled_model(wide):
  rng = np.random.default_rng(0)
  model, params, tokenizer = (wide[k] for k in ('model', 'params', 'tokenizer'))
  train, test = make_set(rng)
  pairs = gm.losses.with_anchor_logprobs(
    model, params, [example(tokenizer, *row) for row in train], batch_size=32
  )
  held_out = stack([example(tokenizer, *row) for row in test])
  win_rate = gm.losses.WinRate(model)
  assert 0.35 < win_rate(params, held_out).value < 0.65

  loss = gm.losses.Preference(model)
  optimizer = optax.adam(1e-4)

  @jax.jit
  def step(params, state, batch):
    grads = jax.grad(lambda p: loss(p, batch, None).value)(params)
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(params, updates), state

  state = optimizer.init(params)
  for _ in range(40):
    rows = rng.choice(len(pairs), 16, replace=False)
    params, state = step(params, state, stack([pairs[i] for i in rows]))
  assert win_rate(params, held_out).value > 0.9

  # It is a model like any other, and has not forgotten the rest.
  chat = gm.text.ChatSampler(model=model, params=params, tokenizer=tokenizer)
  prompts, girls, _ = zip(*test[::8], strict=True)
  said = [chat.chat(prompt) for prompt in prompts]
  assert np.mean([x == y for x, y in zip(said, girls, strict=True)]) > 0.8
  assert chat.chat('What is the opposite of hot?') == 'cold'
