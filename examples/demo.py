"""Chats with the bundled model and lets it write: what `make demo` runs.

Task: a short conversation and a sample, streamed. Command: `make demo`.
Hardware: any CPU. Time: under half a minute.
"""

import time

from gemma import gm

QUESTIONS = (
  'Hello! Who are you?',
  'What is 7 + 5?',
  'Sort 9 2 7 4.',
  'Spell the word "garden".',
  'What is the opposite of hot?',
  'The red fox sat under the table. Where did the fox sit?',
)


def main() -> None:
  """Runs the demonstration."""
  start = time.monotonic()
  model, params, tokenizer = gm.from_pretrained(
    gm.ckpts.CheckpointPath.GEMMA3_TINY_IT
  )
  summary = gm.nn.summarize(model)
  print(f'Gemma3_Tiny: {summary.size:,} parameters, {summary.nbytes:,} bytes\n')

  chat = gm.text.ChatSampler(
    model=model, params=params, tokenizer=tokenizer, max_out_length=64
  )
  for question in QUESTIONS:
    print(f'you   > {question}\ngemma > ', end='', flush=True)
    chat.chat(question, print_stream=True)

  print('\nAnd a text, continued:\n')
  sampler = gm.text.Sampler(
    model=model,
    params=params,
    tokenizer=tokenizer,
    sampling=gm.text.TopPSampling(p=0.9, temperature=0.7),
    max_out_length=160,
  )
  print('ROMEO:', end='')
  for piece in sampler.sample('ROMEO:', rng=1, stream=True):
    print(piece, end='', flush=True)
  print(f'\n\n{time.monotonic() - start:.0f} s in all')


if __name__ == '__main__':
  main()
