"""Fine-tunes a model on pictures: it learns to name their colours in German.

Task: `Welche Farbe?` about a picture of one shape; the answer is one of eight
German words. LoRA adapters on the text part and on the vision encoder are all
that is trained.

Command, from a checkout of the repository:

  python examples/colours.py --out /tmp/german

Hardware: 2 CPU cores, no accelerator. Time: 4 minutes, while others used them.
Metric: 94 % exact answers about 100 held-out pictures; none before.

Any other model that sees is trained by the same lines: a batch has `tokens`
with `<start_of_image>` where the picture goes, `images`, and `weights` that say
which tokens are answers.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gemma import gm
from gemma import peft
import pictures

GERMAN = {
  'red': 'rot',
  'green': 'grün',
  'blue': 'blau',
  'yellow': 'gelb',
  'orange': 'orange',
  'purple': 'lila',
  'black': 'schwarz',
  'white': 'weiß',
}
QUESTION = 'Welche Farbe?'
STEPS, SMOKE_STEPS = 150, 2
ROWS, RANK, RATE = 16, 8, 1e-2
TESTS, SMOKE_TESTS = 100, 4
SEED = 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
  """Pictures, and questions about them with their answers.

  Attributes:
    tokens: `int32[rows, length]`, 0 behind the end.
    images: `uint8[rows, 1, 112, 112, 3]`.
    weights: 1 for tokens that are to be learned, else 0.
  """

  tokens: np.ndarray
  images: np.ndarray
  weights: np.ndarray


def scenes(rng: np.random.Generator, count: int, *, held_out: bool) -> list:
  """Scenes with one shape, of those held out for tests or of the others."""
  out: list[pictures.Scene] = []
  while len(out) < count:
    looks = [(rng.choice(pictures.SHAPES), rng.choice([*GERMAN]))]
    scene = pictures.make_scene(rng, looks)
    if pictures.is_held_out(scene) == held_out:
      out.append(scene)
  return out


def make_batch(step: int, tokenizer: gm.text.Tokenizer) -> Batch:
  """The batch of a step, of the seed and the step alone."""
  rng = np.random.default_rng((SEED, step))
  chosen = scenes(rng, ROWS, held_out=False)
  rows, weights = [], []
  for scene in chosen:
    parts = [{'type': 'text', 'text': QUESTION}, {'type': 'image'}]
    user = {'role': 'user', 'content': parts}
    answer = {'role': 'model', 'content': german(scene)}
    prompt = gm.text.encode_chat(tokenizer, [user])
    whole = gm.text.encode_chat(
      tokenizer, [user, answer], add_generation_prompt=False
    )[:-1]  # Up to and with the end of the turn.
    rows.append(whole)
    weights.append([0] * len(prompt) + [1] * (len(whole) - len(prompt)))
  length = 32  # One program for all batches.
  return Batch(
    np.array([row + [0] * (length - len(row)) for row in rows], np.int32),
    pictures.pixels(chosen)[:, None],
    np.array([row + [0] * (length - len(row)) for row in weights], np.float32),
  )


def german(scene: pictures.Scene) -> str:
  """The colour of the one shape."""
  return GERMAN[scene.things[0].colour]


def make_step(
  model: gm.nn.Transformer, base: Any, optimizer: optax.GradientTransformation
) -> Any:
  """One step of training; `base` stays as it is."""

  def loss(lora: Any, batch: Batch) -> jax.Array:
    params = peft.merge_params(base, lora)
    out = model.apply({'params': params}, batch.tokens, images=batch.images)
    losses = optax.softmax_cross_entropy_with_integer_labels(
      out.logits[:, :-1], batch.tokens[:, 1:]
    )
    weights = batch.weights[:, 1:]
    return jnp.sum(losses * weights) / jnp.sum(weights)

  @jax.jit
  def step(lora: Any, state: Any, batch: Batch) -> tuple[Any, Any, jax.Array]:
    value, grads = jax.value_and_grad(loss)(lora, batch)
    updates, state = optimizer.update(grads, state, lora)
    return optax.apply_updates(lora, updates), state, value

  return step


def test(
  model: gm.nn.Transformer, params: Any, tokenizer: Any, count: int
) -> float:
  """Share of held-out pictures whose colour is named exactly."""
  sampler = gm.text.ChatSampler(model=model, params=params, tokenizer=tokenizer)
  right = 0
  for scene in scenes(np.random.default_rng(SEED), count, held_out=True):
    picture = pictures.draw(scene)
    answer = sampler.chat(QUESTION, images=picture, max_new_tokens=16)
    right += answer == german(scene)
  return right / count


def main(argv: Sequence[str] | None = None) -> None:
  """Trains, tests, and saves the adapters for PEFT."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--out', help='Folder for the adapters.')
  parser.add_argument('--smoke', action='store_true', help='A few steps only.')
  args = parser.parse_args(argv)
  steps, tests = (SMOKE_STEPS, SMOKE_TESTS) if args.smoke else (STEPS, TESTS)
  model, base, tokenizer = gm.from_pretrained(
    gm.ckpts.CheckpointPath.GEMMA3_TINY_IT
  )
  lora = peft.init_lora(
    base,
    rank=RANK,
    rng=jax.random.key(SEED),
    targets=['attn', 'mlp', 'MultiHeadDotProductAttention'],
  )
  optimizer = optax.adamw(optax.cosine_decay_schedule(RATE, steps))
  step, state = make_step(model, base, optimizer), optimizer.init(lora)
  # New adapters change nothing.
  params = peft.merge_params(base, lora)
  print(f'before: {test(model, params, tokenizer, tests):.0%} right')
  start = time.time()
  for i in range(steps):
    lora, state, loss = step(lora, state, make_batch(i, tokenizer))
    if i % 10 == 0 or i == steps - 1:
      print(f'step {i} loss {loss:.4f} {time.time() - start:.0f} s', flush=True)
  params = peft.merge_params(base, lora)
  print(f'after: {test(model, params, tokenizer, tests):.0%} right')
  if args.out:
    gm.ckpts.save_adapter(args.out, model=model, params=params)
    print(args.out)


if __name__ == '__main__':
  main()
