"""Pretrains the text half of the model that ships with the package.

Task: continue text, and answer the instructions of `instructions.py` in the
Gemma chat format.

Command, from a checkout of the repository:

  python examples/pretrain.py --out /tmp/tiny --text \
      shakespeare.txt state_of_the_union.txt inaugural_addresses.txt

Hardware: 2 CPU cores, no accelerator. Time: 51 minutes. Metric: 96.5 % exact
answers to 200 held-out instructions, 2.25 bits per byte of held-out text, by
`python benchmarks/tiny_model.py`; `docs/model_card_tiny.md` has all of it.

Any text files will do. The first is the main one and gets more than half of
the text rows. The last 5 % of the bytes of each are never trained on, nor are
the instructions that `instructions.is_held_out` names. A batch is a function of
the seed and the step alone, so `--resume` repeats the losses of a run that was
not interrupted. `--smoke` takes a minute and teaches nothing.
"""

import argparse
from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import functools
import os
import pathlib
import shutil
import time
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import sentencepiece as spm

from gemma import gm
import instructions
import pretrain_tokenizer

SEED = 0
STEPS, SMOKE_STEPS = 2400, 3
TOKENS_PER_STEP, SMOKE_TOKENS_PER_STEP = 4096, 512
# Share of the run up to which rows have this length. Short rows are faster on
# a CPU; the long ones at the end teach positions that chats and samples reach.
LENGTHS = ((0.75, 128), (0.96, 256), (1.0, 512))
MUON_RATE, ADAM_RATE, WARMUP_STEPS = 0.02, 4e-3, 100
DIALOGUE_SHARE = 5 / 8  # Of the rows; the others are text.
MAIN_TEXT_SHARE = 0.6  # Of the text rows, if there are several texts.
PROMPT_WEIGHT = 0.1  # Loss of a user's tokens next to those of the model.
HELD_OUT_SHARE = 0.05
SAVE_EVERY, LOG_EVERY = 250, 20


def split_text(path: str | os.PathLike[str]) -> tuple[str, str]:
  """A text file as (trained on, held out): the last 5 % of its bytes."""
  data = epath.Path(path).read_bytes()
  cut = len(data) - int(len(data) * HELD_OUT_SHARE)
  # Not in the middle of a character: those bytes are 0b10xxxxxx.
  while cut < len(data) and data[cut] >> 6 == 0b10:
    cut += 1
  return data[:cut].decode(), data[cut:].decode()


