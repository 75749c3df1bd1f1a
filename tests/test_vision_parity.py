"""Equal to `transformers`, live, with images."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from gemma import gm
from gemma.gm.vision import _patches
import images as made

hf = pytest.importorskip('hf', reason='needs torch and transformers')
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings('ignore')]

CASE = cases.VISION
TOLERANCE = 5e-5


@pytest.fixture(scope='module')
def both(tmp_path_factory):
  """The independent model, and what we read from its folder."""
  return hf.folder_of(CASE, tmp_path_factory.mktemp('vision') / 'model')


def expanded(tokens, images=2):
  tokens, place = gm.vision.expand(
    jnp.asarray(tokens), images=images, count=4, ids=CASE.config.image_tokens
  )
  return np.asarray(tokens), np.asarray(place)[:, :, None]


def error(ours, theirs, tokens):
  return np.abs(np.asarray(ours) - theirs)[np.asarray(tokens) != 0].max()


def test_soft_tokens(both):
  theirs, ours = both
  images = CASE.images()
  soft = ours.model.apply(
    {'params': ours.params}, images, method='encode_images'
  )
  expected = hf.soft_tokens(theirs, images).reshape(soft.shape)
  assert np.abs(soft - expected).max() < 1e-5
  assert np.std(expected) > 0.1


@pytest.mark.parametrize(
  'count',
  [5, *(pytest.param(count, marks=cases.EXHAUSTIVE) for count in (1, 2))],
)
def test_logits(both, count):
  """Up to nine times the window; ragged rows, padding on both sides."""
  theirs, ours = both
  images, start = CASE.images(3, count), CASE.config.image_tokens.start
  tokens = CASE.tokens(3, 20) % 280 + 1
  for row, (shown, first) in enumerate([(count, 1), (1, 8), (count, 4)]):
    tokens[row, first : first + 3 * shown : 3] = start
  tokens[2, :3] = 0
  tokens[1, 12:] = 0
  out = ours.model.apply({'params': ours.params}, tokens, images=images)
  row, place = expanded(tokens, count)
  expected = hf.picture_logits(theirs, row, images)
  expected = np.take_along_axis(expected, place, axis=1)
  assert error(out.logits, expected, tokens) < TOLERANCE


def test_text_without_images(both):
  theirs, ours = both
  tokens = CASE.tokens() % 280 + 1
  out = ours.model.apply({'params': ours.params}, tokens)
  assert error(out.logits, hf.logits(theirs, tokens), tokens) < TOLERANCE


def test_bfloat16(both):
  theirs, ours = both
  tokens, images = CASE.picture_prompts(), CASE.images()
  half = jax.tree.map(lambda x: np.asarray(x, jnp.bfloat16), ours.params)
  out = ours.model.apply({'params': half}, tokens, images=images).logits
  row, place = expanded(tokens)
  rounded = copy.deepcopy(theirs).bfloat16().float()
  exact = hf.picture_logits(rounded, row, images)
  exact = np.take_along_axis(exact, place, axis=1)
  difference = (np.asarray(out) - exact)[tokens != 0]
  assert np.sqrt(np.mean(np.square(difference))) < 2e-2 * exact.std()


@pytest.mark.parametrize(
  'cuts',
  [
    (5, 13, 18),
    *(pytest.param(cuts, marks=cases.EXHAUSTIVE) for cuts in ((), (16,))),
  ],
  ids=str,
)
def test_greedy_tokens(both, cuts):
  """32 tokens behind two images, fed in chunks into a cache."""
  theirs, ours = both
  tokens, _ = expanded(CASE.picture_prompts()[:1])
  images = CASE.images()[:1]
  params = {'params': ours.params}
  soft = ours.model.apply(params, images, method='encode_images')
  cache = ours.model.init_cache(
    batch_size=1, dtype=jnp.float32, cache_length=70
  )
  done = 0
  for part in np.split(tokens, cuts, axis=1):
    count = int((part == -2).sum()) // 4
    its = {'soft_tokens': soft[:, done : done + count]} if count else {}
    out = ours.model.apply(params, part, cache=cache, **its)
    cache, done = out.cache, done + count
  row = tokens[0].tolist()
  for _ in range(32):
    scores = np.array(out.logits[0, -1])
    theirs_scores = hf.picture_logits(theirs, np.array([row]), images)[0, -1]
    assert np.abs(scores - theirs_scores).max() < TOLERANCE
    scores[[0, 299]] = theirs_scores[[0, 299]] = -np.inf
    assert scores.argmax() == theirs_scores.argmax()
    row.append(int(scores.argmax()))
    out = ours.model.apply(params, np.array([row[-1:]]), cache=cache)
    cache = out.cache


def test_what_we_save_they_read(both, tmp_path):
  theirs, ours = both
  gm.ckpts.save_hf(
    tmp_path / 'ours',
    model=ours.model,
    params=ours.params,
    max_shard_bytes=40_000,
  )
  assert len([*(tmp_path / 'ours').glob('*.safetensors')]) > 2
  again = hf.read_picture_model(tmp_path / 'ours')
  for name, x in theirs.state_dict().items():
    if 'vision_tower.head' not in name:
      np.testing.assert_array_equal(again.state_dict()[name], x, err_msg=name)
  tokens, _ = expanded(CASE.picture_prompts())
  np.testing.assert_array_equal(
    hf.picture_logits(again, tokens, CASE.images()),
    hf.picture_logits(theirs, tokens, CASE.images()),
  )


@pytest.mark.parametrize('size', [(16, 16), (40, 24), (7, 50)])
def test_pixels_of_the_image_processor(size, tmp_path):
  """By the file beside the weights; they round to integers after resizing."""
  import transformers

  gm.ckpts.save_hf(tmp_path / 'm', model=CASE.model, params=CASE.params)
  processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / 'm')
  image = np.random.RandomState(0).randint(0, 256, (*size, 3)).astype(np.uint8)
  theirs = processor(image, return_tensors='np')['pixel_values'][0]
  ours = _patches.fit(jnp.asarray(image), height=16, width=16)
  assert np.abs(ours - theirs.transpose(1, 2, 0)).max() < 1.01 / 127.5


def test_image_longer_than_the_window(both):
  """There ours sees less: an image is no way around the window."""
  theirs, ours = both
  tokens = np.array([[7, 290, *[-2] * 8, 291, 7, 5]])
  soft = ours.model.apply(
    {'params': ours.params}, CASE.images(1, 2), method='encode_images'
  )
  out = ours.model.apply({'params': ours.params}, tokens, soft_tokens=soft)
  expected = hf.picture_logits(theirs, tokens, CASE.images(1, 2))
  assert np.isfinite(out.logits).all()
  assert error(out.logits, expected, tokens) > 1e-3


def test_bundled_model(tiny):
  """The picture between two texts, of another size than the encoder's."""
  theirs = hf.read_picture_model(tiny.path)
  ours = gm.from_pretrained(tiny.path, dtype='float32')
  shown = gm.vision.preprocess(made.picture(90, 140), size=112)[None]
  prompt = '<start_of_turn>user\nWhat is <start_of_image> this?<end_of_turn>\n'
  tokens = np.array([tiny.tokenizer.encode(prompt, add_bos=True)])
  out = ours.model.apply({'params': ours.params}, tokens, images=shown)
  row, place = gm.vision.expand(
    jnp.asarray(tokens), images=1, count=16, ids=ours.model.config.image_tokens
  )
  expected = hf.picture_logits(theirs, np.asarray(row), shown)
  expected = np.take_along_axis(expected, np.asarray(place)[..., None], axis=1)
  assert error(out.logits, expected, tokens) < TOLERANCE
