"""Pictures of shapes and digits, drawn by rule.

A `Scene` says what is where; `draw` makes pixels of it. Everything that no
question asks for (the exact tint, a tilt, the weight of a digit) is drawn at
random, so that a model cannot do without looking.

A scene is held out of training if `is_held_out(scene)`: a hash of what is
where, in steps of 8 pixels, about one in twenty. No picture with the same
things in the same places was ever trained on, in whatever tint; the same things
in other places were.
"""

from collections.abc import Sequence
import dataclasses
import functools
import math
import zlib

import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

Rng = np.random.Generator

SIZE = 112  # Rows and columns of a picture.
HELD_OUT_ONE_IN = 20
_SHARPER = 3  # Pixels drawn for one that remains, per axis: smooth edges.
_GRAIN = 8  # Pixels that count as the same place.
_MARGIN = 3  # Pixels between two things.
CELL = 28  # Pixels of a square that holds the centre of one thing at most.

SHAPES = ('circle', 'square', 'triangle', 'star', 'cross')
DIGITS = tuple('0123456789')
# Lowest and highest red, green and blue of each colour.
COLOURS = {
  'red': ((200, 0, 0), (255, 55, 55)),
  'green': ((0, 120, 0), (70, 220, 80)),
  'blue': ((0, 0, 180), (70, 110, 255)),
  'yellow': ((235, 215, 0), (255, 255, 90)),
  'orange': ((240, 130, 0), (255, 168, 50)),
  'purple': ((115, 0, 120), (160, 70, 200)),
  'black': ((0, 0, 0), (35, 35, 35)),
  'white': ((240, 240, 240), (255, 255, 255)),
}
_BACKGROUNDS = {
  'white': ((245, 245, 245), (255, 255, 255)),
  'pale': ((195, 195, 195), (235, 235, 235)),
  'grey': ((120, 120, 120), (145, 145, 145)),
  'black': ((0, 0, 0), (30, 30, 30)),
}
# Colours that cannot be seen on a background.
_LOST = {'white': 'white', 'pale': 'white', 'grey': '', 'black': 'black'}
# Smallest and largest radius by how many things share the picture.
_RADII = {1: (15, 42), 2: (13, 26), 3: (12, 20), 4: (11, 16), 5: (10, 14)}


@dataclasses.dataclass(frozen=True)
class Thing:
  """A shape or a digit; its centre and radius in pixels."""

  name: str
  colour: str
  x: int
  y: int
  radius: int

  @property
  def is_digit(self) -> bool:
    """Whether it is a digit and not a shape."""
    return self.name in DIGITS

  @property
  def cell(self) -> tuple[int, int]:
    """Row and column of the square that its centre is in."""
    return self.y // CELL, self.x // CELL


@dataclasses.dataclass(frozen=True)
class Scene:
  """What is where, from left to right, and what the rest is drawn by."""

  background: str
  things: tuple[Thing, ...]
  seed: int


def is_held_out(scene: Scene) -> bool:
  """Whether a scene is kept for evaluation, by what is where."""
  places = sorted(
    f'{thing.colour} {thing.name} {thing.x // _GRAIN} {thing.y // _GRAIN}'
    for thing in scene.things
  )
  text = f'{scene.background}: {", ".join(places)}'
  return zlib.crc32(text.encode()) % HELD_OUT_ONE_IN == 0


def make_scene(rng: Rng, looks: Sequence[tuple[str, str]]) -> Scene:
  """Things of the given (name, colour), each somewhere of its own."""
  colours = {colour for _, colour in looks}
  backgrounds = [b for b in _BACKGROUNDS if _LOST[b] not in colours]
  background = backgrounds[int(rng.integers(len(backgrounds)))]
  low, high = _RADII[len(looks)]
  while True:
    things: list[Thing] = []
    for name, colour in looks:
      radius = int(rng.integers(low, high + 1))
      thing = _place(rng, things, name, colour, radius)
      if thing is None:
        break
      things.append(thing)
    else:
      in_order = tuple(sorted(things, key=lambda thing: thing.x))
      return Scene(background, in_order, int(rng.integers(2**31)))


