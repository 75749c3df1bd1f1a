"""Settings of samplers: refused when they are made, or what they say."""

import math
import re

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import cases
from gemma import gm
from gemma.gm.text import _request
from gemma.gm.text import _sampling
from gemma.gm.text import _settings

CASE = cases.GEMMA3
PROMPT = CASE.prompts(9)[0]
T = gm.text


@pytest.fixture(autouse=True)
def as_a_user_sees_it():
  """Without the tests' own checks of types."""
  jaxtyping.config.update('jaxtyping_disable', True)
  yield
  jaxtyping.config.update('jaxtyping_disable', False)


BAD = {
  'infinite temperature': (
    lambda: T.RandomSampling(temperature=math.inf),
    'temperature=inf must be finite',
  ),
  'beyond float32': (
    lambda: T.TopkSampling(k=3, temperature=1e39),
    r'temperature=1e\+39 must be finite, and at most 1e\+30',
  ),
  'NaN': (lambda: T.MinP(temperature=math.nan), 'temperature=nan must be'),
  'text': (lambda: T.TopPSampling(temperature='hot'), "'hot' is a str"),
  'nothing': (lambda: T.RandomSampling(temperature=None), 'is a NoneType'),
  'infinite k': (lambda: T.TopkSampling(k=math.inf), 'k=inf must be finite'),
  'k beyond int32': (lambda: T.TopkSampling(k=1 << 31), 'k=2147483648 is abo'),
  'half a token': (lambda: T.TopkSampling(k=2.5), 'k=2.5 is not a whole'),
  'NaN probability': (lambda: T.TopPSampling(p=math.nan), 'p=nan must be'),
  'tiny probability': (lambda: T.TopPSampling(p=1e-50), 'p=1e-50 is not a p'),
  'infinite repetition': (
    lambda: T.Penalties(repetition=math.inf), 'repetition=inf must be finite'
  ),
  'large repetition': (
    lambda: T.Penalties(repetition=1e7), 'must be between 1e-06 and 1e'
  ),
  'infinite presence': (
    lambda: T.Penalties(presence=-math.inf), 'presence=-inf must be finite'
  ),
  'NaN frequency': (lambda: T.Penalties(frequency=math.nan), 'frequency=nan'),
  'infinite bias': (
    lambda: T.LogitBias(bias={5: -math.inf}),
    'The bias of token 5=-inf must be .* forbidden_tokens forbids tokens',
  ),
  'bias of a text': (lambda: T.LogitBias(bias={'a': 1.0}), "has token 'a'"),
  'pad_length': (lambda: CASE.sampler(pad_length=0), 'pad_length=0 is below 1'),
  'one pad_length': (
    lambda: CASE.sampler(pad_length=(8, -1)), 'pad_length=-1 is below 1'
  ),
  'no pad_length': (lambda: CASE.sampler(pad_length=()), 'has no size'),
  'length': (
    lambda: CASE.sampler(cache_length=9.5), 'cache_length=9.5 is not a whole'
  ),
  'no tokens': (
    lambda: CASE.sampler().sample(PROMPT, max_new_tokens=0),
    'max_new_tokens=0 is below 1',
  ),
  'no tokens of one row': (
    lambda: CASE.sampler().sample([PROMPT] * 2, max_new_tokens=[3, 0]),
    'max_new_tokens=0 is below 1',
  ),
  'part of a token': (
    lambda: CASE.sampler().sample(PROMPT, max_new_tokens=2.5),
    'max_new_tokens=2.5 is not a whole number',
  ),
  'all forbidden': (
    lambda: CASE.sampler(forbidden_tokens=range(300)).sample(PROMPT),
    'All 300 tokens are forbidden. Take at least one out',
  ),
  'seed': (lambda: CASE.sampler().sample(PROMPT, rng=0.5), 'rng=0.5 is a fl'),
  'keys': (
    lambda: CASE.sampler().sample(PROMPT, rng=jax.random.split(
      jax.random.key(0)
    )),
    r'rng has shape \(2,\). Give one random key',
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', BAD)
def test_refused(name):
  call, message = BAD[name]
  with pytest.raises((ValueError, TypeError), match=message):
    call()


PATHS = {'tokens': 'a', 'sequence_mask': 'b', 'policy_logits': 'c'}
LABELS = {'logits': 'a', 'labels': 'b'}
PAIRS = {**PATHS, 'anchor_logits': 'd'}
TRAINING = {
  'adamw': (
    lambda **x: gm.training.adamw(**{'learning_rate': 1e-3, 'steps': 9} | x),
    {
      'learning_rate': [-1, math.nan, '1e-3'],
      'steps': [0, 2.5],
      'warmup': [1.0, math.nan],
      'weight_decay': [-0.1, math.inf],
      'clip': [-1, 0, math.nan],
    },
  ),
  'make_step': (
    lambda **x: gm.training.make_step(print, None, **x),
    {'accumulate': [0, 1.5]},
  ),
  'Run': (
    lambda **x: gm.training.Run('/none', None, [], **x),
    {'steps': [0, 1.5], 'save_every': [0, -1], 'keep': [0]},
  ),
  'Batches': (
    lambda **x: gm.data.Batches([{'a': 1}], **{'batch_size': 1} | x),
    {'batch_size': [0, 1.5], 'epochs': [-1], 'pack': [0]},
  ),
  'NextToken': (
    lambda **x: gm.losses.NextToken(CASE.model, **x),
    {'z_loss': [-1, math.nan], 'label_smoothing': [1, -0.1]},
  ),
  'CrossEntropy': (
    lambda **x: gm.losses.CrossEntropy(**LABELS, **x),
    {'z_loss': [-1], 'weight': [math.nan], 'normalize_by': ['rows']},
  ),
  'Preference': (
    lambda **x: gm.losses.Preference(CASE.model, **x),
    {'tau': [0, math.inf], 'label_smoothing': [2]},
  ),
  'DpoLoss': (
    lambda **x: gm.losses.DpoLoss(**PAIRS, **x),
    {'tau': [0, -1], 'label_smoothing': [2], 'weight': ['1']},
  ),
  'NpoLoss': (lambda **x: gm.losses.NpoLoss(**PAIRS, **x), {'tau': [math.nan]}),
  'SimpoLoss': (
    lambda **x: gm.losses.SimpoLoss(**PATHS, **x),
    {'tau': [0], 'margin': [math.inf]},
  ),
  'LoRA': (
    lambda **x: gm.nn.LoRA(**{'rank': 2, 'model': CASE.model} | x),
    {'rank': [0, 1.5], 'alpha': [0, math.nan], 'dropout': [1.5]},
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', TRAINING)
def test_settings_of_training_are_refused(name):
  make, settings = TRAINING[name]
  make()
  for setting, values in settings.items():
    for value in values:
      message = f'{setting}={value!r}'
      with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        make(**{setting: value})


def test_schedules_are_no_settings():
  loss = gm.losses.DpoLoss(**PAIRS, tau=lambda step: step, weight=lambda _: 1.0)
  assert float(loss.get_weight(3)) == 1


def test_seeds_of_any_size():
  """JAX's own where it takes them; different for different seeds."""
  seeds = [0, -1, 7, 1 << 31, (1 << 63) - 1]
  for seed in seeds:
    assert _request.as_key(seed) == jax.random.key(seed)
  large = [1 << 63, (1 << 64) + 7, -(1 << 64) - 7, 10**40, np.uint64(1 << 63)]
  keys = [jax.random.key_data(_request.as_key(s)).tolist() for s in large]
  assert keys[0] == keys[-1]
  assert len({*map(tuple, keys)}) == 4


def test_without_a_temperature_it_is_greedy():
  bias = T.LogitBias(bias={5: 1.0})
  for method in (
    T.Penalties(presence=1.0), bias, T.Chain(T.Penalties(frequency=1.0), bias)
  ):  # fmt: skip
    (numbers,), _ = _sampling.resolve(method, 1)
    assert numbers['temperature'] == 0
  (numbers,), _ = _sampling.resolve(T.Chain(T.MinP(p=0.1), bias), 1)
  assert numbers['temperature'] == 1


@pytest.mark.parametrize(
  'method',
  [
    T.RandomSampling(temperature=1e-30),
    T.TopPSampling(p=1e-30, temperature=1e-45),
    T.Chain(T.LogitBias(bias={2: -1e30}), T.RandomSampling(temperature=1e-9)),
  ],
)
def test_extremes_stay_finite(method):
  """The likeliest token has a finite logit, and is drawn."""
  logits = jnp.array([[1.0, 40.0, 39.0, -1e4]])
  numbers = method.numbers()
  settings = _settings.stack([numbers], 4, biased='bias' in numbers)
  shaped = _settings.shape_logits(logits, settings, None)
  assert np.isfinite(shaped[0, 1])
  assert not np.isnan(shaped).any()
  assert method.get_next_tokens(logits, jax.random.key(0))[0] == 1
