"""Measures the tiny model: exact answers, bits per byte, tokens per second.

  python benchmarks/tiny_model.py --text shakespeare.txt ...

The text files are those of `examples/pretrain.py`, in the same order: the words
to spell come from the trained part of all, bits per byte from the held-out end
of the first. Questions about pictures go through `ChatSampler`, turn by turn.
Nothing that is measured here was trained on.
"""

import argparse
import collections
from collections.abc import Iterable
from collections.abc import Sequence
import json
import pathlib
import sys
import time
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gemma import gm

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'examples'))

import instructions
import picture_dialogues
import pictures
import pretrain

WINDOW = 512  # Tokens that the model sees at once; the later half is scored.
CHATS = (
  ('Hello!', 'What is 7 + 5?', 'Spell "castle".', 'Thank you!'),
  ('My name is Kate.', 'Sort 9 2 7 4.', 'What is my name?'),
  ('Who are you?', 'What can you do?', 'Bye!'),
)


class Tally(NamedTuple):
  """Right answers.

  Attributes:
    share: Of all.
    kinds: `right/all` by kind.
    wrong: (prompt, expected, answered) of the others.
  """

  share: float
  kinds: dict[str, str]
  wrong: list[tuple[str, str, str]]


def exact_answers(
  tiny: Any, rounds: Sequence[tuple[str, str, str]], batch_size: int = 50
) -> Tally:
  """Greedy answers that equal the expected ones.

  Args:
    tiny: What `gm.from_pretrained` returns.
    rounds: (kind, prompt, answer) of each.
    batch_size: Prompts sampled at once.
  """
  sampler = gm.text.Sampler(
    model=tiny.model,
    params=tiny.params,
    tokenizer=tiny.tokenizer,
    pad_length=64,
  )
  answers: list[str] = []
  for i in range(0, len(rounds), batch_size):
    chats = [
      [{'role': 'user', 'content': prompt}]
      for _, prompt, _ in rounds[i : i + batch_size]
    ]
    answers += sampler.sample(chats, max_new_tokens=64)
  # The end tag is part of a right answer: without it the turn never ends.
  return tally(
    (kind, prompt, f'{expected}<end_of_turn>', answer)
    for (kind, prompt, expected), answer in zip(rounds, answers, strict=True)
  )


def picture_answers(tiny: Any, count: int, seed: int) -> Tally:
  """Greedy answers to held-out questions about pictures.

  Earlier turns are held as they come; the last answer counts.

  Args:
    tiny: What `gm.from_pretrained` returns.
    count: Conversations.
    seed: Which of them.
  """
  chat = _chat(tiny)
  rounds = []
  for kind, dialogue in picture_dialogues.held_out(count, seed):
    chat.new_conversation()
    scenes = iter(dialogue.scenes)
    for prompt, _ in dialogue.turns:
      shown = prompt.count(picture_dialogues.IMAGE)
      images = [pictures.draw(next(scenes)) for _ in range(shown)]
      chat.chat(prompt, images=images or None, max_new_tokens=64)
    prompt, expected = dialogue.turns[-1]
    answer = chat.turns[-1].text
    rounds.append((kind, prompt, f'{expected}<end_of_turn>', answer))
  return tally(rounds)


def tally(rounds: Iterable[tuple[str, str, str, str]]) -> Tally:
  """Counts right answers.

  Args:
    rounds: (kind, prompt, expected, answered) of each.
  """
  right, total = collections.Counter(), collections.Counter()
  wrong = []
  for kind, prompt, expected, answer in rounds:
    total[kind] += 1
    if answer == expected:
      right[kind] += 1
    else:
      wrong.append((prompt, expected, answer))
  kinds = {kind: f'{right[kind]}/{total[kind]}' for kind in total}
  return Tally(right.total() / total.total(), kinds, wrong)


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


def speed(tiny: Any, count: int) -> tuple[float, str]:
  """Tokens per second of one long sample after warm-up, and its text."""
  sampler = gm.text.Sampler(
    model=tiny.model,
    params=tiny.params,
    tokenizer=tiny.tokenizer,
    sampling=gm.text.RandomSampling(temperature=0.7),
  )
  sampler.sample('ROMEO:\n', max_new_tokens=count, rng=0)
  start = time.perf_counter()
  out = sampler.sample(
    'ROMEO:\n', max_new_tokens=count, rng=0, return_state=True
  )
  return len(out.token_ids) / (time.perf_counter() - start), out.text


def transcripts(tiny: Any) -> list[str]:
  """Conversations of several turns, as they come."""
  chat, out = _chat(tiny), []
  for prompts in CHATS:
    chat.new_conversation()
    said = (chat.chat(prompt, max_new_tokens=64) for prompt in prompts)
    lines = zip(prompts, said, strict=True)
    out.append('\n'.join(f'> {prompt}\n{answer}' for prompt, answer in lines))
  return out


def _chat(tiny: Any) -> gm.text.ChatSampler:
  return gm.text.ChatSampler(
    model=tiny.model,
    params=tiny.params,
    tokenizer=tiny.tokenizer,
    multi_turn=True,
    cache_length=512,
    pad_length=64,
  )


def main(argv: Sequence[str] | None = None) -> None:
  """Prints wrong answers, samples, and the figures as JSON."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--text', nargs='+', required=True)
  parser.add_argument('--model', default=gm.ckpts.CheckpointPath.GEMMA3_TINY_IT)
  parser.add_argument('--dtype', help='To compute in; as stored by default.')
  parser.add_argument('--count', type=int, default=200, help='Of questions.')
  parser.add_argument('--seed', type=int, default=0, help='Which of them.')
  parser.add_argument('--batch-size', type=int, default=50)
  parser.add_argument('--tokens', type=int, default=512, help='To time.')
  args = parser.parse_args(argv)

  tiny = gm.from_pretrained(args.model, dtype=args.dtype)
  texts = [pretrain.split_text(path) for path in args.text]
  words = instructions.word_list('\n'.join(trained for trained, _ in texts))
  rounds = instructions.held_out(words, args.count, args.seed)
  answers = exact_answers(tiny, rounds, args.batch_size)
  seen = picture_answers(tiny, args.count, args.seed)
  tokens_per_second, sample = speed(tiny, args.tokens)
  for prompt, expected, answer in answers.wrong + seen.wrong:
    print(f'wrong: {prompt!r}: {answer!r} instead of {expected!r}')
  print(sample, *transcripts(tiny), sep='\n\n')
  figures = {
    'instructions': answers.share,
    'instructions_by_kind': answers.kinds,
    'pictures': seen.share,
    'pictures_by_kind': seen.kinds,
    'bits_per_byte': round(bits_per_byte(tiny, texts[0][1]), 4),
    'tokens_per_second': round(tokens_per_second),
  }
  print('\n' + json.dumps(figures))


if __name__ == '__main__':
  main()
