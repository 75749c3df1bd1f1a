"""Samplers with images: the same answer whichever way it is asked for."""

import asyncio
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

import cases
from gemma import gm
from gemma import peft
from gemma.gm.text import _album
from gemma.gm.text import _decode
from gemma.gm.text import _settings
import images

CASE = cases.VISION  # An image is 4 soft tokens, a window 6.
START = CASE.config.image_tokens.start
SEEN = [images.picture(*size) for size in ((16, 16), (9, 30), (40, 7), (5, 5))]
# Two images, the first and the last token; one; none; three side by side.
IMAGES = [SEEN[:2], SEEN[1:2], None, [SEEN[3], *SEEN[:2]]]
SIZES = {**cases.ROOM, 'max_out_length': 32}
SOON_FULL = {**SIZES, 'cache_length': 32}
RANDOM = gm.text.RandomSampling()


def prompts():
  rows = (CASE.tokens(4, 20) % 280 + 1).tolist()
  for row, places in zip(rows, ((0, 19), (7,), (), (2, 3, 4)), strict=True):
    for place in places:
      row[place] = START
  return [rows[0], rows[1][:11], rows[2][:15], rows[3][:9]]


PROMPTS = prompts()


def slow(*values):
  return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def exhaustive(*values):
  return [pytest.param(value, marks=pytest.mark.exhaustive) for value in values]


@pytest.fixture(scope='module')
def sampler():
  return CASE.sampler(**SIZES)


def one_pass(contexts, shown):
  """Outputs of up to four contexts of ids, in one pass without a cache."""
  tokens = np.zeros((4, 96), np.int32)
  pixels = np.zeros((4, 4, 16, 16, 3), np.uint8)
  for i, (context, given) in enumerate(zip(contexts, shown, strict=True)):
    tokens[i, : len(context)] = np.maximum(context, gm.vision.PLACEHOLDER)
    if given:
      pixels[i, : len(given)] = gm.vision.preprocess(given, size=16)
    count = (tokens[i] == gm.vision.PLACEHOLDER).sum()
    assert count == 4 * len(given or ())
  soft = CASE.model.apply(
    {'params': CASE.params}, pixels, method='encode_images'
  )
  return CASE.apply(tokens, soft_tokens=soft, return_hidden_states=True)


def log_softmax(logits):
  return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def greedy(logits):
  logits = np.array(logits)
  logits[..., [0, 110, 111]] = -np.inf
  return logits.argmax(axis=-1).tolist()


def test_batch_alone_and_stream_are_the_same(sampler):
  """Rows of different length, with different images, and with none."""
  fields = {'sampling': RANDOM, 'rng': 3, 'return_state': True}
  batch = sampler.sample(PROMPTS, images=IMAGES, **fields)
  steps = [
    *sampler.sample(PROMPTS, images=IMAGES, sampling=RANDOM, rng=3, stream=True)
  ]
  assert [''.join(row) for row in zip(*steps, strict=True)] == batch.text
  for i, (prompt, shown) in enumerate(zip(PROMPTS, IMAGES, strict=True)):
    alone = sampler.sample(prompt, images=shown, **fields)
    assert alone.token_ids == batch.token_ids[i]
    assert alone.usage == batch.usage[i]
    assert alone.usage.prompt_tokens == len(prompt) + 7 * len(shown or ())


def test_turns_equal_one_pass(sampler):
  """Images in the first turn, then none, then two; past the window."""
  said, shown, state = [], [], None
  for turn, which in enumerate((1, 2, 0)):
    new = IMAGES[which] or []
    out = sampler.sample(
      PROMPTS[which], images=new, last_state=state, return_state=True,
      max_new_tokens=5, rng=turn,
    )  # fmt: skip
    state, shown = out.state, shown + new
    said += out.token_ids
  (context,) = state.contexts()
  assert len(state.images) == 2  # One of them was shown twice.
  whole = one_pass([context], [shown]).logits[0, : len(context)]
  (last,) = CASE.after(state)
  np.testing.assert_allclose(last, whole[-1], atol=1e-4, rtol=0)
  assert out.token_ids == greedy(whole[-1 - len(out.token_ids) : -1])


