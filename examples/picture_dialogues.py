"""Conversations about the pictures of `pictures.py`.

Several turns about a picture, a picture that comes later, two pictures in a
turn, before or behind the words: what a chat may look like. A placeholder in a
prompt stands for each picture.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses

import numpy as np

import instructions
import picture_questions
import pictures

_chance, _pick = instructions.chance, instructions.pick

Rng = np.random.Generator
Scene = pictures.Scene
Looks = list[tuple[str, str]]  # (name, colour) of each thing.

Shares = Sequence[float]  # Of each of `picture_questions.KINDS`.

IMAGE = '<start_of_image>'


@dataclasses.dataclass(frozen=True)
class Mix:
  """What is shown and asked how often in training.

  Attributes:
    pairs: Share of dialogues whose first turn shows two pictures.
    alike: Shares among those of several things of one name, of one thing in
      each, and of a few.
    families: (share, `Shares` of questions about it) of each of `FAMILIES`.
      Without the second, as many of a kind as can be asked, and often the one
      first that asks for all.
    others: Most `Dialogue.others` of a dialogue. If there are any, it has one
      or two turns; without, up to four.
  """

  pairs: float
  families: Sequence[tuple[float, Shares | None]]
  others: int = 0
  alike: Shares = (0.3, 0.35, 0.35)


@dataclasses.dataclass(frozen=True)
class Dialogue:
  """A conversation about pictures.

  Attributes:
    turns: (prompt, answer) of each.
    scenes: The pictures of the placeholders in the prompts.
    others: What might be the last turn instead, about the same pictures.
  """

  turns: instructions.Turns
  scenes: list[Scene]
  others: instructions.Turns = dataclasses.field(default_factory=list)


def training_scene(rng: Rng) -> Scene:
  """One that is not held out."""
  return _any_scene(rng, held_out=False)


def _any_scene(rng: Rng, *, held_out: bool) -> Scene:
  family = FAMILIES[_draw(rng, _FAMILY_SHARES)]
  return _scene_of(rng, family, held_out=held_out)


def _scene_of(
  rng: Rng, family: Callable[[Rng], Looks], *, held_out: bool
) -> Scene:
  """A scene of a family that training may draw, or one that it may not."""
  while True:
    scene = pictures.make_scene(rng, family(rng))
    if pictures.is_held_out(scene) == held_out:
      return scene


def _one(rng: Rng) -> Looks:
  """A shape or a digit."""
  names = pictures.DIGITS if _chance(rng, 0.4) else pictures.SHAPES
  return [(_pick(rng, names), _colour(rng))]


def _few(rng: Rng) -> Looks:
  """Two or three different shapes; in place of one there may be a digit."""
  count = 2 + _chance(rng, 0.5)
  names = list(rng.choice(pictures.SHAPES, count, replace=False))
  if _chance(rng, 0.2):
    names[0] = _pick(rng, pictures.DIGITS)
  return [(str(name), _colour(rng)) for name in names]


def _digits(rng: Rng) -> Looks:
  """Two or three, each of a colour of its own."""
  count = 2 + _chance(rng, 0.3)
  colours = rng.choice(list(pictures.COLOURS), count, replace=False)
  return [(_pick(rng, pictures.DIGITS), str(colour)) for colour in colours]


def _many(rng: Rng) -> Looks:
  """One to five shapes of at most two names and two colours."""
  names = [_pick(rng, pictures.SHAPES) for _ in range(2)]
  tints = [_colour(rng) for _ in range(2)]
  count = int(rng.integers(1, 6))
  return [(_pick(rng, names), _pick(rng, tints)) for _ in range(count)]


def _same(rng: Rng, name: str) -> Looks:
  """One to five of a name."""
  return [(name, _colour(rng)) for _ in range(int(rng.integers(1, 6)))]


FAMILIES = (_one, _few, _digits, _many)
_FAMILY_SHARES = (0.25, 0.3, 0.15, 0.3)  # Of held-out scenes.
# One question of each kind about a held-out scene, in any order.
_EVEN: Shares = (1,) * len(picture_questions.KINDS)

ALL_QUESTIONS = Mix(0.25, [(share, None) for share in _FAMILY_SHARES])


def _questions(rng: Rng, scene: Scene) -> instructions.Turns:
  """All that can be asked, often the one first that asks for most."""
  kinds = picture_questions.KINDS.values()
  found = [r for kind in kinds for r in kind(rng, scene)]
  found = [found[i] for i in rng.permutation(len(found))]
  if _chance(rng, 0.45):
    most = max(range(len(found)), key=lambda i: len(found[i][1]))
    found.insert(0, found.pop(most))
  return found


def _questions_by(
  rng: Rng, scene: Scene, shares: Shares, *, repeat: bool
) -> instructions.Turns:
  """Different ones, of kinds that come by their shares; maybe repeatedly."""
  kinds = [*picture_questions.KINDS.values()]
  count = 2 * len(kinds) if repeat else len(kinds)
  share = np.array(shares, np.float64) / sum(shares)
  order = rng.choice(len(kinds), count, repeat, share)
  found = [kinds[i](rng, scene) for i in order]
  return [*dict(_pick(rng, some) for some in found if some).items()]


def training_dialogue(rng: Rng, mix: Mix = ALL_QUESTIONS) -> Dialogue:
  """One to three turns about one or two pictures, none of them held out.

  Args:
    rng: Draws it.
    mix: Of what.
  """
  if mix.others:
    return _with_others(rng, mix)
  if _chance(rng, mix.pairs):
    return two_at_once(rng, *_pair(rng, mix.alike, held_out=False))
  scene, asked = _asked(rng, mix)
  scenes, turns = [scene], _shown(rng, asked[: 1 + int(rng.integers(3))])
  if _chance(rng, 0.25):
    scene, asked = _asked(rng, mix)
    scenes.append(scene)
    turns = turns[:1] + _shown(rng, asked[: 1 + int(rng.integers(2))])
    found = picture_questions.comparing(rng, *scenes)
    if found and _chance(rng, 0.3):
      turns[2:] = [_pick(rng, found)]
  return Dialogue(turns, scenes)


def _with_others(rng: Rng, mix: Mix) -> Dialogue:
  """All that may be asked last stands behind the same pictures."""
  earlier: instructions.Turns = []
  if _chance(rng, mix.pairs):
    scenes = [*_pair(rng, mix.alike, held_out=False)]
    # Of those that are drawn, more than one draw.
    found = [
      r for _ in range(4) for r in picture_questions.comparing(rng, *scenes)
    ]
    asked = [*dict(found[i] for i in rng.permutation(len(found))).items()]
    form = _pick(rng, _TWO)
  else:
    scene, asked = _asked(rng, mix)
    scenes, form = [scene], _pick(rng, _ONE)
    if _chance(rng, 0.2):
      first, found = _asked(rng, mix)
      scenes, earlier = [first, scene], _shown(rng, found[:1])
  if form.endswith(IMAGE) or _chance(rng, 0.3):
    # Then it is the next turn that may differ.
    earlier += [(form.format(asked[0][0]), asked[0][1])]
    asked, form = asked[1:] or asked, '{}'
  last, *others = ((form.format(q), a) for q, a in asked[: 1 + mix.others])
  return Dialogue([*earlier, last], scenes, others)


def _asked(rng: Rng, mix: Mix) -> tuple[Scene, instructions.Turns]:
  """A picture, and questions about it."""
  shares, asked = zip(*mix.families, strict=True)
  which = _draw(rng, shares)
  while True:
    scene = _scene_of(rng, FAMILIES[which], held_out=False)
    by = asked[which]
    found = (
      _questions_by(rng, scene, by, repeat=True)
      if by
      else _questions(rng, scene)
    )
    if found:
      return scene, found


def two_at_once(rng: Rng, first: Scene, second: Scene) -> Dialogue:
  """Two pictures in the first turn, and up to three questions."""
  found = picture_questions.comparing(rng, first, second)
  asked = [found[i] for i in rng.permutation(len(found))[:3]]
  question, answer = asked[0]
  turns = [(with_two(rng, question), answer), *asked[1:]]
  return Dialogue(turns, [first, second])


def held_out(count: int, seed: int = 0) -> list[tuple[str, Dialogue]]:
  """`count` dialogues about held-out scenes, with the kind of the last turn.

  Only the last answer is to be looked at. Kinds take turns, so that each has
  its equal share: `KINDS` with one picture in the only turn; `comparing` with
  two; `again`, a second turn about the picture of the first; `another`, a
  second turn with a picture of its own.
  """
  rng = np.random.default_rng(seed)
  kinds = [*picture_questions.KINDS, 'comparing', 'again', 'another']
  return [
    (kind, _held_out_dialogue(rng, kind))
    for kind in (kinds[i % len(kinds)] for i in range(count))
  ]


def _held_out_dialogue(rng: Rng, kind: str) -> Dialogue:
  if kind == 'comparing':
    pair = _pair(rng, ALL_QUESTIONS.alike, held_out=True)
    dialogue = two_at_once(rng, *pair)
    return Dialogue(dialogue.turns[:1], dialogue.scenes)
  while True:
    scene = _any_scene(rng, held_out=True)
    if kind == 'again':
      turns = _about(rng, scene, 2)
      if len(turns) == 2:
        return Dialogue(turns, [scene])
    elif kind == 'another':
      other = _any_scene(rng, held_out=True)
      turns = _about(rng, scene, 1) + _about(rng, other, 1)
      return Dialogue(turns, [scene, other])
    elif found := picture_questions.KINDS[kind](rng, scene):
      question, answer = _pick(rng, found)
      return Dialogue([(with_one(rng, question), answer)], [scene])


def with_one(rng: Rng, question: str) -> str:
  """A picture before or behind the words."""
  return _pick(rng, _ONE).format(question)


def with_two(rng: Rng, question: str) -> str:
  """Two pictures before, behind or between the words."""
  return _pick(rng, _TWO).format(question)


_ONE = (
  f'{IMAGE}{{}}', f'{IMAGE}\n{{}}', f'{IMAGE} {{}}',
  f'{{}}{IMAGE}', f'{{}} {IMAGE}', f'{{}}\n{IMAGE}',
)  # fmt: skip
_TWO = (
  f'{IMAGE}{IMAGE}{{}}', f'{IMAGE}{IMAGE}\n{{}}', f'{IMAGE} {IMAGE} {{}}',
  f'{{}} {IMAGE}{IMAGE}', f'{{}}{IMAGE}{IMAGE}', f'{{}}\n{IMAGE}{IMAGE}',
  f'First: {IMAGE} second: {IMAGE} {{}}',
)  # fmt: skip


def _about(rng: Rng, scene: Scene, count: int) -> instructions.Turns:
  """Turns of different kinds about one picture, which comes with the first."""
  asked = _questions_by(rng, scene, _EVEN, repeat=False)
  return _shown(rng, asked[:count])


def _shown(rng: Rng, asked: instructions.Turns) -> instructions.Turns:
  """The same, with a picture in the first turn."""
  (question, answer), *more = asked
  return [(with_one(rng, question), answer), *more]


def _pair(rng: Rng, alike: Shares, *, held_out: bool) -> tuple[Scene, Scene]:
  """Two scenes that are worth comparing, with a thing or two in common."""
  family = (_same, _one, _few)[_draw(rng, alike)]
  if family is _same:
    name = _pick(rng, pictures.SHAPES)
    looks = _same(rng, name), _same(rng, name)
  else:
    looks = family(rng), family(rng)
    while (
      family is _one
      and len({look[0][0] in pictures.DIGITS for look in looks}) > 1
    ):
      looks = looks[0], family(rng)
    name, colour = _pick(rng, looks[0])
    other = looks[1][0]
    looks[1][0] = _pick(rng, ((name, other[1]), (other[0], colour), other))
  first, second = (
    _scene_of(rng, lambda _, own=own: own, held_out=held_out) for own in looks
  )
  return first, second


def _draw(rng: Rng, shares: Sequence[float]) -> int:
  """The number of one of them, by their shares."""
  return int(rng.choice(len(shares), p=np.array(shares) / sum(shares)))


def _colour(rng: Rng) -> str:
  return _pick(rng, list(pictures.COLOURS))
