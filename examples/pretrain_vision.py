"""Teaches the tiny model that ships with the package to see.

Task: answer questions about one or two pictures (`picture_questions.py`), in
the turn of the picture or later, and all that `pretrain.py` taught.

Command, from a checkout of the repository:

  python examples/pretrain_vision.py --start /tmp/tiny/model --out /tmp/seeing \
      --text shakespeare.txt state_of_the_union.txt inaugural_addresses.txt

Hardware: 2 CPU cores, no accelerator. Time: 2 hours 24 minutes, the encoder's 8
included. Metric: 98.5 % exact answers to 200 held-out questions about pictures,
97.5 % to 200 instructions, by `python benchmarks/tiny_model.py`.

Time and metric are those of the bundled model, which was made with this script
while it was changed: `docs/model_card_tiny.md` says when and how. What stands
here is the last state of it as one schedule, which was not run as such.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import functools
import itertools
import pathlib
import shutil
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import sentencepiece as spm

from gemma import gm
import picture_dialogues
import picture_model
import picture_rows
import pretrain
import pretrain_encoder

STEPS, SMOKE_STEPS = 7400, 2
ENCODER_STEPS, SMOKE_ENCODER_STEPS = 1500, 2
MUON_RATE, ADAM_RATE = 0.02, 4e-3
EXAM, SMOKE_EXAM = 400, 10  # Questions that are asked while it trains.
# Batches that the first projection is fitted to, and the size of what has no
# word; a word has 1.7.
WAYS = ('left', 'right'), ('above', 'below')
SPELLED_BATCHES, REST = 4, 0.4
# Stages, in steps. Up to these, rows have these lengths: short ones are faster.
LENGTHS = ((7100, 128), (STEPS, 256))
# From here the encoder learns too, at this share of the rate, and answers
# count by the root of their length. Before, each token counts: descriptions
# teach the most.
JOIN_AT, ENCODER_PACE = 1000, 0.2
# Up to these, what is shown and asked: at first as much as there is, then more
# of what lags in the exam. That is how things are counted, where one is from
# another, and what two pictures have in common.
_LAGGING = picture_dialogues.Mix(0.45, (
  # Of colour, shape, digit, counting, presence, place, describing.
  (0.12, (1, 1, 3, 1, 1, 2, 1)),  # One thing.
  (0.40, (1, 1, 1, 1, 2, 8, 2)),  # A few.
  (0.16, (1, 0, 6, 0, 1, 2, 3)),  # Digits.
  (0.35, (1, 1, 0, 8, 2, 3, 2)),  # Many.
), others=8, alike=(0.15, 0.65, 0.2))  # fmt: skip
MIXES = (
  (1500, picture_dialogues.ALL_QUESTIONS),
  (7100, _LAGGING),
  (STEPS, dataclasses.replace(_LAGGING, others=0)),
)
# Window of the model where dialogues have branches: more than a row.
ROOMY = 256
LOSSES = 'pictures', 'chat', 'text', *pretrain_encoder.LOSSES
SAVE_EVERY, LOG_EVERY, ASK_EVERY = 100, 20, 100


def make_step(
  model: gm.nn.Transformer, optimizer: Any, *, joined: bool, branched: bool
):
  """A jitted step: (params, state, batch) -> (params, state, losses).

  Args:
    model: The model.
    optimizer: Makes updates of gradients.
    joined: Whether the encoder learns too, slowly; what it was first taught
      then goes on beside the answers. Before the model can read, what answers
      would ask of it is noise, in which it forgets.
    branched: Whether rows of pictures have branches.
  """
  config = dataclasses.replace(model.config, sliding_window_size=ROOMY)
  roomy = model.clone(config=config)

  def loss(params, batch):
    tokens, weights = batch['tokens'], batch['weights'][:, 1:]
    counts = picture_rows.rows_of(weights.shape[1])
    features = picture_model.features_of(model, params, batch['images'])
    if not joined:
      features = jax.lax.stop_gradient(features)
    given, near = tokens[:, :-1], batch['branches'][:, :-1]
    if branched:
      logits = jnp.concatenate([
        picture_model.logits_of(
          roomy, params, given[: counts[0]], features, near
        ),
        picture_model.logits_of(
          model, params, given[counts[0] :], features[:0]
        ),
      ])  # fmt: skip
    else:
      logits = picture_model.logits_of(model, params, given, features)
    nll = weights * optax.softmax_cross_entropy_with_integer_labels(
      logits, jnp.maximum(tokens[:, 1:], 0)
    )
    cuts = itertools.pairwise((0, *itertools.accumulate(counts)))
    parts = [jnp.sum(nll[a:b]) / jnp.sum(weights[a:b]) for a, b in cuts]
    seen = pretrain_encoder.losses(features, params['reader'], batch['labels'])
    total = jnp.sum(nll) / jnp.sum(weights)
    return total + (sum(seen) if joined else 0.0), (*parts, *seen)

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, state, batch):
    grads, losses = jax.grad(loss, has_aux=True)(params, batch)
    updates, state = optimizer.update(grads, state, params)
    pace = ENCODER_PACE if joined else 0.0
    for key in ('vision_encoder', 'reader'):
      updates[key] = jax.tree.map(lambda x: pace * x, updates[key])
    return optax.apply_updates(params, updates), state, losses

  return step


def init(model: gm.nn.Transformer) -> Any:
  """Random parameters, those that read the encoder's answers too."""
  tokens = jnp.ones((1, 8), jnp.int32)
  params = jax.jit(model.init)(jax.random.key(pretrain.SEED), tokens)['params']
  encoder = model.config.vision_encoder
  return {**params, 'reader': pretrain_encoder.init_reader(encoder)}


