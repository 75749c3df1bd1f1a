"""The loss of a token, with logits in memory and without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
from gemma import gm
from gemma.gm.math import _cross_entropy
from gemma.peft import _quantization

ROWS, WIDTH, VOCAB = (3, 7), 16, 101


def naive(logits, targets, z_loss=0.0, label_smoothing=0.0):
  """By the definition, in float64."""
  logits = np.asarray(logits, np.float64)
  peak = logits.max(-1, keepdims=True)
  logz = peak[..., 0] + np.log(np.exp(logits - peak).sum(-1))
  logp = logits - logz[..., None]
  right = np.take_along_axis(logp, np.asarray(targets)[..., None], -1)[..., 0]
  smooth = label_smoothing
  loss = -(1 - smooth) * right - smooth * logp.mean(-1)
  return loss + z_loss * logz**2


@pytest.fixture
def arrays():
  rng = np.random.RandomState(0)
  hidden = jnp.asarray(rng.normal(0, 1, (*ROWS, WIDTH)), jnp.float32)
  table = jnp.asarray(rng.normal(0, 1, (VOCAB, WIDTH)), jnp.float32)
  targets = jnp.asarray(rng.randint(0, VOCAB, ROWS), jnp.int32)
  weights = jnp.asarray(rng.normal(0, 1, ROWS), jnp.float32)
  return hidden, table, targets, weights


@pytest.mark.parametrize('softcap', [None, 3.0])
@pytest.mark.parametrize('z_loss, smoothing', [(0.0, 0.0), (1e-2, 0.1)])
@pytest.mark.parametrize('chunk', [25, 101, 1000])
def test_linear_is_dense(arrays, softcap, z_loss, smoothing, chunk):
  """Losses and both gradients; the last chunk may be a small one."""
  hidden, table, targets, weights = arrays
  extras = {'z_loss': z_loss, 'label_smoothing': smoothing}

  def logits(hidden, table):
    out = hidden @ table.T
    return out if softcap is None else softcap * jnp.tanh(out / softcap)

  def dense(hidden, table):
    losses = gm.math.cross_entropy(logits(hidden, table), targets, **extras)
    return jnp.sum(weights * losses), losses

  def linear(hidden, table):
    losses = gm.math.linear_cross_entropy(
      hidden, table, targets, softcap=softcap, chunk=chunk, **extras
    )
    return jnp.sum(weights * losses), losses

  wide = naive(logits(hidden, table), targets, z_loss, smoothing)
  (_, losses), expected = jax.value_and_grad(dense, (0, 1), has_aux=True)(
    hidden, table
  )
  np.testing.assert_allclose(losses, wide, atol=1e-5)
  for run in (jax.jit, lambda f: f):
    (_, losses), grads = run(
      jax.value_and_grad(linear, argnums=(0, 1), has_aux=True)
    )(hidden, table)
    np.testing.assert_allclose(losses, wide, atol=1e-5)
    for mine, theirs in zip(grads, expected, strict=True):
      np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_tables_of_integers(arrays):
  """The states have a gradient, the integers none."""
  hidden, table, targets, _ = arrays
  ints, scale = _quantization.quantize_array(table, (1,), 'int8')

  def loss(hidden, table, scale):
    losses = gm.math.linear_cross_entropy(hidden, table, targets, scale=scale)
    return losses.sum()

  mine = jax.value_and_grad(loss)(hidden, ints, scale)
  plain = jax.value_and_grad(loss)(hidden, ints / scale, None)
  jax.tree.map(np.testing.assert_array_equal, mine, plain)


def test_bfloat16(arrays):
  hidden, table, targets, _ = arrays
  low = [x.astype(jnp.bfloat16) for x in (hidden, table)]

  def loss(hidden, table):
    return gm.math.linear_cross_entropy(hidden, table, targets).sum()

  grads = jax.grad(loss, argnums=(0, 1))(*low)
  wide = jax.grad(loss, argnums=(0, 1))(*(x.astype(jnp.float32) for x in low))
  for mine, theirs in zip(grads, wide, strict=True):
    assert mine.dtype == jnp.bfloat16
    np.testing.assert_allclose(mine, theirs, atol=1e-2 * jnp.abs(theirs).max())


def test_memory_does_not_grow_with_tokens_times_vocabulary():
  """Four times both: one chunk of logits all the same."""

  def temporary(rows, vocab):
    hidden = jax.ShapeDtypeStruct((rows, 8), jnp.float32)
    table = jax.ShapeDtypeStruct((vocab, 8), jnp.float32)
    targets = jax.ShapeDtypeStruct((rows,), jnp.int32)

    def loss(hidden, table, targets):
      losses = gm.math.linear_cross_entropy(hidden, table, targets)
      return losses.sum()

    step = jax.jit(jax.grad(loss, argnums=(0, 1)))
    memory = step.lower(hidden, table, targets).compile().memory_analysis()
    return memory.temp_size_in_bytes

  most = 1.1 * _cross_entropy._CHUNK_BYTES  # All logits would be 4 GiB.
  assert temporary(1024, 65_536) < most
  assert temporary(4096, 262_144) < most


def test_nothing_for_a_table_that_is_not_trained(arrays):
  """As with LoRA: its gradient is not even computed."""
  hidden, table, targets, _ = arrays

  def loss(hidden):
    return gm.math.linear_cross_entropy(hidden, table, targets).sum()

  def full(hidden, table):
    return gm.math.linear_cross_entropy(hidden, table, targets).sum()

  def flops(f, *args):
    return jax.jit(f).lower(*args).compile().cost_analysis()['flops']

  assert flops(jax.grad(loss), hidden) < 0.85 * flops(
    jax.grad(full, argnums=(0, 1)), hidden, table
  )


def test_bad_chunk(arrays):
  hidden, table, targets, _ = arrays
  with pytest.raises(ValueError, match='chunk=0'):
    gm.math.linear_cross_entropy(hidden, table, targets, chunk=0)


# With a soft cap and without, and of several streams.
@pytest.mark.parametrize(
  'case',
  cases.some('gemma2_by_head_dim', 'gemma1_mqa', 'gemma3n'),
  ids=str,
)
def test_head_of_a_model(case):
  """From hidden states, what the model's logits give."""
  tokens = jnp.asarray(case.tokens())
  out = case.apply(tokens, return_hidden_states=True)
  head = gm.nn.head_of(case.params, case.config)
  losses = head.losses(out.hidden_states[:, :-1], tokens[:, 1:])
  expected = gm.math.cross_entropy(out.logits[:, :-1], tokens[:, 1:])
  np.testing.assert_allclose(losses, expected, atol=1e-5)


def test_logits_that_nobody_reads_are_not_computed():
  """By the operations of the program."""
  case = cases.NAMED['gemma1_mha']
  tokens = jnp.asarray(case.tokens())

  def states(tokens):
    return case.apply(tokens, return_hidden_states=True).hidden_states

  def logits(tokens):
    return case.apply(tokens).logits

  costs = [
    jax.jit(f).lower(tokens).compile().cost_analysis()['flops']
    for f in (states, logits)
  ]
  product = 2 * tokens.size * case.config.embed_dim * case.config.num_embed
  assert costs[1] - costs[0] >= product
