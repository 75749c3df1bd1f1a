"""Products with weights: the same numbers and gradients as plain einsums."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gemma import gm
from gemma.gm.math import _lookup
from gemma.gm.math import _project
from gemma.gm.nn import _shapes

EQN = 'BLD,CFD->CBLF'


def inputs(rows, width, dtype):
  """Activations of `rows` rows, and a weight of two branches."""
  rng = np.random.RandomState(0)
  x = rng.normal(size=(rows, 1, 64))
  w = rng.normal(size=(2, width, 64))
  return jnp.asarray(x, dtype), jnp.asarray(w, dtype)


def plain(x, w):
  x, w = x.astype(jnp.float32), w.astype(jnp.float32)
  return jnp.einsum(EQN, x, w)


@pytest.mark.parametrize('rows', [1, 3, 8, 20])
@pytest.mark.parametrize('width', [16, 512])
@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float32])
def test_product_whatever_the_rows(rows, width, dtype):
  x, w = inputs(rows, width, dtype)
  out = _project.project(EQN, x, w, jnp.float32)
  np.testing.assert_allclose(out, plain(x, w), atol=1e-4)
  assert _project.project(EQN, x, w, dtype).dtype == dtype


def any_equation(rng):
  """An einsum of two random operands, of one to four axes each."""
  letters = rng.permutation([*'BLDFKHNT'])
  x_axes = letters[: rng.randint(1, 5)]
  w_axes = rng.permutation(letters[rng.randint(0, 5) :])[: rng.randint(1, 5)]
  both = list(dict.fromkeys([*x_axes, *w_axes]))
  out = rng.permutation(both)[: rng.randint(0, len(both) + 1)]
  return f'{"".join(x_axes)},{"".join(w_axes)}->{"".join(out)}'


EQUATIONS = [
  *('BD,DF->BF', 'D,DF->F', 'BLKD,DKF->BLF', 'BLD,DF->LBF', 'BLD,BLD->BLD'),
  *('...D,DF->...F', 'BL...,...F->BLF', 'BLD,DF', 'BLD , DF -> BLF', 'ba,ca'),
  *('BLL,LD->BD', 'BLD,DD->BLD', 'BLD,F->BLF', 'BLD,D->BL', 'BLNH,NHD->BND'),
  *('BLNH,NHF->BLNF', 'BLD,DFK->BLF', 'BLD,DF->BL', 'BLHN,NDH->BLD'),
]


@pytest.mark.parametrize(
  'eqn', EQUATIONS + [any_equation(np.random.RandomState(i)) for i in range(30)]
)
def test_any_equation(eqn):
  """The layer takes what `jnp.einsum` takes."""
  rng = np.random.RandomState(0)
  sizes = dict(
    zip('BLDFKHNTabc', (2, 3, 4, 5, 2, 3, 2, 3, 3, 4, 2), strict=True)
  )
  axes = eqn.replace(' ', '').split('->')[0].replace('...', 'KD').split(',')
  if eqn.startswith('...'):
    axes[0] = 'BLD'
  x, w = (rng.normal(size=[sizes[a] for a in part]) for part in axes)
  x, w = jnp.float32(x), jnp.float32(w)
  out = gm.nn.Einsum(w.shape).apply({'params': {'w': w}}, eqn, x)
  np.testing.assert_allclose(out, jnp.einsum(eqn, x, w), atol=1e-5)


def test_no_adapter_of_an_equation_that_has_no_rows():
  layer = gm.nn.Einsum((4, 5))
  lora = {'lora': {'a': jnp.ones((4, 1)), 'b': jnp.ones((1, 5))}}
  params = {'w': jnp.ones((4, 5)), '_LoRAEinsum_0': lora}
  with pytest.raises(ValueError, match="cannot be added to 'BD,DF->BF'"):
    layer.apply({'params': params}, 'BD,DF->BF', jnp.ones((2, 4)))


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float32])
def test_gradients_of_both_sides_and_of_one(dtype):
  x, w = inputs(3, 16, dtype)

  def loss(product, x, w):
    return jnp.sum(jnp.square(product(x, w).astype(jnp.float32)))

  def ours(x, w):
    return _project.project(EQN, x, w, jnp.float32)

  expected = jax.grad(loss, argnums=(1, 2))(plain, x, w)
  both = jax.grad(loss, argnums=(1, 2))(ours, x, w)
  alone = [jax.grad(loss, argnums=i)(ours, x, w) for i in (1, 2)]
  for a, b, c in zip(expected, both, alone, strict=True):
    assert b.dtype == dtype
    scale = np.abs(a).max()
    np.testing.assert_allclose(b, a, atol=1e-2 * scale)
    np.testing.assert_array_equal(b, c)


def test_forward_mode():
  x, w = inputs(2, 16, jnp.float32)
  _, expected = jax.jvp(plain, (x, w), (x, w))
  _, tangent = jax.jvp(
    lambda x, w: _project.project(EQN, x, w, jnp.float32), (x, w), (x, w)
  )
  np.testing.assert_allclose(tangent, expected, atol=1e-4)


def test_a_frozen_weight_has_no_product_of_its_own():
  """One product forward and one back; a zero tangent costs nothing."""
  x, w = inputs(2, 16, jnp.float32)

  def loss(x):
    return jnp.sum(_project.project(EQN, x, w, jnp.float32))

  text = str(jax.make_jaxpr(jax.grad(loss))(x))
  assert text.count('dot_general[') == 2


def decode_loop(dtype, batch, change=lambda params: params):
  """A loop of greedy steps: its temporary bytes, weights and cache."""
  config = dataclasses.replace(
    gm.nn.Gemma3_270M().config,
    num_embed=8192,
    attention_types=(
      gm.nn.config.AttentionType.LOCAL_SLIDING,
      gm.nn.config.AttentionType.GLOBAL,
    ),
  )
  model = gm.nn.Transformer(config=config, dtype=dtype)
  tokens = jnp.ones((batch, 1), jnp.int32)
  params = jax.eval_shape(change, _shapes.param_shapes(model))
  cache = model.init_cache(batch_size=batch, dtype=dtype, cache_length=2048)

  leaves, tree = jax.tree.flatten(cache)

  def loop(params, tokens, leaves):
    def step(carry):
      tokens, cache = carry[0], jax.tree.unflatten(tree, carry[1])
      out = model.apply({'params': params}, tokens, cache=cache)
      tokens = jnp.argmax(out.logits, axis=-1).astype(jnp.int32)
      return tokens, jax.tree.leaves(out.cache)

    return jax.lax.while_loop(lambda c: c[0][0, 0] > 0, step, (tokens, leaves))

  compiled = jax.jit(loop, donate_argnums=2).lower(params, tokens, leaves)
  temporary = compiled.compile().memory_analysis().temp_size_in_bytes
  return temporary, jax.tree.leaves(params), cache


@pytest.mark.parametrize(
  'batch, dtype', [(1, jnp.bfloat16), (8, jnp.bfloat16), (8, jnp.float32)]
)
def test_a_decode_loop_copies_neither_weights_nor_cache(batch, dtype):
  if jax.__version_info__ < (0, 10) and dtype == jnp.bfloat16:
    pytest.skip('The compiler of older versions copies bfloat16 whatever we do')
  temporary, weights, cache = decode_loop(dtype, batch)
  nbytes = sum(x.size * x.dtype.itemsize for x in weights)
  assert temporary < nbytes / 16
  assert temporary < cache.nbytes


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float32])
def test_rows_of_a_table_and_their_gradient(dtype):
  table = jnp.asarray(np.random.RandomState(0).normal(size=(7, 4)), dtype)
  index = jnp.array([[3, 0], [3, 6]])
  np.testing.assert_array_equal(_lookup.lookup(table, index), table[index])

  def loss(rows, table):
    return jnp.sum(jnp.square(rows(table, index).astype(jnp.float32)))

  expected = jax.grad(loss, argnums=1)(lambda t, i: t[i], table)
  got = jax.grad(loss, argnums=1)(_lookup.lookup, table)
  np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
  ('eqn', 'shape'),
  [
    ('BTD,NDH->BTNH', (4, 64, 16)),
    ('BTD,CKDH->CBTKH', (2, 1, 64, 16)),
    ('BTNH,NHD->BTD', (4, 16, 32)),
    ('BLF,FD->BLD', (64, 32)),
    ('BLD,CDF->CBLF', (2, 64, 32)),
    ('BLD,VD->BLV', (32, 64)),
  ],
)
@pytest.mark.parametrize('rows', [1, 5])
def test_every_equation_of_the_model(eqn, shape, rows):
  rng = np.random.RandomState(0)
  width = (4, 16) if eqn.startswith('BTNH') else (64,)
  x = jnp.asarray(rng.normal(size=(2, rows, *width)), jnp.bfloat16)
  w = jnp.asarray(rng.normal(size=shape), jnp.bfloat16)
  out = _project.project(eqn, x[:1], w, jnp.float32)
  wide = jnp.einsum(eqn, x[:1].astype(jnp.float32), w.astype(jnp.float32))
  np.testing.assert_allclose(out, wide, atol=1e-4)


@pytest.mark.parametrize('index', [[3, 1, 3, 3], [[0, 49], [7, 7]]])
def test_gradient_of_rows_is_summed_in_float32(index):
  """In bfloat16, ones added to 256 would be lost."""
  index = jnp.tile(jnp.asarray(index).reshape(-1), 200)
  table = jnp.ones((50, 8), jnp.bfloat16)

  def total(table):
    return _lookup.lookup(table, index).astype(jnp.float32).sum()

  expected = np.zeros((50, 8))
  np.add.at(expected, np.asarray(index), 1)
  for run in (lambda f: f, jax.jit):
    grads = run(jax.grad(total))(table)
    assert grads.dtype == jnp.bfloat16
    np.testing.assert_array_equal(grads, expected)
  each = jax.vmap(jax.grad(lambda t, i: t[i, 0]), (None, 0))(table, index[:3])
  mine = jax.vmap(jax.grad(lambda t, i: _lookup.lookup(t, i)[0]), (None, 0))(
    table, index[:3]
  )
  np.testing.assert_array_equal(each, mine)


def test_rows_of_a_table_that_is_not_trained():
  table, index = jnp.ones((5, 2), jnp.bfloat16), jnp.asarray([1, 2])

  def scaled(factor):
    rows = _lookup.lookup(table, index).astype(jnp.float32)
    return jnp.sum(factor * rows)

  assert jax.grad(scaled)(1.0) == 4