@pytest.mark.parametrize(
  'pad_length', [(5, 16), *slow(1, None), *exhaustive(4, 5, (4, 16), 64)]
)
def test_size_of_chunks_changes_nothing(sampler, pad_length):
  """Also if an image is longer than all sizes."""
  fields = {'images': IMAGES, 'return_state': True}
  expected = sampler.sample(PROMPTS, **fields)
  s = dataclasses.replace(sampler, pad_length=pad_length)
  assert s.sample(PROMPTS, **fields).token_ids == expected.token_ids


def test_pieces_never_part_an_image():
  """Rows that would have no place in common to be cut at."""
  from gemma.gm.text import _chunks

  image = tuple(range(-13, -9))
  rows = [[5] * shift + [7, *image, 8] * 6 for shift in range(7)]
  for sizes in ([4], [5], [4, 16], [2], None):
    parts = [[] for _ in rows]
    for chunk in _chunks.cut(rows, sizes, 4):
      assert sizes is None or chunk.tokens.shape[1] in (*sizes, 4)
      for part, tokens, begin, shown in zip(
        parts, chunk.tokens, chunk.begin, chunk.images or [[]] * 7, strict=True
      ):
        assert len(part) == begin
        assert shown == [image] * ((tokens == -2).sum() // 4)
        assert len(shown) <= chunk.room
        part.extend(tokens[tokens != 0].tolist())
    assert parts == [np.maximum(row, -2).tolist() for row in rows]


def test_forms_of_images(sampler, tmp_path):
  """One and several, as arrays and lists, in memory and in files."""
  image = SEEN[1]
  Image.fromarray(image).save(tmp_path / 'x.png')
  prompt, two = PROMPTS[1], PROMPTS[0]
  short = {'max_new_tokens': 3}
  expected = sampler.sample(prompt, images=image, **short)
  data = images.encode(Image.fromarray(image))
  for form in (
    [image], image[None], jnp.asarray(image), (image,), data,
    Image.fromarray(image), tmp_path / 'x.png', str(tmp_path / 'x.png'),
    [tmp_path / 'x.png'], np.array([None, image], dtype=object)[1:],
  ):  # fmt: skip
    assert sampler.sample(prompt, images=form, **short) == expected
  same = np.stack([SEEN[0], SEEN[0][::-1]])
  pair = sampler.sample(two, images=[*same], **short)
  assert sampler.sample(two, images=same, **short) == pair
  rows = [two, prompt] * 2
  batch = sampler.sample(rows, images=[[*same], same[0]] * 2, **short)
  # The rows of one array may have images that they do not ask for.
  array = np.stack([same] * 4)
  assert sampler.sample(rows, images=array, **short) == batch
  rows = [prompt] * 4
  alone = sampler.sample(rows, images=[same[0], [same[1]]] * 2, **short)
  array = np.concatenate([same, same])
  assert sampler.sample(rows, images=array, **short) == alone


@pytest.mark.slow
def test_equal_prefixes_show_equal_images(sampler):
  """Whole images are reused, and never those of another prompt."""
  cache = gm.text.PrefixCache(max_entries=9)
  s = dataclasses.replace(sampler, prefix_cache=cache)
  text = PROMPTS[2] * 3
  for prompt in ([START, *text], [*text, START, 9]):
    cache.clear()
    for shown in (SEEN[0], SEEN[0], SEEN[1], SEEN[0], SEEN[1]):
      expected = sampler.sample(prompt, images=shown, return_state=True)
      out = s.sample(prompt, images=shown, return_state=True)
      assert out.token_ids == expected.token_ids
      np.testing.assert_allclose(
        out.state.cache.layers['layer_1'].k,
        expected.state.cache.layers['layer_1'].k,
        atol=1e-5,
      )  # fmt: skip
  rows = [[START, *text, n] for n in (3, 4, 5, 6)]
  assert s.sample(rows, images=[SEEN[0]] * 4) == sampler.sample(
    rows, images=[SEEN[0]] * 4
  )
  out = s.sample(rows[0], images=SEEN[0], return_state=True)
  assert out.usage.cached_tokens > len(text)
  out = s.sample(rows[0], images=SEEN[2], return_state=True)
  assert out.usage.cached_tokens < 3


def test_prefix_that_ends_inside_an_image():
  from gemma.gm.text import _prefix_cache

  rows = [1, 7, -9, -8, -7, 4], [1, 7, -9, -8, -6, 4]
  assert _prefix_cache.common_prefix(rows) == 2
  assert _prefix_cache.common_prefix([rows[0], rows[0][:5]]) == 5


@pytest.mark.slow
@pytest.mark.parametrize('draft', [None, *exhaustive(gm.text.PromptLookup())])
def test_rolling_drops_whole_images(draft):
  """What is left is computed as if nothing had been before."""
  s = CASE.sampler(**SOON_FULL, on_full='roll', draft=draft)
  shown = SEEN[:3]
  prompt = [5, START, 9, START, 11, 12, START, 13]
  out = s.sample(prompt, images=shown, return_state=True)
  assert out.usage.dropped_tokens > 0
  for length in range(1, 33):
    out = s.sample(
      prompt, images=shown, return_state=True, max_new_tokens=length
    )
    (context,) = out.state.contexts()
    left = sum(token < 0 for token in context) // 4
    assert context.count(START) == context.count(291) == left
    if out.usage.dropped_tokens:
      break
  assert left > 0
  # A later call has what it needs to roll, though it has no images itself.
  more = s.sample([6], last_state=out.state, return_state=True)
  assert more.usage.dropped_tokens > 0
  whole = one_pass([context], [shown[len(shown) - left :]])
  np.testing.assert_allclose(
    CASE.after(out.state)[0],
    whole.logits[0, len(context) - 1],
    atol=1e-4,
    rtol=0,
  )


def test_prompt_that_rolls_ends_with_an_image():
  s = CASE.sampler(**{**SIZES, 'cache_length': 12}, on_full='roll')
  with pytest.raises(ValueError, match='context ends with an image.*of 12'):
    s.sample([*range(1, 20), START], images=SEEN[0])


def test_cache_that_does_not_fit_is_computed_anew(sampler):
  """Also by a sampler that never saw the images."""
  fields = {'max_new_tokens': 4, 'return_state': True}
  out = sampler.sample(PROMPTS[1], images=IMAGES[1], **fields)
  expected = sampler.sample([9], last_state=out.state, **fields)
  s = CASE.sampler(**SOON_FULL)
  again = s.sample([9], last_state=out.state, **fields)
  assert again.token_ids == expected.token_ids
  assert again.usage.cached_tokens == 0
  with pytest.raises(ValueError, match='images that last_state does not have'):
    s.sample([9], last_state=out.state.replace(images=()))


def test_caches_that_grow(sampler, monkeypatch):
  """While prompts with images come in, and while answers go on."""
  from gemma.gm.text import _runner

  fields = {'images': IMAGES, 'return_state': True}
  expected = sampler.sample(PROMPTS, **fields)
  monkeypatch.setattr(_runner, '_CAPACITY', 20)
  monkeypatch.setattr(_runner, '_ANSWER', 1)
  small = sampler.sample(PROMPTS, max_new_tokens=1, **fields)
  assert small.state.cache.cache_length == 40
  grown = sampler.sample(PROMPTS, **fields)
  assert grown.token_ids == expected.token_ids
  assert grown.state.cache.cache_length == 80


@pytest.mark.slow
def test_model_with_adapters_sees(sampler):
  model = gm.nn.LoRA(rank=2, model=CASE.model, dtype=jnp.float32)
  params = model.init(jax.random.key(0), jnp.ones((1, 2), jnp.int32))['params']
  lora = peft.split_params(params).lora
  s = dataclasses.replace(
    sampler, model=model, params=peft.merge_params(CASE.params, lora)
  )
  fields = {'images': IMAGES[0], 'max_new_tokens': 4}
  assert s.sample(PROMPTS[0], **fields) == sampler.sample(PROMPTS[0], **fields)


def test_many_prompts_encode_an_image_once(sampler, monkeypatch):
  """Through few slots, as each prompt alone."""
  encoded, encode = [], _album._encode
  monkeypatch.setattr(
    _album,
    '_encode',
    lambda model, params, x: encoded.append(len(x)) or encode(model, params, x),
  )
  s = dataclasses.replace(sampler, max_batch_size=4)
  rows = [[*PROMPTS[1][:8], n, n] for n in range(1, 8)]
  fields = {'max_new_tokens': [3, 9, 2, 12, 5, 1, 4], 'progress': False}
  texts = s.sample(rows, images=[SEEN[0]] * 7, **fields)
  assert encoded == [1]
  for row, text, limit in zip(
    rows, texts, fields['max_new_tokens'], strict=True
  ):
    alone = sampler.sample(row, images=SEEN[0], max_new_tokens=limit)
    assert alone == text
  given = [None if i % 2 else IMAGES[0] for i in range(7)]
  rows = [PROMPTS[2 if i % 2 else 0] for i in range(7)]
  texts = s.sample(rows, images=given, **fields)
  assert len(texts) == 7


def blind():
  """A model of the same vocabulary that does not see."""
  return cases.GEMMA2


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['blind', *slow('same', 'noisy', 'lookup')])
def test_guesses_change_no_greedy_answer(sampler, kind):
  rng = np.random.RandomState(0)
  params = {
    'noisy': jax.tree.map(
      lambda x: x + rng.normal(0, 0.02, x.shape).astype(x.dtype),
      CASE.params,
    ),
    'same': CASE.params,
    'blind': blind().params,
  }
  draft = gm.text.PromptLookup(ngram=1)
  if kind in params:
    model = blind().model if kind == 'blind' else CASE.model
    draft = gm.text.DraftModel(model=model, params=params[kind], num_tokens=3)
  # So that something is repeated that an image stood behind.
  rows = [[*row, *row[:3]] for row in PROMPTS]
  shown = [
    [*(given or []), *(given or [])[: row[:3].count(START)]]
    for given, row in zip(IMAGES, PROMPTS, strict=True)
  ]
  expected = sampler.sample(rows, images=shown, return_state=True).token_ids
  s = dataclasses.replace(sampler, draft=draft)
  guessed = s.sample(rows, images=shown, return_state=True)
  assert guessed.token_ids == expected
  # Nor does the state of a sampler that does not guess.
  state = sampler.sample(PROMPTS, images=IMAGES, return_state=True).state
  fields = {'images': SEEN, 'return_state': True, 'max_new_tokens': 9}
  rows = [[9, START]] * 4
  expected = sampler.sample(rows, last_state=state, **fields)
  again = s.sample(rows, last_state=state, **fields)
  assert again.token_ids == expected.token_ids
  assert again.usage[0].cached_tokens == 0 < expected.usage[0].cached_tokens


