"""What a sentence says, as YAML: a kind of task that the tiny model never saw.

  As YAML: Anna gave a ring to Tom.
  from: Anna
  to: Tom
  what: ring

Each prompt has exactly one right answer. It is held out of training if
`instructions.is_held_out(prompt)`: the same sentence in another wording may
have been trained on; the same text never was.
"""

import json
import pathlib
import re

import numpy as np

from gemma import gm
import instructions

SEED, NEW, OLD, TESTS = 0, 2000, 2000, 200

_list = str.split  # Of a literal, which reads better without quotes.
_PEOPLE = _list("""Anna Tom Mary John Kate Peter Lucy Sam Emma Paul Rose Henry
Alice George Jane Mark""")
_THINGS = _list("""book ball letter ring hat coat cup key flower sword crown
horse cake map lamp pen""")
_COLOURS = _list('red blue green white black brown grey yellow')
_ANIMALS = _list("""fox dog cat horse bird mouse bear wolf lion duck sheep goat
cow pig frog owl snake rabbit""")
_DID = _list('sat slept hid waited ran played stood sang')
_WHERE = _list('under behind near on in beside')
_PLACES = _list("""table tree house river garden bridge hill wall box chair road
field boat barn gate bed""")
_ASK = 'As YAML: {}', '{} As YAML, please.', 'Write this as YAML: {}'


def write(
  folder: pathlib.Path, tokenizer: gm.text.Tokenizer
) -> tuple[pathlib.Path, pathlib.Path]:
  """Makes two files of conversations, one in each line.

  Args:
    folder: Where to put them.
    tokenizer: Its tokens are the words to spell of the old instructions.

  Returns:
    The file to train on, half of it old instructions, and the one to test with.
  """
  rng = np.random.default_rng(SEED)
  new = sentences(rng, NEW, held_out=False)
  old = old_skills(rng, OLD, tokenizer)
  files = {'train': new + old, 'test': sentences(rng, TESTS, held_out=True)}
  folder.mkdir(parents=True, exist_ok=True)
  for name, rounds in files.items():
    lines = (json.dumps(conversation(turns)) for turns in rounds)
    (folder / f'{name}.jsonl').write_text('\n'.join(lines) + '\n')
  return folder / 'train.jsonl', folder / 'test.jsonl'


def sentences(
  rng: np.random.Generator, count: int, *, held_out: bool
) -> list[instructions.Turns]:
  """Different prompts with their answers.

  Args:
    rng: What chooses.
    count: How many.
    held_out: Whether those that are kept for evaluation, or the others.
  """
  found: dict[str, str] = {}
  while len(found) < count:
    prompt, answer = _round(rng)
    if instructions.is_held_out(prompt) == held_out:
      found[prompt] = answer
  return [[pair] for pair in found.items()]


def old_skills(
  rng: np.random.Generator, count: int, tokenizer: gm.text.Tokenizer
) -> list[instructions.Turns]:
  """Dialogues of the kinds that the model was trained on."""
  tokens = (tokenizer.decode([i]) for i in range(tokenizer.vocab_size))
  words = [t.strip() for t in tokens if re.fullmatch(' ?[a-z]{3,8}', t)]
  return [instructions.training_dialogue(rng, words) for _ in range(count)]


def conversation(turns: instructions.Turns) -> dict[str, object]:
  """A dialogue as messages."""
  messages = []
  for prompt, answer in turns:
    messages.append({'role': 'user', 'content': prompt})
    messages.append({'role': 'assistant', 'content': answer})
  return {'messages': messages}


def _round(rng: np.random.Generator) -> tuple[str, str]:
  sentence, facts = _giving(rng) if rng.random() < 0.5 else _animal(rng)
  ask = _ASK[rng.integers(len(_ASK))]
  lines = (f'{key}: {value}' for key, value in facts.items())
  return ask.format(sentence), '\n'.join(lines)


def _giving(rng: np.random.Generator) -> tuple[str, dict[str, str]]:
  giver, taker = (str(x) for x in rng.choice(_PEOPLE, 2, replace=False))
  thing = str(rng.choice(_THINGS))
  sentence = str(rng.choice([
    f'{giver} gave a {thing} to {taker}.',
    f'{giver} sent {taker} a {thing}.',
    f'{taker} got a {thing} from {giver}.',
  ]))  # fmt: skip
  return sentence, {'from': giver, 'to': taker, 'what': thing}


def _animal(rng: np.random.Generator) -> tuple[str, dict[str, str]]:
  colour, animal, did, where, place = (
    str(rng.choice(words))
    for words in (_COLOURS, _ANIMALS, _DID, _WHERE, _PLACES)
  )
  sentence = f'The {colour} {animal} {did} {where} the {place}.'
  facts = {'who': animal, 'colour': colour, 'did': did}
  return sentence, facts | {'where': f'{where} the {place}'}
