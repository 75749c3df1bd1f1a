"""Sampling methods: what each does to a distribution, alone and combined."""

import collections
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from gemma import gm
from gemma.gm.math import _select
from gemma.gm.text import _sampling
from gemma.gm.text import _settings

LOGITS = jnp.asarray(np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32)))


def draws(method, logits=LOGITS, count=4000):
  """How often each token comes out."""
  keys = jax.random.split(jax.random.key(0), count)
  tokens = jax.vmap(lambda key: method.get_next_tokens(logits, key))(keys)
  seen = collections.Counter(np.asarray(tokens).tolist())
  return np.array([seen[i] / count for i in range(logits.size)])


@pytest.mark.parametrize(
  'method, expected',
  [
    (gm.text.Greedy(), [1, 0, 0, 0]),
    (gm.text.RandomSampling(), [0.4, 0.3, 0.2, 0.1]),
    (gm.text.RandomSampling(temperature=0.5), [0.53, 0.3, 0.13, 0.03]),
    (gm.text.RandomSampling(temperature=0), [1, 0, 0, 0]),
    (gm.text.TopkSampling(k=2), [4 / 7, 3 / 7, 0, 0]),
    (gm.text.TopkSampling(k=9), [0.4, 0.3, 0.2, 0.1]),
    (gm.text.TopkSampling(k=3, temperature=0), [1, 0, 0, 0]),
    (gm.text.TopPSampling(p=0.6), [4 / 7, 3 / 7, 0, 0]),
    (gm.text.TopPSampling(p=0.1), [1, 0, 0, 0]),
    (gm.text.TopPSampling(p=1.0), [0.4, 0.3, 0.2, 0.1]),
    (gm.text.TopPSampling(p=0.9, temperature=0), [1, 0, 0, 0]),
    (gm.text.MinP(p=0.6), [4 / 7, 3 / 7, 0, 0]),
    (gm.text.MinP(p=0.2), [0.4, 0.3, 0.2, 0.1]),
    (gm.text.MinP(p=1.0), [1, 0, 0, 0]),
    (gm.text.LogitBias(bias={0: -100, 3: 1.0986}), [0, 0.375, 0.25, 0.375]),
    (
      gm.text.Chain(gm.text.TopkSampling(k=3), gm.text.TopPSampling(p=0.7)),
      [4 / 7, 3 / 7, 0, 0],
    ),
    (
      gm.text.Chain(gm.text.LogitBias(bias={3: 9.0}), gm.text.Greedy()),
      [0, 0, 0, 1],
    ),
  ],
  ids=str,
)
def test_distribution(method, expected):
  np.testing.assert_allclose(draws(method), expected, atol=0.03)


@pytest.mark.slow
def test_top_p_of_bfloat16_logits():
  """Sums are in float32: of 2048 equal tokens, all are in reach of 0.999."""
  logits = jnp.zeros(2048, jnp.bfloat16).at[:8].set(-0.5)
  numbers = [gm.text.TopPSampling(p=0.999).numbers()]
  settings = _settings.stack(numbers, 2048, biased=False)
  shaped = _settings.shape_logits(logits[None], settings, None)
  assert shaped.dtype == jnp.float32
  assert np.isfinite(shaped).sum() == 2048
  fractions = draws(gm.text.TopPSampling(p=0.8), LOGITS.astype(jnp.bfloat16))
  np.testing.assert_allclose(fractions, [4 / 9, 3 / 9, 2 / 9, 0], atol=0.03)


def test_methods_take_any_batch_dims():
  logits = jnp.zeros((2, 3, 8))
  for method in (
    gm.text.Greedy(),
    gm.text.TopkSampling(k=2),
    gm.text.TopPSampling(),
    gm.text.RandomSampling(),
    gm.text.LogitBias(bias={1: 2.0}),
  ):
    assert method.get_next_tokens(logits, jax.random.key(0)).shape == (2, 3)


def values(name):
  """Logits of a kind, `[3, 33]`: 33 is more than some `k` below."""
  rng = np.random.RandomState(0)
  logits = rng.normal(0, 3, (3, 33)).astype(np.float32)
  if name == 'ties':
    return np.round(logits)
  if name == 'equal':
    return np.zeros_like(logits)
  if name == 'forbidden':
    return np.where(rng.rand(3, 33) < 0.7, -np.inf, logits)
  return logits


@pytest.mark.parametrize('name', ['random', 'ties', 'equal', 'forbidden'])
def test_top_k_is_that_of_a_sort(name):
  logits, counts = values(name), [1, 2, 7, 32, 33, 50, 0]
  order = np.argsort(-logits, axis=-1, kind='stable')
  expected = np.zeros((len(counts), *logits.shape), bool)
  for k, places in zip(counts, expected, strict=True):
    np.put_along_axis(places, order[:, : k or None], True, axis=-1)
  kept = _select.among_top_k(
    jnp.asarray(np.tile(logits, (len(counts), 1))),
    jnp.asarray(np.repeat(counts, 3).astype(np.int32)),
  )
  np.testing.assert_array_equal(kept, expected.reshape(-1, 33))


