"""Samplers say what `transformers` says, live, of the same images."""

import pytest

import cases
from gemma import gm
import test_sampler_images as here

hf = pytest.importorskip('hf', reason='needs torch and transformers')
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings('ignore')]

CASE = cases.VISION
COUNT = here.SIZES['max_out_length']
# Padding, ends of a text, tags of images, and the id behind our table.
BANNED = [0, 1, 50, 106, 110, 111, 299]


@pytest.fixture(scope='module')
def both(tmp_path_factory):
  theirs, ours = hf.folder_of(CASE, tmp_path_factory.mktemp('m') / 'model')
  sampler = gm.text.Sampler(
    model=ours.model,
    params=ours.params,
    tokenizer=gm.text.Gemma3TinyTokenizer(),
    forbidden_tokens=BANNED,
    **here.SIZES,
  )
  return theirs, sampler


def expected(theirs, prompt, shown):
  """Their answer to a prompt with one token for each image."""
  block = CASE.config.image_tokens.around(4)
  row = [
    token
    for given in prompt
    for token in (block if given == here.START else (given,))
  ]
  pixels = gm.vision.preprocess(shown or [], size=16)
  return hf.picture_greedy(theirs, row, pixels, COUNT, BANNED)


def test_greedy_answers(both):
  """A ragged batch: two images, one, none, three; past the window."""
  theirs, sampler = both
  out = sampler.sample(here.PROMPTS, images=here.IMAGES, return_state=True)
  for prompt, shown, ids in zip(
    here.PROMPTS, here.IMAGES, out.token_ids, strict=True
  ):
    assert len(ids) == COUNT
    assert ids == expected(theirs, prompt, shown)


@pytest.mark.exhaustive
@pytest.mark.parametrize('which', [0, 3])
@pytest.mark.parametrize('pad_length', [4, (5, 16), None])
def test_prefill_in_chunks(both, which, pad_length):
  import dataclasses

  theirs, sampler = both
  prompt, shown = here.PROMPTS[which], here.IMAGES[which]
  s = dataclasses.replace(sampler, pad_length=pad_length)
  out = s.sample(prompt, images=shown, return_state=True)
  assert out.token_ids == expected(theirs, prompt, shown)


def test_second_turn(both):
  """With an image of its own, behind what the first one said."""
  theirs, sampler = both
  first = sampler.sample(
    here.PROMPTS[1], images=here.IMAGES[1], max_new_tokens=9, return_state=True
  )
  prompt = [5, here.START, 6]
  out = sampler.sample(
    prompt, images=here.SEEN[0], last_state=first.state, return_state=True
  )
  said = here.PROMPTS[1] + first.token_ids + prompt
  shown = [*here.IMAGES[1], here.SEEN[0]]
  assert out.token_ids == expected(theirs, said, shown)


def test_images_matter(both):
  """So that equal answers mean something."""
  _, sampler = both
  one, other = (
    sampler.sample(here.PROMPTS[0], images=shown, return_state=True).token_ids
    for shown in (here.IMAGES[0], here.IMAGES[0][::-1])
  )
  assert one != other