def draw(scene: Scene) -> Image.Image:
  """The picture of a scene, `SIZE` by `SIZE`."""
  rng = np.random.default_rng(scene.seed)
  size = SIZE * _SHARPER
  tint = _tint(rng, *_BACKGROUNDS[scene.background])
  image = Image.new('RGB', (size, size), tint)
  canvas = ImageDraw.Draw(image)
  for thing in scene.things:
    colour = _tint(rng, *COLOURS[thing.colour])
    if thing.is_digit:
      _draw_digit(canvas, thing, colour, rng)
    else:
      _draw_shape(canvas, thing, colour, rng)
  return image.reduce(_SHARPER)


def pixels(scenes: Sequence[Scene]) -> np.ndarray:
  """Pictures as one array, `uint8[N, SIZE, SIZE, 3]`."""
  return np.stack([np.asarray(draw(scene)) for scene in scenes])


def _place(
  rng: Rng, others: Sequence[Thing], name: str, colour: str, radius: int
) -> Thing | None:
  """Somewhere free; None if twenty tries find nothing."""
  for _ in range(20):
    x, y = (int(v) for v in rng.integers(radius + 1, SIZE - radius, 2))
    thing = Thing(name, colour, x, y, radius)
    if not any(_too_close(thing, other) for other in others):
      return thing
  return None


def _too_close(one: Thing, other: Thing) -> bool:
  apart = one.radius + other.radius + _MARGIN
  near = math.hypot(one.x - other.x, one.y - other.y) <= apart
  return near or one.cell == other.cell


def _tint(rng: Rng, low: Sequence[int], high: Sequence[int]):
  return tuple(int(v) for v in rng.integers(low, np.array(high) + 1))


def _draw_shape(
  canvas: ImageDraw.ImageDraw, thing: Thing, colour: tuple, rng: Rng
) -> None:
  x, y, radius = (_SHARPER * v for v in (thing.x, thing.y, thing.radius))
  if thing.name == 'circle':
    box = (x - radius, y - radius, x + radius, y + radius)
    canvas.ellipse(box, fill=colour)
    return
  tilt = rng.uniform(-0.2, 0.2)
  corners = [
    (
      x + radius * length * math.sin(angle + tilt),
      y - radius * length * math.cos(angle + tilt),
    )
    for length, angle in _OUTLINES[thing.name]
  ]
  canvas.polygon(corners, fill=colour)


def _draw_digit(
  canvas: ImageDraw.ImageDraw, thing: Thing, colour: tuple, rng: Rng
) -> None:
  x, y, radius = (_SHARPER * v for v in (thing.x, thing.y, thing.radius))
  bold = int(rng.integers(0, radius // 12 + 1))
  # Digits are about 0.7 of the size of their font.
  font = _font(int(2.5 * radius))
  canvas.text((x, y), thing.name, colour, font, anchor='mm', stroke_width=bold)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
  return ImageFont.load_default(size)


def _regular(corners: int, first: float = 0.0) -> list[tuple[float, float]]:
  turn = 2 * math.pi / corners
  return [(1.0, first + turn * i) for i in range(corners)]


def _star() -> list[tuple[float, float]]:
  turn = math.pi / 5
  return [(0.45 if i % 2 else 1.0, turn * i) for i in range(10)]


def _cross() -> list[tuple[float, float]]:
  half = 0.3  # Of the width of an arm.
  corner = 2**0.5 * half, math.pi / 4
  lean = math.atan(half)
  arm = [(1.0, -lean), (1.0, lean), corner]
  return [
    (length, angle + math.pi / 2 * quarter)
    for quarter in range(4)
    for length, angle in arm
  ]


# Corners as (distance from the centre, angle from the top).
_OUTLINES = {
  'square': _regular(4, math.pi / 4),
  'triangle': _regular(3),
  'star': _star(),
  'cross': _cross(),
}