@pytest.mark.slow
@pytest.mark.parametrize('chunk_length', [8, *exhaustive(3, 64)])
def test_scores_and_vectors(sampler, chunk_length):
  """Of what is said; an image is seen, but not scored."""
  fields = {'images': IMAGES, 'chunk_length': chunk_length}
  scores = sampler.score(PROMPTS, **fields)
  vectors = sampler.embed(PROMPTS, normalize=False, **fields)
  lasts = sampler.embed(PROMPTS, normalize=False, pooling='last', **fields)
  state = sampler.sample(
    PROMPTS, images=IMAGES, return_state=True, max_new_tokens=1
  ).state
  contexts = [context[:-1] for context in state.contexts()]
  out = one_pass(contexts, IMAGES)
  for i, (row, context, score) in enumerate(
    zip(PROMPTS, contexts, scores, strict=True)
  ):
    assert score.token_ids == row
    assert score.num_images == row[1:].count(START)
    hidden = np.asarray(out.hidden_states[i])[: len(context)]
    np.testing.assert_allclose(vectors[i], hidden.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(lasts[i], hidden[-1], atol=1e-4)
    logprobs = log_softmax(np.asarray(out.logits[i]))
    expected, place = [], 0
    for j, token in enumerate(row):
      if j:
        expected.append(0.0 if token == START else logprobs[place - 1, token])
      place += 8 if token == START else 1
    np.testing.assert_allclose(score.logprobs, expected, atol=1e-4)
    words = len(expected) - score.num_images
    assert score.perplexity == pytest.approx(np.exp(-sum(expected) / words))


@pytest.mark.slow
def test_penalties_do_not_count_images(sampler):
  seen = _settings.Seen.of_prompts([[5, -9, 7, -2]], 10)
  assert np.flatnonzero(seen.prompt[0]).tolist() == [5, 7]
  method = gm.text.Chain(
    gm.text.Penalties(repetition=2.0, presence=1.0), gm.text.Greedy()
  )
  batch = sampler.sample(PROMPTS, images=IMAGES, sampling=method)
  alike = sampler.sample(
    [PROMPTS[1]] * 4, images=[IMAGES[1]] * 4, sampling=method
  )
  assert alike == [batch[1]] * 4


@pytest.mark.slow
def test_images_compile_nothing_once_warm(sampler):
  """Neither other images, nor other numbers of them, nor text."""
  sampler.warmup(images=True)
  parts = _decode._prefill_chunk, _decode.decode, _decode.start, _album._encode
  sizes = [part._cache_size() for part in parts]
  for prompt, shown in zip(PROMPTS, IMAGES, strict=True):
    sampler.sample(prompt, images=shown, max_new_tokens=3)
  assert sizes == [part._cache_size() for part in parts]


def test_state_is_a_tree_of_arrays(sampler):
  """Images are leaves of what a caller sees, and of nothing else."""
  text = sampler.sample(PROMPTS[2], return_state=True).state
  assert text.images == ()
  out = sampler.sample(PROMPTS[0], images=IMAGES[0], return_state=True)
  assert len(jax.tree.leaves(out.state)) == len(jax.tree.leaves(text)) + 2
  there = jax.tree.map(jnp.array, out.state)
  expected = sampler.sample([9], last_state=out.state)
  assert sampler.sample([9], last_state=there) == expected
  pieces = [
    *sampler.sample(
      PROMPTS[0], images=IMAGES[0], return_state=True, stream=True
    )
  ]
  assert len(pieces[-1].state.images) == 2
  assert sampler.sample([9], last_state=pieces[-1].state) == expected


def test_async(sampler):
  fields = {'images': IMAGES[0], 'max_new_tokens': 5}

  async def pieces():
    return [p async for p in sampler.stream_async(PROMPTS[0], **fields)]

  whole = asyncio.run(sampler.sample_async(PROMPTS[0], **fields))
  assert ''.join(asyncio.run(pieces())) == whole
  assert whole == sampler.sample(PROMPTS[0], **fields)


@pytest.mark.slow
def test_devices_share_rows_with_images(sampler):
  from jax.sharding import NamedSharding
  from jax.sharding import PartitionSpec

  mesh = jax.sharding.Mesh(jax.devices()[:2], ('rows',))
  sharding = NamedSharding(mesh, PartitionSpec('rows'))
  fields = {'images': IMAGES, 'max_new_tokens': 4}
  assert sampler.sample(PROMPTS, sharding=sharding, **fields) == sampler.sample(
    PROMPTS, **fields
  )
