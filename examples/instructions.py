"""Instruction dialogues for the tiny model, made by rule.

Six kinds of instruction that a model of a few million parameters can learn
(`KINDS`), and small talk. Each prompt has exactly one right answer, so that
exact match is a fair measure.

A prompt is held out of training if `is_held_out(prompt)`: a hash of its exact
text, about one in twenty. The same question in other words may have been
trained on; the same text never was.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import re
import zlib

import numpy as np

Turns = list[tuple[str, str]]  # (prompt, answer) of each round.
Rng = np.random.Generator

HELD_OUT_ONE_IN = 20

_list = str.split  # Of a literal, which reads better without quotes.
_OPPOSITES = """hot cold|big small|up down|left right|day night|black white
good bad|fast slow|happy sad|old young|open closed|full empty|hard soft
high low|light dark|long short|loud quiet|near far|rich poor|right wrong
strong weak|tall short|thick thin|true false|warm cool|wet dry|wide narrow
early late|easy difficult|first last|in out|on off|over under|push pull
buy sell|come go|give take|win lose|love hate|laugh cry|start stop|yes no
always never|war peace|friend enemy|life death|north south|east west
summer winter|sweet sour|sharp blunt|clean dirty|brave cowardly|top bottom
before after|inside outside|more less|many few|ancient modern|cheap expensive
heavy light|deep shallow|front back|remember forget|find lose|rise fall
begin end|question answer|teacher student|king queen|brother sister"""
_COLOURS = _list('red blue green white black brown grey yellow')
_SIZES = _list('big small old young tall tiny')
_ANIMALS = _list("""fox dog cat horse bird mouse bear wolf lion duck sheep goat
cow pig frog owl snake rabbit""")
_VERBS = {
  'sit': 'sat', 'sleep': 'slept', 'hide': 'hid', 'wait': 'waited',
  'run': 'ran', 'play': 'played', 'stand': 'stood', 'sing': 'sang',
}  # fmt: skip
_WHERE = ('under', 'behind', 'near', 'on', 'in', 'beside')
_PLACES = _list("""table tree house river garden bridge hill wall box chair road
field boat barn gate bed""")
_NAMES = _list("""Anna Tom Mary John Kate Peter Lucy Sam Emma Paul Rose Henry
Alice George Jane Mark""")
_THINGS = _list("""book ball letter ring hat coat cup key flower sword crown
horse cake map lamp pen""")
_SMALL_TALK = {
  'Hello! How can I help you?': (
    'Hello', 'Hello!', 'Hi', 'Hi!', 'Hi there!', 'Hey', 'Good morning.',
    'Good evening!', 'Hello there.', 'hello', 'hi',
  ),
  'I am Gemma3 Tiny, a small demonstration model.': (
    'Who are you?', 'What are you?', 'What is your name?', 'who are you?',
    'Tell me who you are.', 'Tell me about yourself.', 'Introduce yourself.',
    'Are you a person?', 'Are you a robot?', 'Hello, who are you?',
  ),
  'I can add small numbers, count, spell, sort, and answer simple questions.': (
    'What can you do?', 'How can you help me?', 'What do you know?', 'Help',
    'Help me.', 'what can you do?', 'Can you help me?',
  ),
  'I am well, thank you.': (
    'How are you?', 'How are you today?', 'How do you do?', 'Are you well?',
  ),
  'You are welcome!': (
    'Thank you.', 'Thank you!', 'Thanks', 'Thanks!', 'Thanks a lot.',
    'Great, thanks.', 'thank you',
  ),
  'Goodbye!': (
    'Bye', 'Bye!', 'Goodbye.', 'Goodbye!', 'See you later.', 'Good night.',
  ),
}  # fmt: skip


def is_held_out(prompt: str) -> bool:
  """Whether a prompt is kept for evaluation, by its text alone."""
  return zlib.crc32(prompt.encode()) % HELD_OUT_ONE_IN == 0


def word_list(text: str, minimum: int = 2) -> list[str]:
  """Lower-case words of 3 to 8 letters that occur `minimum` times."""
  words, counts = np.unique(
    re.findall(r'\b[a-z]{3,8}\b', text), return_counts=True
  )
  found = [str(w) for w in words[counts >= minimum]]
  return found or ['garden', 'fox', 'house', 'table']


def arithmetic(rng: Rng, words: Sequence[str]) -> tuple[str, str]:
  """Sums up to 40 and differences within 0 to 40."""
  del words
  a, b = sorted(int(n) for n in rng.integers(0, 21, 2))
  if chance(rng, 0.5):
    a, b = (a, b) if chance(rng, 0.5) else (b, a)
    return pick(rng, (
      f'What is {a} + {b}?', f'{a} + {b} =', f'Add {a} and {b}.',
      f'What is {a} plus {b}?', f'Compute {a} + {b}.',
    )), str(a + b)  # fmt: skip
  c = a + b if chance(rng, 0.5) else b
  return pick(rng, (
    f'What is {c} - {a}?', f'{c} - {a} =', f'Subtract {a} from {c}.',
    f'What is {c} minus {a}?', f'Compute {c} - {a}.',
  )), str(c - a)  # fmt: skip


def counting(rng: Rng, words: Sequence[str]) -> tuple[str, str]:
  """Up or down, at most ten numbers, none above 40."""
  del words
  first = int(rng.integers(0, 32))
  last = first + int(rng.integers(2, 10))
  numbers = range(first, last + 1)
  if chance(rng, 0.3):
    numbers = numbers[::-1]
    prompts = (
      f'Count down from {last} to {first}.',
      f'Count backwards from {last} to {first}.',
    )
  else:
    prompts = (
      f'Count from {first} to {last}.',
      f'Count up from {first} to {last}.',
      f'List the numbers from {first} to {last}.',
      f'Can you count from {first} to {last}?',
    )
  return pick(rng, prompts), ' '.join(map(str, numbers))


def spelling(rng: Rng, words: Sequence[str]) -> tuple[str, str]:
  """A word letter by letter."""
  word = pick(rng, words)
  prompts = (
    f'Spell the word "{word}".',
    f'Spell "{word}".',
    f'How do you spell "{word}"?',
    f'Spell {word}.',
  )
  return pick(rng, prompts), ' '.join(word)


def sorting(rng: Rng, words: Sequence[str]) -> tuple[str, str]:
  """Three to five different numbers below 10, or three or four below 21."""
  del words
  top, most = (10, 6) if chance(rng, 0.6) else (21, 5)
  numbers = rng.choice(top, int(rng.integers(3, most)), replace=False)
  given = ' '.join(map(str, numbers))
  prompts = (
    f'Sort {given}.',
    f'Sort these numbers: {given}.',
    f'Put {given} in order.',
    f'Sort the numbers {given}.',
  )
  return pick(rng, prompts), ' '.join(map(str, np.sort(numbers)))


def opposites(rng: Rng, words: Sequence[str]) -> tuple[str, str]:
  """The other word of a pair, either way."""
  del words
  word, other = pick(rng, _OPPOSITE_OF)
  prompts = (
    f'What is the opposite of {word}?',
    f'What is the opposite of "{word}"?',
    f'Give the opposite of {word}.',
    f'Name the opposite of {word}.',
    f'The opposite of {word} is',
    f'Tell me the opposite of {word}.',
  )
  return pick(rng, prompts), other


def reading(rng: Rng, words: Sequence[str]) -> tuple[str, str]:
  """A question about a sentence that comes before it."""
  del words
  if chance(rng, 0.4):
    return _giving(rng)
  colour = chance(rng, 0.6)
  adjective = pick(rng, _COLOURS if colour else _SIZES)
  animal, verb = pick(rng, _ANIMALS), pick(rng, list(_VERBS))
  where = f'{pick(rng, _WHERE)} the {pick(rng, _PLACES)}'
  story = f'The {adjective} {animal} {_VERBS[verb]} {where}.'
  questions = [
    (f'Where did the {animal} {verb}?', where),
    (f'Where did the {adjective} {animal} {verb}?', where),
    (f'Who {_VERBS[verb]} {where}?', f'the {adjective} {animal}'),
    (f'What did the {animal} do?', _VERBS[verb]),
  ]
  if colour:
    questions.append((f'What colour was the {animal}?', adjective))
  question, answer = pick(rng, questions)
  return f'{story} {question}', answer


KINDS: dict[str, Callable[[Rng, Sequence[str]], tuple[str, str]]] = {
  'arithmetic': arithmetic,
  'counting': counting,
  'spelling': spelling,
  'sorting': sorting,
  'opposites': opposites,
  'reading': reading,
}
# Shares of training rounds: what lags in a pilot run gets more.
_SHARES = np.array([0.18, 0.10, 0.26, 0.22, 0.08, 0.16])


def training_dialogue(rng: Rng, words: Sequence[str]) -> Turns:
  """One to three rounds, none of them held out."""
  turns: Turns = []
  rounds = int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))
  name = pick(rng, _NAMES) if rounds > 1 and chance(rng, 0.2) else None
  if name:
    prompts = (f'My name is {name}.', f'I am {name}.', f'Hello, I am {name}.')
    turns.append((pick(rng, prompts), f'Hello {name}, nice to meet you!'))
  while len(turns) < rounds:
    turns.append(_training_round(rng, words))
  if name:
    prompts = ('What is my name?', 'Do you know my name?', 'Who am I?')
    turns[-1] = (pick(rng, prompts), f'Your name is {name}.')
  return turns


def greeting_dialogue(rng: Rng) -> Turns:
  """One round: a greeting and, in the same turn, small talk that asks."""
  greeting = pick(rng, ('Hello!', 'Hi!', 'Hi there!', 'Hey!', 'Good morning.'))
  asking = {
    answer: asked
    for answer, prompts in _SMALL_TALK.items()
    if (asked := [p for p in prompts if p[0].isupper() and p.endswith('?')])
  }
  answer = pick(rng, list(asking))
  asked = asking[answer]
  return [(f'{greeting} {pick(rng, asked)}', answer)]


def held_out(
  words: Sequence[str], count: int, seed: int = 0
) -> list[tuple[str, str, str]]:
  """`count` different held-out rounds as (kind, prompt, answer).

  Kinds take turns, so that each has its equal share. Raises a ValueError if a
  kind has too few: there are not many opposites.
  """
  rng = np.random.default_rng(seed)
  found: dict[str, tuple[str, str, str]] = {}
  while len(found) < count:
    kind = list(KINDS)[len(found) % len(KINDS)]
    draws = (KINDS[kind](rng, words) for _ in range(20_000))
    new = (d for d in draws if is_held_out(d[0]) and d[0] not in found)
    prompt, answer = next(new, ('', ''))
    if not prompt:
      raise ValueError(f'count={count}: too few held-out {kind}. Ask for less.')
    found[prompt] = (kind, prompt, answer)
  return list(found.values())


def render(turns: Turns) -> Iterator[tuple[str, bool]]:
  """Pieces of a dialogue in Gemma's chat format, without `<bos>`.

  Yields:
    A piece of text, and whether the model is to learn to write it.
  """
  for i, (prompt, answer) in enumerate(turns):
    lead = '\n' if i else ''
    yield f'{lead}<start_of_turn>user\n{prompt}<end_of_turn>\n', False
    yield '<start_of_turn>model\n', False
    yield f'{answer}<end_of_turn>', True


def _training_round(rng: Rng, words: Sequence[str]) -> tuple[str, str]:
  if chance(rng, 0.06):
    answer = pick(rng, list(_SMALL_TALK))
    return pick(rng, _SMALL_TALK[answer]), answer
  kind = KINDS[list(KINDS)[rng.choice(len(KINDS), p=_SHARES)]]
  while True:
    prompt, answer = kind(rng, words)
    if not is_held_out(prompt):
      return prompt, answer


def _giving(rng: Rng) -> tuple[str, str]:
  giver, taker = (str(n) for n in rng.choice(_NAMES, 2, replace=False))
  thing = pick(rng, _THINGS)
  question, answer = pick(rng, (
    (f'Who gave the {thing}?', giver),
    (f'Who got the {thing}?', taker),
    (f'What did {giver} give to {taker}?', f'a {thing}'),
    (f'What did {taker} get?', f'a {thing}'),
  ))  # fmt: skip
  return f'{giver} gave a {thing} to {taker}. {question}', answer


def chance(rng: Rng, share: float) -> bool:
  """Whether something of this likelihood happens."""
  return bool(rng.random() < share)


def pick(rng: Rng, options: Sequence):
  """One of them, all equally likely."""
  return options[int(rng.integers(len(options)))]


def _both_ways(pairs: str) -> list[tuple[str, str]]:
  """Each word once, with its first partner: one right answer per prompt."""
  out: dict[str, str] = {}
  for pair in re.split(r'[|\n]', pairs):
    one, other = pair.split()
    out.setdefault(one, other)
    out.setdefault(other, one)
  return list(out.items())


_OPPOSITE_OF = _both_ways(_OPPOSITES)
