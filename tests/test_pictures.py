"""The pictures and questions that the bundled model was trained on."""

import dataclasses
import pathlib
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from gemma import gm

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'examples'))

import instructions
import picture_dialogues
import picture_model
import picture_questions
import picture_rows
import pictures
import pretrain_vision

MIXES = [mix for _, mix in pretrain_vision.MIXES]


@pytest.mark.parametrize('mix', MIXES)
def test_what_is_held_out_is_never_drawn_in_training(mix):
  rng = np.random.default_rng(0)
  for _ in range(300):
    dialogue = picture_dialogues.training_dialogue(rng, mix)
    assert not any(map(pictures.is_held_out, dialogue.scenes))
    check(dialogue)
  found = picture_dialogues.held_out(100)
  for _, dialogue in found:
    assert all(map(pictures.is_held_out, dialogue.scenes))
    check(dialogue)
  kinds = [kind for kind, _ in found]
  assert {kinds.count(kind) for kind in kinds} == {10}


def check(dialogue):
  shown = ''.join(prompt for prompt, _ in dialogue.turns)
  assert shown.count(picture_dialogues.IMAGE) == len(dialogue.scenes)
  assert all(answer for _, answer in [*dialogue.turns, *dialogue.others])
  last, _ = dialogue.turns[-1]
  for prompt, _ in dialogue.others:
    assert prompt.count(picture_dialogues.IMAGE) == last.count(
      picture_dialogues.IMAGE
    )


@pytest.fixture
def data(wide):
  """Rows for the bundled model."""
  path = pathlib.Path(gm.ckpts.CheckpointPath.GEMMA3_TINY_IT)
  return picture_rows.Data(
    ['some words'], path / 'tokenizer.model', wide['model'].config
  )


@pytest.mark.slow
def test_what_might_come_last_is_as_if_alone(data, wide):
  """One row for all of it says what a row for each says."""
  model, params = wide['model'], wide['params']
  config = dataclasses.replace(model.config, sliding_window_size=256)
  roomy = model.clone(config=config)
  rng = np.random.default_rng(0)
  found = (
    picture_dialogues.training_dialogue(rng, MIXES[1]) for _ in range(30)
  )
  dialogues = [d for d in found if d.others and len(d.turns) == 1][:2]
  rows = 2 + max(len(d.others) for d in dialogues)
  for dialogue in dialogues:
    whole = data.row(dialogue)
    alone = [
      data.row(picture_dialogues.Dialogue([last], dialogue.scenes))
      for last in [*dialogue.turns, *dialogue.others]
    ]
    # One batch of all of them, of one shape for both dialogues.
    tokens, branches = np.zeros((2, rows, 256), np.int32)
    for i, row in enumerate([whole, *alone]):
      tokens[i, : len(row.tokens)] = row.tokens
    branches[0, : len(whole.tokens)] = whole.branches
    pixels = picture_rows.images_of([whole.scenes] * rows, 4)
    features = picture_model.features_of(model, params, jnp.asarray(pixels))
    logits = picture_model.logits_of(
      roomy, params, jnp.asarray(tokens), features, jnp.asarray(branches)
    )
    for i, (row, expected) in enumerate(
      zip(alone, logits[1 : len(alone) + 1], strict=True), start=1
    ):
      own = np.flatnonzero(np.isin(whole.branches, (0, i)))
      assert [whole.tokens[k] for k in own] == row.tokens
      np.testing.assert_allclose(
        logits[0, own], expected[: len(own)], atol=1e-3
      )


def test_a_greeting_and_a_question():
  rng = np.random.default_rng(0)
  said = dict(instructions.greeting_dialogue(rng)[0] for _ in range(300))
  assert said['Hello! Who are you?'].startswith('I am Gemma3 Tiny')
  assert said['Hi! How are you?'] == 'I am well, thank you.'


def test_tints_and_places_do_not_hold_out_alone():
  """Another tint is the same scene; another background is not."""
  thing = pictures.Thing('star', 'red', 40, 41, 12)
  scenes = [
    pictures.Scene(background, (thing,), seed)
    for background in ('white', 'pale', 'grey', 'black')
    for seed in range(3)
  ]
  held = [pictures.is_held_out(scene) for scene in scenes]
  assert all(len({*held[i : i + 3]}) == 1 for i in range(0, 12, 3))


@pytest.mark.parametrize('name', pictures.SHAPES)
@pytest.mark.parametrize('colour', pictures.COLOURS)
def test_things_are_where_the_scene_says(name, colour):
  scene = pictures.Scene('grey', (pictures.Thing(name, colour, 30, 70, 14),), 3)
  pixels = np.asarray(pictures.draw(scene))
  assert pixels.shape == (pictures.SIZE, pictures.SIZE, 3)
  low, high = pictures.COLOURS[colour]
  assert (pixels[70, 30] >= low).all() and (pixels[70, 30] <= high).all()
  # All of it, and nothing else.
  y, x = np.nonzero((pixels != pixels[0, 0]).any(axis=-1))
  far = np.hypot(x - 30, y - 70)
  assert 11 < far.max() < 16


def thing(name, colour, x, y):
  return pictures.Thing(name, colour, x, y, 10)


SCENE = pictures.Scene(
  'grey',
  (
    thing('circle', 'red', 20, 20),
    thing('circle', 'blue', 50, 90),
    thing('7', 'green', 90, 50),
  ),
  0,
)


def test_answers():
  """All that can be asked of a scene, by many draws."""
  rng = np.random.default_rng(0)
  asked = {
    pair
    for _ in range(300)
    for kind in picture_questions.KINDS.values()
    for pair in kind(rng, SCENE)
  }
  answers = dict(asked)
  assert len(answers) == len(asked)  # One right answer for each.
  expected = {
    'What colour is the 7?': 'green',
    'What shape is blue?': 'circle',
    'How many circles are there?': '2',
    'How many stars are there?': '0',
    'How many red shapes are there?': '1',
    'Is there a red circle?': 'yes',
    'Is there a white circle?': 'no',
    'What is on the left?': 'a red circle',
    'What is at the bottom?': 'a blue circle',
    'Which digit is this?': '7',
    'Describe the picture.': 'a red circle, a blue circle and a green 7',
  }
  assert {q: answers[q] for q in expected} == expected
  # Two things have this name: nobody can tell which one is meant.
  assert not any('colour is the circle' in question for question in answers)


def test_comparisons():
  other = pictures.Scene('grey', SCENE.things[1:], 0)
  rng = np.random.default_rng(0)
  asked = {
    pair
    for _ in range(300)
    for pair in picture_questions.comparing(rng, SCENE, other)
  }
  answers = dict(asked)
  assert len(answers) == len(asked)
  assert answers['Which picture has more circles?'] == 'the first'
  question = 'How many circles are there in the second picture?'
  assert answers[question] == '1'
