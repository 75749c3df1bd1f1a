"""Images in a model: where they go, who sees them, what they change."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

import cases
from gemma import gm
from gemma import peft
from gemma.gm.ckpts import _tree
from gemma.gm.vision import _expand
from gemma.gm.vision import _patches
from gemma.gm.vision import _siglip

CASE = cases.VISION
IDS = CASE.config.image_tokens
GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'logits'
TOLERANCE = 2e-5  # float32, logits of about 5.


@pytest.fixture(scope='module')
def soft():
  """Soft tokens of the images of each row, `f32[rows, images, 4, 32]`."""
  return encode(CASE.images())


@pytest.fixture(scope='module')
def wide():
  """The prompts with room for their images, and where tokens went."""
  tokens = jnp.asarray(CASE.picture_prompts())
  return gm.vision.expand(tokens, images=2, count=4, ids=IDS)


@pytest.fixture(scope='module')
def whole(soft, wide):
  """Logits of the longer rows, in one pass."""
  return CASE.apply(wide[0], soft_tokens=soft).logits


def encode(images, params=None):
  params = {'params': params or CASE.params}
  return CASE.model.apply(params, images, method='encode_images')


def close(a, b, tolerance=TOLERANCE):
  np.testing.assert_allclose(a, b, atol=tolerance, rtol=0)


def equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def plain_expand(row, images):
  """The longer row and the places, one token at a time."""
  out, place = [], []
  for token in row:
    place.append(len(out))
    if token == IDS.start and images:
      out += [IDS.newlines, IDS.start, *[-2] * 4, IDS.end, IDS.newlines]
      images -= 1
    else:
      out.append(token)
  return out, place


@pytest.mark.parametrize('images', [1, 2, 3])
def test_room_for_images(images):
  """Ragged rows, images at both ends, more starts than images."""
  rows = [[290, 5, 290], [5, 6, 290], [0, 5, 0], [290, 290, 290], [5, 290, 0]]
  tokens = jnp.array(rows)
  out, place = gm.vision.expand(tokens, images=images, count=4, ids=IDS)
  assert out.shape[1] == _expand.expanded_length(3, images=images, count=4)
  for i, row in enumerate(rows):
    expected, places = plain_expand(row, images)
    assert out[i, : len(expected)].tolist() == expected
    assert not out[i, len(expected) :].any()
    assert place[i].tolist() == places


def test_logits_are_those_of_transformers(whole, wide):
  golden = np.load(GOLDEN / f'{CASE}.npz')['logits']
  real = np.asarray(wide[0]) != 0
  assert np.abs(whole - golden)[real].max() < 5e-5


def test_images_in_the_call_and_encoded_before(whole, wide):
  tokens, place = CASE.picture_prompts(), wide[1]
  out = CASE.apply(tokens, images=CASE.images(), return_hidden_states=True)
  expected = np.take_along_axis(whole, place[:, :, None], axis=1)
  real = tokens != 0
  close(np.asarray(out.logits)[real], expected[real])
  assert out.hidden_states.shape == (*tokens.shape, 32)
  last = CASE.apply(tokens, images=CASE.images(), return_last_only=True).logits
  close(last, out.logits[np.arange(3), [-1, -1, -1]])


def test_batch_dims_and_one_image(soft):
  """As many leading dims as tokens have, and the axis of images left out."""
  tokens, images = CASE.picture_prompts()[1], CASE.images()[1]
  one = CASE.apply(tokens, images=images[:1]).logits
  assert one.shape == (16, 300)
  close(CASE.apply(tokens, images=images[0]).logits, one)
  pairs = np.stack([tokens, tokens]).reshape(1, 2, 16)
  out = CASE.apply(pairs, images=np.stack([images[0]] * 2)[None]).logits
  close(out[0, 1], one)
  assert encode(images[0]).shape == (4, 32)
  close(encode(images[0]), soft[1, 0], 1e-6)


def test_a_row_is_as_if_alone(whole, wide, soft):
  """Without padding before it, and between empty rows."""
  for i, row in enumerate(np.asarray(wide[0])):
    alone, real = np.zeros_like(wide[0]), row[row != 0]
    alone[i, : len(real)] = real
    out = np.asarray(CASE.apply(alone, soft_tokens=soft).logits[i])
    close(out[: len(real)], np.asarray(whole[i])[row != 0])


@pytest.mark.slow
@pytest.mark.parametrize(
  'cuts',
  [
    (5, 10),
    *(
      pytest.param(cuts, marks=cases.EXHAUSTIVE)
      for cuts in ((), (4, 9, 17, 23), (16,))
    ),
  ],
  ids=str,
)
def test_chunked_equals_one_shot(cuts, soft, whole):
  """Past the window, with a cache; images whole, but anything between cut."""
  row, _ = plain_expand(CASE.picture_prompts()[0], 2)
  row = np.array([row])
  cache, done, logits = CASE.cache(1, 40), 0, []
  for part in np.split(row, cuts, axis=1):
    count = int((part == -2).sum()) // 4
    its = {'soft_tokens': soft[:1, done : done + count]} if count else {}
    out = CASE.apply(part, cache=cache, **its)
    cache, done = out.cache, done + count
    logits.append(out.logits)
  close(np.concatenate(logits, axis=1), whole[:1])
  assert cache.length.tolist() == [row.shape[1]]


def test_images_into_a_cache(whole, wide):
  """As in a second turn: the cache counts the tokens of images."""
  tokens = CASE.picture_prompts()[:1]
  first = CASE.apply(
    tokens[:, :6], images=CASE.images()[:1, :1], cache=CASE.cache(1, 30)
  )
  assert first.cache.length.tolist() == [13]
  rest = CASE.apply(
    tokens[:, 6:], images=CASE.images()[:1, 1:], cache=first.cache
  )
  assert rest.cache.length.tolist() == [30]
  close(rest.logits[0], np.asarray(whole[0])[np.asarray(wide[1])[0, 6:]])


def test_who_sees_an_image(soft, wide, whole):
  """Its own tokens and later ones: not what is before, start token included."""
  second = np.flatnonzero(np.asarray(wide[0][0]) == -2)[4:]
  changed = np.array(soft)
  changed[0, 1, 3] += 1  # The last of the second image.
  after = CASE.apply(wide[0], soft_tokens=jnp.asarray(changed)).logits
  moved = np.abs(np.asarray(after - whole)[0]).max(axis=-1)
  assert (moved[: second[0]] == 0).all()
  assert (moved[second[0] :] > 1e-6).all()


def test_without_images_it_is_the_text_model():
  text = dataclasses.replace(CASE.config, vision_encoder=None)
  text = cases.Case('text', text)
  tokens = CASE.tokens()
  plain = CASE.apply(tokens).logits
  np.testing.assert_array_equal(plain, text.apply(tokens).logits)
  assert not {'vision_encoder', 'mm_input_projection'} & {*text.params}
  # Nothing of the encoder is run, nor needed.
  out = CASE.model.apply({'params': text.params}, tokens).logits
  np.testing.assert_array_equal(plain, out)


@pytest.mark.slow
@pytest.mark.exhaustive  # `test_sampler_images_parity.py` has a prompt of text.
def test_samplers_take_the_model_for_text():
  text = dataclasses.replace(CASE.config, vision_encoder=None)
  text = cases.Case(CASE.name, text)
  answers = [
    case.sampler()
    .sample(case.prompts(5, 9), max_new_tokens=8, return_state=True)
    .token_ids
    for case in (CASE, text)
  ]
  assert answers[0] == answers[1]


@pytest.mark.slow
@pytest.mark.parametrize('frozen', [True, False])
def test_gradients(frozen):
  encoder = CASE.config.vision_encoder
  encoder = encoder.clone(apply_stop_gradient=frozen)
  config = dataclasses.replace(CASE.config, vision_encoder=encoder)
  model = gm.nn.Transformer(config=config, dtype=jnp.float32)

  def loss(params):
    tokens, images = CASE.picture_prompts(), CASE.images()
    logits = model.apply({'params': params}, tokens, images=images).logits
    return jnp.mean(jnp.square(logits), where=(tokens != 0)[..., None])

  grads = _tree.flatten(jax.jit(jax.grad(loss))(CASE.params))
  for path, x in grads.items():
    assert np.isfinite(x).all(), path
    # Keys may all be moved by the same: no score changes.
    if not path.endswith('key/bias'):
      still = frozen and path.startswith('vision_encoder')
      assert bool((x == 0).all()) == still, path


def test_bfloat16_is_close_to_float32():
  half = jax.tree.map(lambda x: np.asarray(x, jnp.bfloat16), CASE.params)
  rounded = jax.tree.map(lambda x: jnp.asarray(x, np.float32), half)
  tokens, images = CASE.picture_prompts(), CASE.images()
  real = tokens != 0
  exact = CASE.model.apply({'params': rounded}, tokens, images=images).logits
  out = CASE.model.apply({'params': half}, tokens, images=images).logits
  error = np.asarray(out - exact)[real]
  assert np.sqrt(np.mean(np.square(error))) < 2e-2 * np.std(exact)
  # The encoder computes in float32, whatever its parameters are stored in.
  close(encode(images, half), encode(images, rounded), 1e-6)
  vit = CASE.config.vision_encoder.siglip_encoder.clone(dtype=jnp.bfloat16)
  encoder = CASE.config.vision_encoder.clone(siglip_encoder=vit)
  params = {'params': CASE.params['vision_encoder']}
  patches = encoder.patchify_images(jnp.asarray(images))
  low, high = (
    jax.jit(functools.partial(one.apply, is_training=False))(
      params, patches=patches
    )
    for one in (encoder, CASE.config.vision_encoder)
  )
  assert low.dtype == jnp.bfloat16
  error = np.sqrt(np.mean(np.square(low - high)))
  assert 0 < error < 2e-2 * np.std(high)


@pytest.mark.parametrize('size', [(40, 24), (16, 16), (7, 50)])
def test_pixels_are_those_of_pillow(size):
  """Within one level: Pillow rounds to integers."""
  image = np.random.RandomState(0).randint(0, 256, (*size, 3)).astype(np.uint8)
  ours = _patches.fit(jnp.asarray(image), height=16, width=16)
  theirs = PIL.Image.fromarray(image).resize((16, 16), PIL.Image.BILINEAR)
  theirs = (np.asarray(theirs, np.float32) - 127.5) / 127.5
  assert np.abs(ours - theirs).max() < 1.01 / 127.5
  if size == (16, 16):
    close(ours, theirs, 1e-7)


def test_patches_go_row_by_row():
  image = jnp.arange(8 * 12 * 3).reshape(8, 12, 3).astype(jnp.float32)
  patches = gm.vision.patchify(image, (4, 4))
  for row, column in np.ndindex(2, 3):
    square = image[4 * row :][:4, 4 * column :][:, :4]
    np.testing.assert_array_equal(patches[3 * row + column], square.reshape(-1))


def test_released_encoder_holds_no_square_of_patches():
  """4,096 patches see each other in blocks."""
  encoder = gm.nn.SigLiPFromPatches()
  images = jax.ShapeDtypeStruct((1, 700, 500, 3), jnp.uint8)
  patches = jax.eval_shape(encoder.patchify_images, images)
  params = jax.eval_shape(
    lambda x: encoder.init(jax.random.key(0), patches=x, is_training=False),
    patches,
  )
  size = sum(x.size for x in jax.tree.leaves(params))
  assert size == 416_866_032

  def forward(params, patches):
    return encoder.apply(params, patches=patches, is_training=False)

  assert jax.eval_shape(forward, params, patches).shape == (1, 256, 1152)
  text = str(jax.make_jaxpr(forward)(params, patches))
  assert '4096,4304]' in text
  assert '4096,4096]' not in text


@pytest.mark.slow
@pytest.mark.parametrize('how', ['read', 'made', 'kernels'])
def test_integers_leave_vision_alone(how, tmp_path):
  gm.ckpts.save_params(CASE.params, tmp_path / 'm')
  if how == 'read':
    ints = gm.ckpts.load_params(tmp_path / 'm', quantize='int8')
  else:
    key = 'w' if how == 'made' else 'kernel'
    ints = peft.quantize(CASE.params, method='int8', checkpoint_kernel_key=key)
  equal(ints['vision_encoder'], CASE.params['vision_encoder'])
  for name in ('mm_input_projection', 'mm_soft_embedding_norm'):
    equal(ints['embedder'][name], CASE.params['embedder'][name])
  out = CASE.model.apply(
    {'params': ints}, CASE.picture_prompts(), images=CASE.images()
  )
  assert np.isfinite(out.logits).all()


def test_kauldron_finds_images():
  model = gm.nn.Gemma3_4B(tokens='batch.input', images='batch.image')
  assert model.__kontext_keys__()['images'] == 'batch.image'
  assert model.vision_encoder is model.config.vision_encoder
  assert gm.nn.Gemma3_4B(text_only=True).vision_encoder is None
  assert gm.nn.Gemma3_4B().clone(text_only=True).vision_encoder is None


def replaced(**fields):
  return lambda: dataclasses.replace(
    CASE.config, vision_encoder=CASE.config.vision_encoder.clone(**fields)
  )


ROW, ROOM = np.array([[2, 290, 5]]), np.array([[2, -2, -2, -2, -2, 5]])
IMAGE = np.full((1, 16, 16, 3), 200, np.uint8)
BAD = {
  'text only': (
    lambda: gm.nn.Gemma3_4B(text_only=True).apply({}, ROW, images=IMAGE),
    'Gemma3_4B does not have vision encoder.*text_only=True',
  ),
  'more images': (
    lambda: CASE.apply(ROW, images=np.stack([IMAGE, IMAGE], 1)),
    '2 images in a row, but the prompts have at most 1 <start_of_image> .290.',
  ),
  'fewer images': (
    lambda: CASE.apply(np.array([[290, 290]]), images=IMAGE),
    '1 images in a row, but the prompts have at most 2',
  ),
  'no soft tokens': (
    lambda: CASE.apply(ROOM),
    'Row 0 has 4 placeholders .-2., but 0 soft_tokens were given',
  ),
  'room and images': (
    lambda: CASE.apply(ROOM, images=IMAGE),
    'Row 0 has 4 placeholders.*leave room for them to the model: 290',
  ),
  'half an image': (
    lambda: CASE.apply(ROOM[:, 3:], soft_tokens=np.zeros((1, 4, 32))),
    'Row 0 has 2 placeholders .-2., but an image has 4.*in one call',
  ),
  'both': (
    lambda: CASE.apply(ROW, images=IMAGE, soft_tokens=np.zeros((1, 4, 32))),
    'Both images and soft_tokens were given',
  ),
  'shape': (
    lambda: CASE.apply(ROW, images=IMAGE[..., :1]),
    r'images have shape \(1, 1, 16, 16, 1\).*3 channels',
  ),
  'rows': (
    lambda: CASE.apply(ROW, images=np.concatenate([IMAGE, IMAGE])),
    r'images have shape \(2, 1, 16, 16, 3\)',
  ),
  'soft shape': (
    lambda: CASE.apply(ROW, soft_tokens=np.zeros((1, 4, 24))),
    r'soft_tokens have shape \(1, 4, 24\).*32',
  ),
  'range': (
    lambda: CASE.apply(ROW, images=IMAGE / 255),
    'images are float64 from 0.78.* to 0.78.*0 to 255',
  ),
  'no pixels': (
    lambda: CASE.apply(ROW, images=IMAGE > 100), 'images are bool. Give pixels'
  ),
  'normalized': (
    lambda: CASE.apply(ROW, images=jnp.asarray(IMAGE) / 127.5 - 1.5),
    'images are float32 from 0.06.* to 0.06',
  ),
  'positions': (
    lambda: CASE.apply(ROW, images=IMAGE, positions=np.arange(3)[None]),
    r'positions have shape \(1, 3\), tokens \(1, 10\) with room for the images',
  ),
  'cache': (
    lambda: CASE.apply(ROW, images=IMAGE, cache=CASE.cache(1, 9)),
    'Row 0 has 10 tokens, but the cache holds 9',
  ),
  'size': (replaced(image_height=18), '18 x 16 cannot be cut into patches'),
  'patches': (replaced(image_height=32), 'has 32 patches of 4 x 4, but'),
  'tokens': (replaced(num_mm_tokens_per_image=2), 'output_length=4'),
  'square': (
    lambda: _siglip.siglip(
      image_size=16, patch_size=4, soft_tokens=9, width=8, depth=1, mlp_dim=8,
      num_heads=2,
    ),
    'cannot be pooled into num_mm_tokens_per_image=9',
  ),
  'heads': (
    lambda: _siglip.siglip(
      image_size=16, patch_size=4, soft_tokens=4, width=9, depth=1, mlp_dim=8,
      num_heads=2,
    ),
    'width=9 of siglip_encoder is not a multiple of its num_heads=2',
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', BAD)
def test_bad_call(name):
  call, message = BAD[name]
  with pytest.raises(ValueError, match=message):
    call()
