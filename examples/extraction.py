"""What a sentence says, as JSON: a kind of task that the tiny model never saw.

  As JSON: Anna gave a ring to Tom.
  {"from": "Anna", "to": "Tom", "what": "ring"}

Each prompt has exactly one right answer. It is held out of training if
`instructions.is_held_out(prompt)`: the same sentence in another wording may
have been trained on; the same text never was.
"""

from collections.abc import Iterator
import json
import re

import numpy as np

from gemma import gm
import instructions

_PEOPLE = """Anna Tom Mary John Kate Peter Lucy Sam Emma Paul Rose Henry Alice
George Jane Mark""".split()
_THINGS = """book ball letter ring hat coat cup key flower sword crown horse
cake map lamp pen""".split()
_COLOURS = 'red blue green white black brown grey yellow'.split()
_ANIMALS = """fox dog cat horse bird mouse bear wolf lion duck sheep goat cow
pig frog owl snake rabbit""".split()
_DID = 'sat slept hid waited ran played stood sang'.split()
_WHERE = 'under behind near on in beside'.split()
_PLACES = """table tree house river garden bridge hill wall box chair road field
boat barn gate bed""".split()
_ASK = 'As JSON: {}', '{} As JSON, please.', 'Write this as JSON: {}'


def examples(
  rng: np.random.Generator, count: int, *, held_out: bool
) -> list[dict[str, object]]:
  """Different conversations of one round, as lines of a file of messages.

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
  return [conversation([pair]) for pair in found.items()]


def old_skills(
  rng: np.random.Generator, tokenizer: gm.text.Tokenizer
) -> Iterator[dict[str, object]]:
  """What the model was trained on, again; words to spell are its tokens."""
  tokens = (tokenizer.decode([i]) for i in range(tokenizer.vocab_size))
  words = [t.strip() for t in tokens if re.fullmatch(' ?[a-z]{3,8}', t)]
  while True:
    yield conversation(instructions.training_dialogue(rng, words))


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
  return ask.format(sentence), json.dumps(facts)


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
