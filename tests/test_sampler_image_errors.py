"""What samplers say of images that are wrong: the value, and the fix."""

import numpy as np
from PIL import Image
import pytest

import images
from test_sampler_images import CASE
from test_sampler_images import SEEN
from test_sampler_images import SIZES
from test_sampler_images import START
from test_sampler_images import blind


@pytest.fixture(scope='module')
def sampler():
  return CASE.sampler(**SIZES)


ONE, TWO = [5, START, 6], [START, 5, START]
BAD = {
  'fewer places': (
    {'prompt': ONE, 'images': SEEN[:2]},
    '2 images but 1 <start_of_image> in the prompt. Add or remove placehold',
  ),
  'more places': (
    {'prompt': [ONE, TWO], 'images': [SEEN[0], SEEN[0]]},
    '1 image but 2 <start_of_image> in prompt 1. Add',
  ),
  'no images': ({'prompt': ONE}, '0 images but 1 <start_of_image> in the'),
  'empty': ({'prompt': ONE, 'images': []}, '0 images but 1 <start_of_ima'),
  'no place': ({'prompt': [5], 'images': SEEN[0]}, '1 image but 0 <start'),
  'array of too many': (
    {'prompt': [ONE, ONE], 'images': np.zeros((2, 4, 4, 4, 3), np.uint8)},
    '4 images but 1 <start_of_image> in prompt 0',
  ),
  'rows': (
    {'prompt': [ONE, ONE], 'images': SEEN[:3]},
    'images has 3 entries for 2 prompts. Give a list with one entry',
  ),
  'one for two': (
    {'prompt': [ONE, ONE], 'images': 'x.png'},
    'One image was given for 2 prompts',
  ),
  'shape': (
    {'prompt': [ONE, ONE], 'images': SEEN[0]},
    r'shape \(16, 16, 3\) for 2 prompts. Give B H W C or B N H W C with B = 2',
  ),
  'batch for one': (
    {'prompt': ONE, 'images': np.zeros((1, 1, 4, 4, 3), np.uint8)},
    r'shape \(1, 1, 4, 4, 3\) for one prompt. Give H W C, or N H W C',
  ),
  'list of lists': (
    {'prompt': ONE, 'images': [SEEN[:1]]}, 'have a list among them. Give a fl'
  ),
  'soft tokens': ({'prompt': [5, -2, 6]}, 'Token id -2 in prompt 0 is not'),
  'not found': ({'prompt': ONE, 'images': 'no.png'}, 'no image at .no.png'),
  'truncated': (
    {'prompt': ONE, 'images': images.encode(Image.fromarray(SEEN[0]))[:60]},
    'is damaged',
  ),
  'nan': ({'prompt': ONE, 'images': np.full((4, 4), np.nan)}, 'NaN or infin'),
  'range': ({'prompt': ONE, 'images': np.full((4, 4), 200.0)}, 'from 0 to 1'),
  'no pixels': (
    {'prompt': ONE, 'images': np.zeros((0, 4, 3), np.uint8)}, 'has no pixels'
  ),
  'too long': (
    {'prompt': [START] * 20, 'images': [SEEN[0]] * 20},
    'Row 0 has 160 tokens, but the cache holds 128',
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', BAD)
def test_bad_images(sampler, name):
  fields, message = BAD[name]
  with pytest.raises((ValueError, OSError), match=message):
    sampler.sample(**fields)


def test_error_says_which_image_it_is(sampler):
  bad = [[SEEN[0]], [SEEN[0], np.zeros((4, 4), int)]]
  with pytest.raises(TypeError, match='int64. Give uint8') as info:
    sampler.sample([ONE, TWO], images=bad)
  assert info.value.__notes__ == [
    'This is image 1 of 2.', 'It belongs to prompt 1.',
  ]  # fmt: skip


@pytest.mark.parametrize('call', ['sample', 'score', 'embed'])
def test_model_that_does_not_see(call):
  text = blind().sampler()
  with pytest.raises(ValueError, match='Transformer does not support vision'):
    getattr(text, call)(ONE, images=SEEN[0])
  with pytest.raises(ValueError, match='does not support vision'):
    text.warmup(images=True)
  assert text.sample([5, 6]) == text.sample([5, 6], images=[])
  assert text.sample([[5, 6]]) == text.sample([[5, 6]], images=[[]])
  part = {'type': 'image', 'image': SEEN[0]}
  with pytest.raises(ValueError, match='does not support vision'):
    text.sample([{'role': 'user', 'content': [part]}])
