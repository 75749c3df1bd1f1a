"""Measures the tiny model: exact answers, bits per byte, tokens per second.

  python benchmarks/tiny_model.py --text shakespeare.txt ...

The text files are those of `examples/pretrain.py`, in the same order: the words
to spell come from the trained part of all, bits per byte from the held-out end
of the first. Nothing that is measured here was trained on.
"""

import argparse
import collections
from collections.abc import Sequence
import json
import pathlib
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gemma import gm

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'examples'))

import instructions
import pretrain

WINDOW = 512  # Tokens that the model sees at once; the later half is scored.
CHATS = (
  ('Hello!', 'What is 7 + 5?', 'Spell "castle".', 'Thank you!'),
  ('My name is Kate.', 'Sort 9 2 7 4.', 'What is my name?'),
  ('Who are you?', 'What can you do?', 'Bye!'),
)


def exact_answers(
  tiny: Any, rounds: Sequence[tuple[str, str, str]], batch_size: int = 50
) -> tuple[float, dict[str, str], list[tuple[str, str, str]]]:
  """Greedy answers that equal the expected ones.

  Args:
    tiny: What `gm.from_pretrained` returns.
    rounds: (kind, prompt, answer) of each.
    batch_size: Prompts sampled at once.

  Returns:
    The share that is right, `right/all` per kind, and (prompt, expected,
    answered) of the others.
  """
  sampler = gm.text.Sampler(
    model=tiny.model,
    params=tiny.params,
    tokenizer=tiny.tokenizer,
    cache_length=192,
    max_out_length=64,
    pad_length=64,
  )
  answers: list[str] = []
  for i in range(0, len(rounds), batch_size):
    chats = [
      [{'role': 'user', 'content': prompt}]
      for _, prompt, _ in rounds[i : i + batch_size]
    ]
    answers += sampler.sample(chats)
  right, total = collections.Counter(), collections.Counter()
  wrong = []
  for (kind, prompt, expected), answer in zip(rounds, answers, strict=True):
    total[kind] += 1
    # The end tag is part of a right answer: without it the turn never ends.
    if answer == f'{expected}<end_of_turn>':
      right[kind] += 1
    else:
      wrong.append((prompt, expected, answer))
  kinds = {kind: f'{right[kind]}/{total[kind]}' for kind in total}
  return right.total() / total.total(), kinds, wrong


def bits_per_byte(tiny: Any, text: str) -> float:
  """Negative log2 likelihood of all tokens of a text, over its UTF-8 bytes.

  Windows overlap by half, so each token but the first ones is seen with at
  least half a window of context.
  """
  ids = tiny.tokenizer.encode(text)
  score = jax.jit(lambda tokens: _log2_likelihood(tiny, tokens))
  half, bits, done = WINDOW // 2, 0.0, 0
  while done < len(ids):
    start = max(done - half, 0)
    window = ids[start : start + WINDOW - 1]
    tokens = np.zeros((1, WINDOW), np.int32)
    tokens[0, 0] = tiny.tokenizer.special_tokens.BOS
    tokens[0, 1 : len(window) + 1] = window
    likelihood = np.asarray(score(tokens))[0, : len(window)]
    bits -= float(likelihood[done - start :].sum())
    done = start + len(window)
  return bits / len(text.encode())


def _log2_likelihood(tiny: Any, tokens: jax.Array) -> jax.Array:
  """Of each token but the first, given those before it."""
  logits = tiny.model.apply({'params': tiny.params}, tokens).logits
  logs = jax.nn.log_softmax(logits[:, :-1])
  picked = jnp.take_along_axis(logs, tokens[:, 1:, None], axis=-1)[..., 0]
  return picked / jnp.log(2.0)


def speed(tiny: Any, count: int = 512) -> tuple[float, str]:
  """Tokens per second of one long sample after warm-up, and its text."""
  sampler = gm.text.Sampler(
    model=tiny.model,
    params=tiny.params,
    tokenizer=tiny.tokenizer,
    sampling=gm.text.RandomSampling(temperature=0.7),
    cache_length=count + 64,
    max_out_length=count,
    pad_length=32,
  )
  sampler.sample('ROMEO:\n', rng=0)
  start = time.perf_counter()
  out = sampler.sample('ROMEO:\n', rng=0, return_state=True)
  return len(out.token_ids) / (time.perf_counter() - start), out.text


def transcripts(tiny: Any) -> list[str]:
  """Conversations of several turns, as they come."""
  out = []
  for prompts in CHATS:
    chat = gm.text.ChatSampler(
      model=tiny.model,
      params=tiny.params,
      tokenizer=tiny.tokenizer,
      multi_turn=True,
      cache_length=512,
      max_out_length=64,
      pad_length=64,
    )
    lines = (f'> {prompt}\n{chat.chat(prompt)}' for prompt in prompts)
    out.append('\n'.join(lines))
  return out


def main() -> None:
  """Prints wrong answers, samples, and the figures as JSON."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--text', nargs='+', required=True)
  parser.add_argument('--model', default=gm.ckpts.CheckpointPath.GEMMA3_TINY_IT)
  parser.add_argument('--dtype', help='To compute in; as stored by default.')
  parser.add_argument('--count', type=int, default=200, help='Instructions.')
  parser.add_argument('--seed', type=int, default=0, help='Which of them.')
  args = parser.parse_args()

  tiny = gm.from_pretrained(args.model, dtype=args.dtype)
  texts = [pretrain.split_text(path) for path in args.text]
  words = instructions.word_list('\n'.join(trained for trained, _ in texts))
  rounds = instructions.held_out(words, args.count, args.seed)
  share, kinds, wrong = exact_answers(tiny, rounds)
  tokens_per_second, sample = speed(tiny)
  for prompt, expected, answer in wrong:
    print(f'wrong: {prompt!r}: {answer!r} instead of {expected!r}')
  print(sample, *transcripts(tiny), sep='\n\n')
  figures = {
    'exact': share,
    **kinds,
    'bits_per_byte': round(bits_per_byte(tiny, texts[0][1]), 4),
    'tokens_per_second': round(tokens_per_second),
  }
  print('\n' + json.dumps(figures))


if __name__ == '__main__':
  main()