@pytest.mark.parametrize('name', ['random', 'ties', 'equal', 'forbidden'])
def test_top_p_is_that_of_a_sort(name):
  logits, parts = values(name), [1e-6, 0.3, 0.9, 0.999, 1 - 1e-7, 1.0]
  kept = _select.among_top_p(
    jnp.asarray(np.tile(logits, (len(parts), 1))),
    jnp.asarray(np.repeat(parts, 3).astype(np.float32)),
  )
  for p, found in zip(parts, np.reshape(kept, (-1, 3, 33)), strict=True):
    check_top_p(logits, p, found)


def check_top_p(logits, p, kept):
  probs = np.exp(logits - logits.max(axis=-1, keepdims=True)).astype('d')
  probs /= probs.sum(axis=-1, keepdims=True)
  # As published: the rank is the number of sums below p; equals are kept.
  rank = (np.cumsum(-np.sort(-probs), axis=-1) < p).sum(axis=-1)
  order = -np.sort(-logits, axis=-1)
  least = order[np.arange(3), np.minimum(rank, 32)]
  expected = (logits >= least[:, None]) | (p == 1)
  if p == pytest.approx(1, abs=1e-6):  # Float32 cannot tell the last ones.
    differ = np.where(kept != expected, probs, 0)
    assert differ.sum(axis=-1).max() < 3e-7
  else:
    np.testing.assert_array_equal(kept, expected)


@pytest.mark.parametrize('p', [0.0, 0.01, 0.5, 1.0])
def test_min_p_is_a_part_of_the_largest_probability(p):
  logits = values('forbidden')
  probs = jax.nn.softmax(logits, axis=-1)
  expected = probs >= p * probs.max(axis=-1, keepdims=True)
  kept = _select.among_min_p(jnp.asarray(logits), jnp.full(3, p))
  np.testing.assert_array_equal(kept, expected)


def test_rows_select_with_numbers_of_their_own():
  logits = jnp.asarray(values('random'))
  for select, numbers in (
    (_select.among_top_k, jnp.array([1, 9, 33])),
    (_select.among_top_p, jnp.array([0.2, 0.7, 1.0])),
    (_select.among_min_p, jnp.array([0.0, 0.1, 0.9])),
  ):
    both = select(logits, numbers)
    for row in range(3):
      alone = select(logits, jnp.full(3, numbers[row]))
      np.testing.assert_array_equal(both[row], alone[row])


