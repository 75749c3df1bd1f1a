"""Questions about the pictures of `pictures.py`, with their answers.

`KINDS` are those that one picture is enough for; `comparing` asks about two.
Each question has exactly one right answer.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import itertools
import re

import numpy as np

import instructions
import pictures

_chance, _pick = instructions.chance, instructions.pick

Rng = np.random.Generator
Round = tuple[str, str]  # Question, answer.
Scene = pictures.Scene
Thing = pictures.Thing

_APART = 18  # Pixels from which one thing is left of or above another.
_PLURALS = {name: f'{name}s' for name in pictures.SHAPES} | {'cross': 'crosses'}


def colour(rng: Rng, scene: Scene) -> list[Round]:
  """The colour of the only thing of its name."""
  out = []
  for thing in _unique(scene.things, 'name'):
    the = f'the {thing.name}'
    prompts = [
      f'What colour is {the}?',
      f'What color is {the}?',
      f'Which colour is {the}?',
      f'Name the colour of {the}.',
    ]
    if len(scene.things) == 1:
      prompts += ['What colour is it?', 'What colour is this?']
    out.append((_pick(rng, prompts), thing.colour))
  return out


def shape(rng: Rng, scene: Scene) -> list[Round]:
  """The shape of the only thing of its colour."""
  out = []
  for thing in _unique(scene.things, 'colour'):
    if thing.is_digit:
      continue
    prompts = [
      f'What shape is {thing.colour}?',
      f'Which shape is {thing.colour}?',
      f'What is the {thing.colour} shape?',
    ]
    if len(scene.things) == 1:
      prompts += ['What shape is it?', 'What shape is this?']
    out.append((_pick(rng, prompts), thing.name))
  return out


def digit(rng: Rng, scene: Scene) -> list[Round]:
  """Which digits there are, or which has a colour."""
  digits = [thing for thing in scene.things if thing.is_digit]
  if len(digits) == 1:
    prompts = ['Which digit is this?', 'What digit is it?', 'Read the digit.']
    return [(_pick(rng, prompts), digits[0].name)]
  if not digits:
    return []
  out = []
  if _steps(digits, 'x'):
    prompts = ['Which digits are there?', 'Read the digits.']
    out.append((_pick(rng, prompts), ' '.join(d.name for d in digits)))
  for thing in _unique(scene.things, 'colour'):
    if thing.is_digit:
      out.append((f'Which digit is {thing.colour}?', thing.name))
  names = [int(thing.name) for thing in digits]
  if len(set(names)) > 1:
    # Not the largest: that may be the one that is drawn so.
    out.append(('Which digit has the highest value?', str(max(names))))
  return out


def counting(rng: Rng, scene: Scene) -> list[Round]:
  """How many of a name, of a colour, or in all."""
  shapes = [thing for thing in scene.things if not thing.is_digit]
  if not shapes:
    return []
  named = [_pick(rng, shapes).name, _pick(rng, pictures.SHAPES)]
  coloured = [_pick(rng, shapes).colour, _pick(rng, list(pictures.COLOURS))]
  # Now and then something that is hardly there.
  name = named[_chance(rng, 0.15)]
  tint = coloured[_chance(rng, 0.15)]
  plural = _PLURALS[name]
  prompts = [f'How many {plural} are there?', f'Count the {plural}.']
  return [
    ('How many shapes are there?', str(len(shapes))),
    (_pick(rng, prompts), str(_count(shapes, name=name))),
    (f'How many {tint} shapes are there?', str(_count(shapes, colour=tint))),
  ]


def presence(rng: Rng, scene: Scene) -> list[Round]:
  """Whether there is such a thing; about as often yes as no."""
  thing = _pick(rng, scene.things)
  name, tint = thing.name, thing.colour
  if _chance(rng, 0.5):
    names = pictures.DIGITS if thing.is_digit else pictures.SHAPES
    if _chance(rng, 0.5):
      name = _pick(rng, names)
    else:
      tint = _pick(rng, list(pictures.COLOURS))
  found = _yes(_count(scene.things, name=name, colour=tint))
  return [(f'Is there {_a(tint)} {name}?', found)]


def place(rng: Rng, scene: Scene) -> list[Round]:
  """Left, right, above, below: which it is, or what is there."""
  out = []
  unique = _unique(scene.things, 'name')
  for one in unique:
    where = _corner(one)
    if where:
      out.append((f'Where is the {one.name}?', where))
    for other in unique:
      across, down = one.x - other.x, one.y - other.y
      ends = f'the {one.name}', f'the {other.name}?'
      if abs(across) > _APART:
        question = f'Is {ends[0]} left or right of {ends[1]}'
        out.append((question, 'left' if across < 0 else 'right'))
      if abs(down) > _APART:
        question = f'Is {ends[0]} above or below {ends[1]}'
        out.append((question, 'above' if down < 0 else 'below'))
  if len(scene.things) > 1:
    out += _at_the_ends(scene)
  return [_pick(rng, out)] if out else []


def describing(rng: Rng, scene: Scene) -> list[Round]:
  """All things, from left to right."""
  if len(scene.things) > 3 or not _steps(scene.things, 'x'):
    return []
  prompts = (
    'What is in the picture?', 'Describe the picture.', 'What is this?',
  )  # fmt: skip
  names = [_describe(thing) for thing in scene.things]
  *most, last = names
  answer = f'{", ".join(most)} and {last}' if most else last
  return [(_pick(rng, prompts), answer)]


KINDS: dict[str, Callable[[Rng, Scene], list[Round]]] = {
  'colour': colour,
  'shape': shape,
  'digit': digit,
  'counting': counting,
  'presence': presence,
  'place': place,
  'describing': describing,
}


def comparing(rng: Rng, first: Scene, second: Scene) -> list[Round]:
  """Questions that need both pictures, or say which one they mean."""
  out = []
  both = first.things, second.things
  shapes = [[t for t in things if not t.is_digit] for things in both]
  if all(shapes):
    name = _pick(rng, shapes[int(rng.integers(2))]).name
    counts = [_count(things, name=name) for things in shapes]
    if max(counts) > 1:
      question = f'Which picture has more {_PLURALS[name]}?'
      out.append((question, _more(*counts)))
    counts = [len(things) for things in shapes]
    if max(counts) > 1:
      out.append(('Which picture has more shapes?', _more(*counts)))
  thing = _pick(rng, both[int(rng.integers(2))])
  has = [bool(_count(things, name=thing.name)) for things in both]
  if has[0] != has[1]:
    out.append((f'Which picture has {_a(thing.name)}?', _more(*has)))
  if len(first.things) == len(second.things) == 1:
    one, other = first.things[0], second.things[0]
    out.append(('Are they the same colour?', _yes(one.colour == other.colour)))
    # Not whether they are the same: they may differ in colour or size alone.
    if one.is_digit == other.is_digit:
      what = 'digit' if one.is_digit else 'shape'
      out.append((f'Are they the same {what}?', _yes(one.name == other.name)))
  return out + _about_either(rng, first, second)


def _about_either(rng: Rng, first: Scene, second: Scene) -> list[Round]:
  """A question about one picture that says which one it means."""
  which = int(rng.integers(2))
  scene = (first, second)[which]
  asked = [r for kind in (colour, shape, counting) for r in kind(rng, scene)]
  asked = [(q, a) for q, a in asked if re.search(r'(?<! it)(?<! this)\?$', q)]
  if not asked:
    return []
  question, answer = _pick(rng, asked)
  ordinal = ('first', 'second')[which]
  return [(f'{question[:-1]} in the {ordinal} picture?', answer)]


def _unique(things: Sequence[Thing], field: str) -> list[Thing]:
  """Those that are the only ones with their name, or colour."""
  values = [getattr(thing, field) for thing in things]
  pairs = zip(things, values, strict=True)
  return [thing for thing, value in pairs if values.count(value) == 1]


def _at_the_ends(scene: Scene) -> Iterator[Round]:
  """What is first and last, where it is clear."""
  ends_of = {
    'x': ('on the left', 'on the right'),
    'y': ('at the top', 'at the bottom'),
  }
  for axis, ends in ends_of.items():
    things = sorted(scene.things, key=lambda thing: getattr(thing, axis))
    if _steps(things[:2], axis):
      yield f'What is {ends[0]}?', _describe(things[0])
    if _steps(things[-2:], axis):
      yield f'What is {ends[1]}?', _describe(things[-1])


def _corner(thing: Thing) -> str:
  """Where something is, if it is in a corner or in the middle."""
  middle = pictures.SIZE / 2
  across, down = thing.x - middle, thing.y - middle
  if max(abs(across), abs(down)) < 8:
    return 'in the middle'
  if min(abs(across), abs(down)) < 16:
    return ''
  row = 'top' if down < 0 else 'bottom'
  return f'{row} {"left" if across < 0 else "right"}'


def _steps(things: Sequence[Thing], axis: str) -> bool:
  """Whether neighbours are far enough apart for their order to be clear."""
  places = [getattr(thing, axis) for thing in things]
  return all(b - a > _APART for a, b in itertools.pairwise(places))


def _count(things: Sequence[Thing], **fields: str) -> int:
  return sum(
    all(getattr(thing, key) == value for key, value in fields.items())
    for thing in things
  )


def _describe(thing: Thing) -> str:
  return f'{_a(thing.colour)} {thing.name}'


def _a(word: str) -> str:
  return f'an {word}' if word in ('orange', '8') else f'a {word}'


def _yes(condition: object) -> str:
  return 'yes' if condition else 'no'


def _more(first: int, second: int) -> str:
  if first == second:
    return 'neither'
  return 'the first' if first > second else 'the second'
