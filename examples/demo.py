"""Chats with the bundled model, shows it a picture and lets it write.

Task: a few answers and a sample, streamed. Command: `make demo`.
Hardware: any CPU. Time: under half a minute.
"""

import argparse
from collections.abc import Sequence
import time

from gemma import gm
import pictures

QUESTIONS = (
  'Hello! Who are you?',
  'What is 7 + 5?',
  'Sort 9 2 7 4.',
  'Spell the word "garden".',
  'What is the opposite of hot?',
  'The red fox sat under the table. Where did the fox sit?',
)
# Held out: it was never trained on.
SCENE = pictures.Scene(
  background='white',
  things=(
    pictures.Thing('circle', 'red', x=44, y=28, radius=20),
    pictures.Thing('star', 'blue', x=84, y=68, radius=22),
  ),
  seed=0,
)
ABOUT_IT = (
  'What is in the picture?',
  'What colour is the star?',
)


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the demonstration."""
  argparse.ArgumentParser(description=__doc__.split('\n')[0]).parse_args(argv)
  start = time.monotonic()
  model, params, tokenizer = gm.from_pretrained(
    gm.ckpts.CheckpointPath.GEMMA3_TINY_IT
  )
  summary = gm.nn.summarize(model)
  print(f'Gemma3_Tiny: {summary.size:,} parameters, {summary.nbytes:,} bytes\n')

  chat = gm.text.ChatSampler(model=model, params=params, tokenizer=tokenizer)
  for question in QUESTIONS:
    print(f'you   > {question}\ngemma > ', end='', flush=True)
    chat.chat(question, max_new_tokens=64, print_stream=True)

  print('\nIt is shown a red circle and, below on the right, a blue star:\n')
  picture, chat.multi_turn = [pictures.draw(SCENE)], True
  chat.new_conversation()
  for question in ABOUT_IT:
    print(f'you   > {question}\ngemma > ', end='', flush=True)
    chat.chat(question, images=picture, max_new_tokens=64, print_stream=True)
    picture = None  # The second question is about the same one.

  print('\nAnd a text, continued:\n')
  sampler = gm.text.Sampler(
    model=model,
    params=params,
    tokenizer=tokenizer,
    sampling=gm.text.TopPSampling(p=0.9, temperature=0.7),
  )
  print('ROMEO:', end='')
  for piece in sampler.sample('ROMEO:', max_new_tokens=160, rng=1, stream=True):
    print(piece, end='', flush=True)
  print(f'\n\n{time.monotonic() - start:.0f} s in all')


if __name__ == '__main__':
  main()