def start_params(
  model: gm.nn.Transformer,
  args: argparse.Namespace,
  tokenizer: spm.SentencePieceProcessor,
) -> Any:
  """A text model, joined to an encoder that can see."""
  params = init(model)
  given = gm.ckpts.load_params(args.start, text_only=True, dtype=jnp.float32)
  given = {name: given[name] for name in given if name in params}
  params |= given | {'embedder': params['embedder'] | given['embedder']}
  params['vision_encoder'], params['reader'] = pretrain_encoder.train(
    model.config.vision_encoder,
    SMOKE_ENCODER_STEPS if args.smoke else ENCODER_STEPS,
  )
  params['embedder']['mm_input_projection']['w'] = _spelled(
    model, params, tokenizer
  )
  return params


def _spelled(
  model: gm.nn.Transformer,
  params: Any,
  tokenizer: spm.SentencePieceProcessor,
) -> jax.Array:
  """A projection whose soft tokens are like the words for what they show.

  The model can read words: it need not learn to read anew. Beside them stands
  everything else that the encoder says, in random directions.
  """
  table = params['embedder']['input_embedding']

  def embed(word: str) -> jax.Array:
    ids = sorted({*tokenizer.encode(word), *tokenizer.encode(f' {word}')})
    return (
      table[jnp.array(ids)].sum(axis=0) * (table.shape[1] / len(ids)) ** 0.5
    )

  names, colours = (
    jnp.stack(
      [embed(word) if word else jnp.zeros(table.shape[1]) for word in x]
    )
    for x in (pretrain_encoder.NAMES, pretrain_encoder.COLOURS)
  )
  ways = jnp.stack([embed(b) - embed(a) for a, b in WAYS]) / 2
  images, labels = zip(
    *map(pretrain_encoder.batch, range(SPELLED_BATCHES)), strict=True
  )
  looks, places = map(np.concatenate, zip(*labels, strict=True))
  x = picture_model.features_of(model, params, np.concatenate(images))
  x /= jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True))
  words = names[looks[..., 0]] + colours[looks[..., 1]]
  words += places @ ways * (looks[..., :1] > 0)
  x, words = (y.reshape(-1, y.shape[-1]) for y in (x, words))
  spelled = jnp.linalg.lstsq(x, words)[0]
  noise = jax.random.normal(jax.random.key(pretrain.SEED), spelled.shape)
  return spelled + noise * REST / x.shape[1] ** 0.5