class Data:
  """Batches: first rows of dialogues, then rows of text.

  Attributes:
    words: Words to spell, from the texts.
    tokenizer: SentencePiece model, trained on the texts and dialogues.
  """

  def __init__(
    self,
    texts: Sequence[str],
    tokenizer_path: pathlib.Path,
    dialogue: Callable[..., instructions.Turns] = (
      instructions.training_dialogue
    ),
    tokens_per_step: int = TOKENS_PER_STEP,
  ):
    """Encodes the texts; trains the tokenizer unless its file exists."""
    self._dialogue = dialogue
    self._tokens_per_step = tokens_per_step
    self.words = instructions.word_list('\n'.join(texts))
    if not tokenizer_path.exists():
      pretrain_tokenizer.train(self._lines(texts), tokenizer_path)
    self.tokenizer = spm.SentencePieceProcessor(model_file=str(tokenizer_path))
    self._texts = [np.array(self.tokenizer.encode(t), np.int32) for t in texts]
    shares = np.full(len(texts), 1.0)
    shares[0] = MAIN_TEXT_SHARE / (1 - MAIN_TEXT_SHARE) * max(len(texts) - 1, 1)
    self._shares = shares / shares.sum()

  def batch(self, step: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens `[rows, length + 1]`, and the weight of each as a target."""
    rng = np.random.default_rng([SEED, step])
    count = self._tokens_per_step // length
    dialogues = _dialogue_rows(count)
    rows = [self._dialogues(rng, length) for _ in range(dialogues)]
    rows += [self._text(rng, length) for _ in range(count - dialogues)]
    tokens, weights = zip(*rows, strict=True)
    return np.stack(tokens), np.stack(weights)

  def _text(self, rng: np.random.Generator, length: int):
    text = self._texts[int(rng.choice(len(self._texts), p=self._shares))]
    start = int(rng.integers(max(len(text) - length, 1)))
    tokens = np.resize(text[start : start + length], length)
    tokens = np.concatenate([[pretrain_tokenizer.BOS], tokens])
    return tokens.astype(np.int32), np.ones(length + 1, np.float32)

  def _dialogues(self, rng: np.random.Generator, length: int):
    """Dialogues one after the other, each behind `<bos>`."""
    tokens: list[int] = []
    weights: list[float] = []
    while len(tokens) <= length:
      tokens.append(pretrain_tokenizer.BOS)
      weights.append(0.0)
      turns = self._dialogue(rng, self.words)
      for piece, learned in instructions.render(turns):
        ids = self.tokenizer.encode(piece)
        tokens += ids
        weights += [1.0 if learned else PROMPT_WEIGHT] * len(ids)
    cut = length + 1
    return np.array(tokens[:cut], np.int32), np.array(weights[:cut], np.float32)

  def _lines(self, texts: Sequence[str]) -> list[str]:
    rng = np.random.default_rng(SEED)
    dialogues = (
      piece
      for _ in range(5000)
      for piece, _ in instructions.render(
        instructions.training_dialogue(rng, self.words)
      )
    )
    # The main text counts three times: most merges are to serve it.
    return '\n'.join([*texts, texts[0], texts[0], *dialogues]).split('\n')


def _dialogue_rows(rows: int) -> int:
  return int(rows * DIALOGUE_SHARE)


def make_optimizer(
  steps: int, muon_rate: float = MUON_RATE, adam_rate: float = ADAM_RATE
) -> optax.GradientTransformation:
  """Muon for the matrices, AdamW for the table and the norms."""

  def schedule(peak: float) -> optax.Schedule:
    warmup = min(WARMUP_STEPS, steps // 2)
    return optax.join_schedules(
      [
        optax.linear_schedule(0.0, peak, warmup),
        optax.linear_schedule(peak, 0.0, steps - warmup),
      ],
      [warmup],
    )

  return optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.contrib.muon(
      schedule(muon_rate),
      weight_decay=0.05,
      adam_learning_rate=schedule(adam_rate),
      adam_b2=0.98,
      muon_weight_dimension_numbers=_matrices,
    ),
  )


def _matrices(params: Any) -> Any:
  """Which axes of each weight are its input and its output; None: no matrix."""
  axes = {
    'q_einsum': (1, (0, 2)),  # N D H
    'kv_einsum': (2, (1, 3)),  # 2 K D H
    'attn_vec_einsum': ((0, 1), 2),  # N H D
    'gating_einsum': (2, 1),  # 2 F D
    'linear': (0, 1),  # F D
    # Of a vision encoder.
    **dict.fromkeys(('query', 'key', 'value'), (0, (1, 2))),  # W N H
    'out': ((0, 1), 2),  # N H W
    **dict.fromkeys(('Dense_0', 'Dense_1'), (0, 1)),  # W F, F W
  }

  def of(path, leaf):
    del leaf
    found = [axes[key.key] for key in path if key.key in axes]
    if not found or path[-1].key == 'bias':
      return None
    return optax.contrib.MuonDimensionNumbers(*found[0])

  return jax.tree_util.tree_map_with_path(of, params)


def make_step(model: gm.nn.Transformer, optimizer):
  """A jitted step: (params, state, tokens, weights) -> (.., .., losses)."""

  def loss(params, tokens, weights):
    out = model.apply({'params': params}, tokens[:, :-1])
    nll = optax.softmax_cross_entropy_with_integer_labels(
      out.logits, tokens[:, 1:]
    )
    weights = weights[:, 1:]
    parts = slice(None, cut := _dialogue_rows(len(nll))), slice(cut, None)
    chat, text = (
      jnp.sum((nll * weights)[rows]) / jnp.sum(weights[rows]) for rows in parts
    )
    return jnp.sum(nll * weights) / jnp.sum(weights), (chat, text)

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, state, tokens, weights):
    grads, losses = jax.grad(loss, has_aux=True)(params, tokens, weights)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, losses

  return step


def row_length(step: int, steps: int) -> int:
  """Tokens of a row at this step."""
  return next(n for share, n in LENGTHS if step < share * steps)


def config_of(*, smoke: bool) -> gm.nn.TransformerConfig:
  """The model that ships with the package; for a smoke test, fewer layers."""
  config = gm.nn.Gemma3_Tiny().config
  if not smoke:
    return config
  encoder = config.vision_encoder
  vit = encoder.siglip_encoder.clone(depth=1)
  return dataclasses.replace(
    config,
    attention_types=config.attention_types[-2:],
    vision_encoder=encoder.clone(siglip_encoder=vit),
  )


def train(args: argparse.Namespace, data: Data, out: pathlib.Path) -> Any:
  """Runs to the last step and returns the parameters."""
  config = config_of(smoke=args.smoke)
  model = gm.nn.Gemma3_Tiny(text_only=True, dtype=jnp.float32, config=config)
  optimizer = make_optimizer(args.steps)
  tokens = jnp.ones((1, 8), jnp.int32)
  params = jax.jit(model.init)(jax.random.key(SEED), tokens)['params']
  ckpts = gm.ckpts.RunCheckpoints(out / 'checkpoints', keep=1)
  # Batches follow from the step, so that the run has no more state than this.
  state, first, _ = ckpts.resume(like=(params, jax.jit(optimizer.init)(params)))
  step_fn, start = make_step(model, optimizer), time.time()
  last = min(args.steps, args.stop_at or args.steps) - 1
  for step in range(first, last + 1):
    batch = data.batch(step, row_length(step, args.steps))
    params, opt_state, losses = step_fn(*state, *batch)
    state = params, opt_state
    if step % LOG_EVERY == 0 or step == last:
      chat, text = (float(x) for x in losses)
      print(
        f'step {step} chat {chat:.4f} text {text:.4f} '
        f'{time.time() - start:.0f} s',
        flush=True,
      )
    if (step + 1) % SAVE_EVERY == 0 or step == last:
      ckpts.save(step + 1, state)
  return state[0]


def main(argv: Sequence[str] | None = None) -> None:
  """Trains, then writes the Hugging Face folder `model` in `--out`."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--text', nargs='+', required=True, help='Text files.')
  parser.add_argument('--out', required=True, help='Folder to write to.')
  parser.add_argument('--steps', type=int, help=f'Default: {STEPS}.')
  parser.add_argument('--stop-at', type=int, help='End here; --resume later.')
  parser.add_argument('--resume', action='store_true', help='Go on in --out.')
  parser.add_argument('--smoke', action='store_true', help='Only try it out.')
  args = parser.parse_args(argv)
  args.steps = args.steps or (SMOKE_STEPS if args.smoke else STEPS)

  out = pathlib.Path(args.out)
  out.mkdir(parents=True, exist_ok=True)
  if (out / 'model').exists():
    parser.error(f'{out}/model exists. Remove it or choose another folder.')
  tokenizer_path = out / 'tokenizer.model'
  if not args.resume:
    tokenizer_path.unlink(missing_ok=True)
    if (out / 'checkpoints').exists():
      shutil.rmtree(out / 'checkpoints')
  data = Data(
    [split_text(path)[0] for path in args.text],
    tokenizer_path,
    tokens_per_step=SMOKE_TOKENS_PER_STEP if args.smoke else TOKENS_PER_STEP,
  )
  params = train(args, data, out)
  if args.stop_at:
    return
  gm.ckpts.save_hf(
    out / 'model',
    model=gm.nn.Gemma3_Tiny(
      text_only=True, config=config_of(smoke=args.smoke)
    ),
    params=jax.tree.map(lambda x: x.astype(jnp.bfloat16), params),
    tokenizer=gm.text.Gemma3Tokenizer(tokenizer_path),
  )


if __name__ == '__main__':
  main()
