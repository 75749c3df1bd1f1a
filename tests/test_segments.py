"""Several sequences in one row are as if each had a row of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from gemma import gm

LENGTHS = 9, 4, 8
ALL = pytest.mark.parametrize('case', cases.DISTINCT, ids=str)


def packed(case):
  """Sequences in rows of their own, and in one row, in two orders.

  Padding stands between and behind.
  """
  rows = case.prompts(*LENGTHS)
  alone, tokens, ids = np.zeros((3, 3, cases.LENGTH), np.int32)
  for i, row in enumerate(rows):
    alone[i, : len(row)] = row
  for i, order in enumerate([(0, 1, 2), (2, 0, 1)]):
    begin = 0
    for number in order:
      part = slice(begin, begin + LENGTHS[number])
      tokens[i, part], ids[i, part] = rows[number], number + 1
      begin = part.stop + number
  return alone, tokens, ids


@ALL
def test_logits_are_those_of_each_alone(case):
  alone, tokens, ids = packed(case)
  expected = np.asarray(case.apply(alone).logits)
  out = np.asarray(case.apply(tokens, segment_ids=ids).logits)
  for row in (0, 1):
    for i, length in enumerate(LENGTHS):
      np.testing.assert_allclose(
        out[row][ids[row] == i + 1],
        expected[i, :length],
        atol=case.noise,
        err_msg=f'sequence {i} of row {row}',
      )


# One of each kind of layer; where logits agree, the others' gradients do too.
@pytest.mark.parametrize(
  'case',
  [cases.NAMED[name] for name in ('gemma3_gqa', 'gemma3n', 'gemma4_experts')],
  ids=str,
)
@pytest.mark.slow
def test_gradients_are_those_of_all_together(case):
  alone, tokens, ids = packed(case)

  @jax.jit
  @jax.grad
  def total(params, tokens, **kwargs):
    logits = case.model.apply({'params': params}, tokens, **kwargs).logits
    return jnp.sum(jnp.where((tokens != 0)[..., None], jnp.sin(logits), 0))

  tokens[1], ids[1] = 0, 0
  mine = total(case.params, tokens, segment_ids=ids)
  expected = total(case.params, alone)
  largest = max(np.abs(x).max() for x in jax.tree.leaves(expected))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, atol=case.tolerance * largest
    ),
    mine,
    expected,
  )


def test_images_belong_to_the_segment_of_their_place():
  case = cases.VISION
  start = case.config.image_tokens.start
  images = case.images(1, 2)
  rows = [[5, start, 6, 7], [8, 9, start, 10, 11]]
  tokens = np.array([rows[0] + rows[1] + [0]])
  ids = np.array([[1] * 4 + [2] * 5 + [0]])
  out = np.asarray(case.apply(tokens, images=images, segment_ids=ids).logits[0])
  apart = np.array([[*rows[0], 0], rows[1]])
  alone = np.asarray(case.apply(apart, images=images.swapaxes(0, 1)).logits)
  for number, row in enumerate(rows):
    np.testing.assert_allclose(
      out[ids[0] == number + 1], alone[number, : len(row)], atol=case.noise
    )


@pytest.mark.parametrize('implementation', ['naive', 'chunked'])
def test_attention_skips_blocks_of_other_segments(implementation):
  """Against the same mask as an array."""
  rng = np.random.RandomState(0)
  length = 40
  q, k, v = (
    jnp.asarray(rng.normal(0, 1, (2, length, 2, 8)), jnp.float32)
    for _ in range(3)
  )
  index = jnp.broadcast_to(jnp.arange(length), (2, length))
  first = jnp.asarray(np.array([[0] * 15 + [15] * 25, [0] * 30 + [30] * 10]))
  mask = gm.math.Mask(q_index=index, k_index=index, q_first=first, window=9)
  i, j = np.arange(length)[:, None], np.arange(length)[None]
  seen = (j <= i) & (i - j < 9) & (j >= np.asarray(first)[:, :, None])
  np.testing.assert_array_equal(mask.visible(), seen)
  plain = gm.math.Mask(
    q_index=index, k_index=index, dense=jnp.asarray(seen), causal=False
  )
  expected = gm.math.naive_attention(q, k, v, mask=plain, scale=0.3)
  run = {
    'naive': gm.math.naive_attention,
    'chunked': lambda *x, **y: gm.math.chunked_attention(*x, **y, block=8),
  }[implementation]
  out = jax.jit(run, static_argnames='scale')(q, k, v, mask=mask, scale=0.3)
  np.testing.assert_allclose(out, expected, atol=1e-6)


def test_errors():
  case = cases.GEMMA3
  tokens = jnp.ones((2, 5), jnp.int32)
  with pytest.raises(ValueError, match=r'segment_ids have shape \(2, 4\)'):
    case.apply(tokens, segment_ids=tokens[:, 1:])
  with pytest.raises(ValueError, match='without a cache'):
    case.apply(tokens, segment_ids=tokens, cache=case.cache(2))