def test_no_draw_of_weight_zero():
  """Wherever the random number falls, though sums are rounded."""
  rng = np.random.RandomState(0)
  for size in (512, 300, 7):
    weights = rng.rand(size).astype(np.float32)
    weights[rng.rand(size) < 0.5] = 0
    weights[-size // 3 :] = 0
    covered = np.asarray(jnp.cumsum(jnp.asarray(weights)))
    points = np.concatenate(
      [np.nextafter(covered, np.float32(x)) for x in (0, 1e9)] + [covered]
    )
    points = np.clip(points / covered.max(), 0, np.float32(1 - 2**-24))
    index = jax.vmap(_settings.inverse_cdf, in_axes=(None, 0))(
      jnp.asarray(weights), jnp.asarray(points)
    )
    assert weights[index].min() > 0


def test_penalties_by_hand():
  """Repetition of prompt and answer; the other two of the answer alone."""
  logits = jnp.array([[2.0, -2.0, 2.0, -2.0, 2.0]])
  seen = _settings.Seen.of_prompts([[0, 1]], 5)
  for token in (1, 2, 2):
    seen = seen.add(jnp.array([token]), jnp.array([True]))
  seen = seen.add(jnp.array([4]), jnp.array([False]))
  method = gm.text.Penalties(repetition=1.6, frequency=0.5, presence=0.25)
  settings = _settings.stack([method.numbers()], 5, biased=False)
  expected = [
    2 / 1.6,
    -2 * 1.6 - 0.5 - 0.25,
    2 / 1.6 - 2 * 0.5 - 0.25,
    -2,
    2,
  ]
  np.testing.assert_allclose(
    _settings.adjust(logits, settings, seen)[0], expected, rtol=1e-6
  )


def test_greedy_with_penalties_step_by_step():
  """The sampler's answer is that of the definition on uncached logits."""
  case = cases.GEMMA2
  method = gm.text.Penalties(repetition=1.3, frequency=0.4, presence=0.8)
  (prompt,) = case.prompts(9)
  sampling = gm.text.Chain(gm.text.Greedy(), method)
  out = case.sampler().sample(prompt, sampling=sampling, return_state=True)
  logits, _ = case.one_pass([prompt + out.token_ids] * 4)[0]
  logits = logits.astype(np.float64)
  for i, token in enumerate(out.token_ids):
    row, answer = logits[len(prompt) - 1 + i], out.token_ids[:i]
    row[[0, 110, 111]] = -np.inf  # Padding and images.
    for seen in {*prompt, *answer}:
      row[seen] = row[seen] / 1.3 if row[seen] > 0 else row[seen] * 1.3
      row[seen] -= 0.4 * answer.count(seen) + 0.8 * (seen in answer)
    assert token == row.argmax()
  assert len({*out.token_ids}) > 8


def test_chain_is_the_same_in_any_order():
  parts = [
    gm.text.Penalties(repetition=1.2),
    gm.text.TopkSampling(k=20, temperature=0.7),
    gm.text.Chain(gm.text.TopPSampling(p=0.9), gm.text.MinP(p=0.1)),
    gm.text.LogitBias(bias={5: 1.0}),
  ]
  numbers = {
    'repetition': 1.2, 'top_k': 20, 'temperature': 0.7, 'top_p': 0.9,
    'min_p': 0.1, 'bias': {5: 1.0}, 'frequency': 0.0, 'presence': 0.0,
  }  # fmt: skip
  assert gm.text.Chain(*parts).numbers() == numbers
  assert gm.text.Chain(*parts[::-1]).numbers() == numbers
  assert gm.text.Chain(parts[1]) == gm.text.Chain(parts[1])
  assert gm.text.Chain(parts[1]) != gm.text.Chain(parts[0])
  assert hash(gm.text.Chain(parts[1])) == hash(gm.text.Chain(parts[1]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Last(gm.text.SamplingMethod):
  """A method of a user: the last token that is allowed, but for `skip`."""

  skip: int = 0

  def get_next_tokens(self, logits, rng):
    place = jnp.arange(logits.shape[-1])
    allowed = jnp.isfinite(logits)
    best = jnp.max(jnp.where(allowed, place, 0), axis=-1)
    return best - self.skip


def test_method_of_a_user():
  case = cases.GEMMA2
  sampler = case.sampler(forbidden_tokens=[299])
  fields = {'max_new_tokens': 3, 'return_state': True}
  (prompt,) = case.prompts(4)
  out = sampler.sample(prompt, sampling=Last(), **fields)
  assert out.token_ids == [298] * 3
  chain = gm.text.Chain(gm.text.TopkSampling(k=1), Last())
  out = sampler.sample(prompt, sampling=chain, **fields)
  greedy = sampler.sample(prompt, **fields)
  assert out.token_ids == greedy.token_ids


BAD = {
  'temperature': (
    lambda: gm.text.RandomSampling(temperature=-1), 'temperature=-1 is below 0'
  ),
  'k': (lambda: gm.text.TopkSampling(k=0), 'k=0 is below 1'),
  'p': (lambda: gm.text.TopPSampling(p=0), 'p=0 is not a probability above 0'),
  'min p': (lambda: gm.text.MinP(p=1.5), 'p=1.5 is not a probability'),
  'repetition': (
    lambda: gm.text.Penalties(repetition=0), 'repetition=0 must be above 0'
  ),
  'empty chain': (gm.text.Chain, r'Chain\(\) is empty'),
  'two of a kind': (
    lambda: gm.text.Chain(
      gm.text.TopkSampling(k=3), gm.text.TopkSampling(k=5)
    ),
    'top_k is both 3 and 5',
  ),
  'nested': (
    lambda: gm.text.Chain(
      gm.text.Greedy(), gm.text.Chain(gm.text.MinP(temperature=0.5))
    ),
    'temperature is both 0.0 and 0.5',
  ),
  'two biases': (
    lambda: gm.text.Chain(
      gm.text.LogitBias(bias={1: 1.0}), gm.text.LogitBias(bias={2: 1.0})
    ),
    'bias is both',
  ),
  'two of your own': (
    lambda: gm.text.Chain(Last(), gm.text.Chain(Last(skip=1))),
    'would each pick the token',
  ),
  'penalties alone': (
    lambda: gm.text.Penalties(presence=1.0).get_next_tokens(
      LOGITS, jax.random.key(0)
    ),
    'depends on what was said before',
  ),
  'bias outside': (
    lambda: gm.text.LogitBias(bias={4: 1.0}).get_next_tokens(
      LOGITS, jax.random.key(0)
    ),
    'LogitBias has token 4, outside of the table of 4 rows',
  ),
  'number of methods': (
    lambda: _sampling.resolve([gm.text.Greedy()] * 2, 3),
    '2 sampling methods for 3 prompts',
  ),
  'rows of your own': (
    lambda: _sampling.resolve([Last(), gm.text.Greedy()], 2),
    'Rows cannot have different methods of your own',
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', BAD)
def test_settings_that_are_none(name):
  make, message = BAD[name]
  with pytest.raises(ValueError, match=message):
    make()