def train(
  args: argparse.Namespace, data: picture_rows.Data, out: pathlib.Path
) -> Any:
  """Runs to the last step and returns the parameters."""
  model = _trainable(pretrain.config_of(smoke=args.smoke))
  optimizer = pretrain.make_optimizer(args.steps, MUON_RATE, ADAM_RATE)
  ckpts = gm.ckpts.RunCheckpoints(out / 'checkpoints', keep=1)
  if ckpts.steps:
    shapes = jax.eval_shape(lambda: init(model))
    like = shapes, jax.eval_shape(optimizer.init, shapes)
    state, first, _ = ckpts.resume(like=like)
  else:
    params, first = start_params(model, args, data.tokenizer), 0
    state = params, jax.jit(optimizer.init)(params)
    ckpts.save(0, state)  # The encoder took a while.
  step_of = functools.cache(lambda **ways: make_step(model, optimizer, **ways))
  exam = picture_model.Exam(model, data, SMOKE_EXAM if args.smoke else EXAM)
  start = time.time()
  last = min(args.steps, args.stop_at or args.steps) - 1
  for step in range(first, last + 1):
    at = step * STEPS // SMOKE_STEPS if args.smoke else step
    joined = at >= JOIN_AT
    mix = next(mix for until, mix in MIXES if at < until)
    batch = data.batch(
      step,
      next(length for until, length in LENGTHS if at < until),
      even=joined,
      mix=mix,
    )
    step_fn = step_of(joined=joined, branched=mix.others > 0)
    params, opt_state, losses = step_fn(*state, batch)
    state = params, opt_state
    if step % LOG_EVERY == 0 or step == last:
      named = zip(LOSSES, losses, strict=True)
      told = ' '.join(f'{name} {float(x):.4f}' for name, x in named)
      print(f'step {step} {told} {time.time() - start:.0f} s', flush=True)
    if (step + 1) % ASK_EVERY == 0 or step == last:
      print(f'step {step} {exam(params)}', flush=True)
    if (step + 1) % SAVE_EVERY == 0 or step == last:
      ckpts.save(step + 1, state)
  return state[0]


def _trainable(config: gm.nn.TransformerConfig) -> gm.nn.Transformer:
  """The model, with an encoder that learns."""
  encoder = config.vision_encoder.clone(apply_stop_gradient=False)
  config = dataclasses.replace(config, vision_encoder=encoder)
  return gm.nn.Gemma3_Tiny(dtype=jnp.float32, config=config)


def main(argv: Sequence[str] | None = None) -> None:
  """Trains, then writes the Hugging Face folder `model` in `--out`."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--text', nargs='+', required=True, help='Text files.')
  parser.add_argument('--out', required=True, help='Folder to write to.')
  parser.add_argument(
    '--start',
    type=pathlib.Path,
    default=pathlib.Path(gm.ckpts.CheckpointPath.GEMMA3_TINY_IT),
    help='Folder of the text model; the bundled one by default.',
  )
  parser.add_argument(
    '--steps', type=int, help=f'Where the rate ends. Default: {STEPS}.'
  )
  parser.add_argument('--stop-at', type=int, help='End here; --resume later.')
  parser.add_argument('--resume', action='store_true', help='Go on in --out.')
  parser.add_argument('--smoke', action='store_true', help='Only try it out.')
  args = parser.parse_args(argv)
  args.steps = args.steps or (SMOKE_STEPS if args.smoke else STEPS)

  out = pathlib.Path(args.out)
  out.mkdir(parents=True, exist_ok=True)
  if (out / 'model').exists():
    parser.error(f'{out}/model exists. Remove it or choose another folder.')
  if not args.resume and (out / 'checkpoints').exists():
    shutil.rmtree(out / 'checkpoints')
  tokenizer_path = args.start / 'tokenizer.model'
  texts = [pretrain.split_text(path)[0] for path in args.text]
  config = pretrain.config_of(smoke=args.smoke)
  data = picture_rows.Data(texts, tokenizer_path, config)
  params = train(args, data, out)
  if args.stop_at:
    return
  del params['reader']
  gm.ckpts.save_hf(
    out / 'model',
    model=gm.nn.Gemma3_Tiny(config=config),
    params=jax.tree.map(lambda x: x.astype(jnp.bfloat16), params),
    tokenizer=gm.text.Gemma3Tokenizer(tokenizer_path),
  )


if __name__ == '__main__':
  main()
