"""Adapters around the layers of any Flax module."""

import threading

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gemma import peft
from gemma.peft import _einsum

KEY = jax.random.key(0)
X = jnp.ones((2, 4))


def shapes(tree):
  return jax.tree.map(jnp.shape, tree)


def by_lora(module, rank=2):
  """Flax's own layers, each with an adapter."""
  if isinstance(module, nn.Dense):
    return peft.LoRADense(rank=rank, wrapped=module)
  if isinstance(module, nn.DenseGeneral):
    return peft.LoRADenseGeneral(rank=rank, wrapped=module)
  if isinstance(module, nn.Einsum):
    return peft.LoRAEinsum(rank=rank, wrapped=module)
  return module


class Double(nn.Module):
  """Another layer of which the result is doubled; its parameter is below."""

  wrapped: nn.Module

  @nn.compact
  def __call__(self, x):
    factor = self.param('factor', nn.initializers.constant(2), (1,))
    return self.wrapped(x) * factor[None]


def doubled(module):
  return Double(module) if isinstance(module, nn.Dense) else module


class Two(nn.Module):
  """Layers made where they are called."""

  @nn.compact
  def __call__(self, x):
    return nn.Dense(3, name='last')(nn.Dense(5)(x))


class Ready(nn.Module):
  """Layers made before, called in a compiled method."""

  def setup(self):
    self.first = nn.Dense(4)
    self.rest = [nn.Dense(5), nn.Dense(3)]

  def __call__(self, x):
    return self._compiled(x)

  @nn.jit
  def _compiled(self, x):
    x = self.first(x)
    for layer in self.rest:
      x = layer(x)
    return x


def init(model, *args, by=None):
  if by is None:
    return model.init(KEY, *args)['params']
  with peft.ModuleInterceptor(by):
    return model.init(KEY, *args)['params']


def random(tree):
  """The same tree with other numbers, those of adapters not zero."""
  leaves, structure = jax.tree.flatten(tree)
  rng = np.random.RandomState(0)
  drawn = [jnp.asarray(rng.normal(0, 1, x.shape), x.dtype) for x in leaves]
  return jax.tree.unflatten(structure, drawn)


# What the published package gives for the same key.
DENSE = {
  'Dense_0': {
    'bias': (5,),
    'kernel': (4, 5),
    'lora': {'a': (4, 2), 'b': (2, 5)},
  },
  'last': {'bias': (3,), 'kernel': (5, 3), 'lora': {'a': (5, 2), 'b': (2, 3)}},
}
NUMBERS = {
  'Dense_0': (-0.82589978, 0.37727574, 0.52046663, -0.24454725),
  'last': (-0.57041591, 0.1455878, -0.27433923, 0.96121299),
}


def test_paths_shapes_and_numbers_are_the_published_ones():
  params = init(Two(), X, by=by_lora)
  assert shapes(params) == DENSE
  for name, expected in NUMBERS.items():
    kernel, a = params[name]['kernel'], params[name]['lora']['a']
    found = [*kernel.ravel()[:2], *a.ravel()[:2]]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert not params[name]['lora']['b'].any()


@pytest.mark.parametrize(
  'options, shape, expected',
  [
    ({'features': (5, 6), 'axis': (-2, -1)}, (3, 4, 7), ((4, 7, 2), (2, 5, 6))),
    ({'features': 5, 'axis': 1}, (3, 4, 7), ((4, 2), (2, 5))),
    (
      {'features': 5, 'axis': -1, 'batch_dims': (0,)},
      (3, 4, 7),
      ((3, 7, 2), (3, 2, 5)),
    ),
    (
      {'features': (5, 6), 'axis': (-2,), 'batch_dims': (0,)},
      (3, 4, 7),
      ((3, 4, 2), (3, 2, 5, 6)),
    ),
    (
      {'features': (5,), 'axis': (-1,), 'batch_dims': (0, 1)},
      (3, 4, 7),
      ((3, 4, 7, 2), (3, 4, 2, 5)),
    ),
  ],
)
def test_dense_general(options, shape, expected):
  adapter = peft.LoRADenseGeneralAdapter(rank=2, **options)
  x = jnp.ones(shape)
  out, variables = adapter.init_with_output(KEY, x)
  assert tuple(shapes(variables['params']).values()) == expected
  layer = nn.DenseGeneral(**options)
  assert out.shape == layer.init_with_output(KEY, x)[0].shape


# Equation, shape of the weight, shape of the input, the split equation, and
# the published shapes of the factors.
EINSUMS = [
  ('BTNH,NHD->BTD', (2, 3, 5), (1, 4, 2, 3), 'BTNH,NHr,rD->BTD'),
  ('bijk,bnmjk->bimn', (2, 3, 4, 5, 6), (2, 7, 5, 6), 'bijk,bjkr,rnm->bimn'),
  ('BTD,NDH->BTNH', (2, 3, 5), (1, 4, 3), 'BTD,Dr,rNH->BTNH'),
  ('abr,rc->abc', (3, 4), (1, 2, 3), 'abr,rA,Ac->abc'),
  ('...F,NHF->...NH', (2, 3, 5), (1, 4, 5), '...F,Fr,rNH->...NH'),
  ('bn,bn->b', (2, 3), (2, 3), 'bn,bnr,r->b'),
  ('bd, bdk -> bk', (2, 3, 4), (2, 3), 'bd,bdr,rk->bk'),
]
FACTORS = [
  ((2, 3, 7), (7, 5)),
  ((2, 5, 6, 7), (7, 3, 4)),
  ((3, 7), (7, 2, 5)),
  ((3, 7), (7, 4)),
  ((5, 7), (7, 2, 3)),
  ((2, 3, 7), (7,)),
  ((2, 3, 7), (7, 4)),
]


@pytest.mark.parametrize(
  'case, factors', [*zip(EINSUMS, FACTORS, strict=True)], ids=str
)
def test_einsum_is_split(case, factors):
  equation, shape, inputs, expected = case
  assert _einsum.split(equation, shape, rank=7) == (expected, *factors)
  adapter = peft.LoRAEinsumAdapter(rank=7, einsum_str=equation, shape=shape)
  x = jnp.ones(inputs)
  params = random(init(adapter, x))
  assert (params['a'].shape, params['b'].shape) == factors
  x_axes, a_axes, b_axes = expected.split('->')[0].split(',')
  weight = equation.replace(' ', '').split('->')[0].split(',')[1]
  rank = b_axes[0]
  w = jnp.einsum(f'{a_axes},{b_axes}->{weight}', params['a'], params['b'])
  out = adapter.apply({'params': params}, x)
  np.testing.assert_allclose(out, jnp.einsum(equation, x, w), rtol=1e-5)
  assert rank not in x_axes


@pytest.mark.parametrize(
  'equation, shape, error',
  [
    ('ij,jk,kl->il', (2, 3), '`einsum_str` should be .*ij,jk,kl'),
    ('ij->j', (2,), '`einsum_str` should be'),
    ('ij,jk', (2, 3), '`einsum_str` should be'),
    ('ij,...jk->ik', (2, 3), 'should not contain ellipsis'),
    ('ij,jk->ik', (2, 3, 4), r'have 2 axes, but the shape \(2, 3, 4\) has 3'),
  ],
)
def test_einsum_errors(equation, shape, error):
  adapter = peft.LoRAEinsumAdapter(rank=1, einsum_str=equation, shape=shape)
  with pytest.raises(ValueError, match=error):
    adapter.init(KEY, jnp.ones((1, 2)))


WRAPPERS = [
  (peft.LoRADense(rank=2, wrapped=nn.Dense(5)), (3, 4)),
  (
    peft.LoRAEinsum(rank=2, wrapped=nn.Einsum((4, 5), 'bd,df->bf')),
    (3, 4),
  ),
  (
    peft.LoRAEinsum(
      rank=2, wrapped=nn.Einsum((2, 4, 5), 'btd,ndh->btnh', use_bias=False)
    ),
    (3, 6, 4),
  ),
  (
    peft.LoRADenseGeneral(rank=2, wrapped=nn.DenseGeneral(5, axis=(-2, -1))),
    (3, 4, 7),
  ),
  (
    peft.LoRADenseGeneral(
      rank=2, wrapped=nn.DenseGeneral((5, 6), axis=-1, batch_dims=(0,))
    ),
    (3, 4, 7),
  ),
]


@pytest.mark.parametrize(
  'layer, shape', WRAPPERS, ids=lambda x: type(x).__name__
)
def test_wrapper_starts_as_the_layer(layer, shape):
  x = jax.random.normal(KEY, shape)
  out, variables = layer.init_with_output(KEY, x)
  params = peft.split_params(variables['params']).original
  assert shapes(params) == shapes(init(layer.wrapped, x))
  plain = layer.wrapped.apply({'params': params}, x)
  np.testing.assert_array_equal(out, plain)
  assert set(variables['params']['lora']) == {'a', 'b'}


def test_einsum_may_be_in_the_call():
  """As `nn.Einsum` allows."""
  layer = peft.LoRAEinsum(rank=2, wrapped=nn.Einsum((4, 5), use_bias=False))
  params = layer.init(KEY, X, 'bd,df->bf')['params']
  assert shapes(params['lora']) == {'a': (4, 2), 'b': (2, 5)}
  with pytest.raises(ValueError, match='einsum_str'):
    layer.init(KEY, X)


def test_dtypes():
  """Of the parameters as asked for, of results as Flax promotes them."""
  x = jnp.ones((3, 4), jnp.bfloat16)
  for dtype, expected in ((jnp.bfloat16, jnp.bfloat16), (None, jnp.float32)):
    options = {} if dtype is None else {'dtype': dtype}
    adapter = peft.LoRADenseAdapter(rank=2, features=5, **options)
    out, variables = adapter.init_with_output(KEY, x)
    assert variables['params']['a'].dtype == expected
    assert out.dtype == expected


# Interceptors.


def test_layers_of_a_setup():
  params = init(Ready(), X, by=by_lora)
  assert shapes(params)['rest_1']['lora'] == {'a': (5, 2), 'b': (2, 3)}
  assert {*params} == {'first', 'rest_0', 'rest_1'}


def test_layers_of_flax_attention():
  attention = nn.MultiHeadDotProductAttention(num_heads=2)
  params = init(attention, jnp.ones((2, 3, 4)), by=by_lora)
  assert shapes(params['out']['lora']) == {'a': (2, 2, 2), 'b': (2, 4)}
  assert shapes(params['key']['lora']) == {'a': (4, 2), 'b': (2, 2, 2)}


def test_without_a_shared_scope_parameters_are_below():
  params = init(Two(), X, by=doubled)
  assert shapes(params['last']) == {
    'Double_0': {'factor': (1,)},
    'bias': (3,),
    'kernel': (5, 3),
  }


def test_a_layer_called_twice_is_replaced_once():
  replaced = []

  def replace(module):
    replaced.append(module.name)
    return by_lora(module)

  class Again(nn.Module):
    @nn.compact
    def __call__(self, x):
      layer = nn.Dense(4, name='layer')
      return layer(layer(x))

  params = init(Again(), X, by=replace)
  assert shapes(params['layer']['lora']) == {'a': (4, 2), 'b': (2, 4)}
  assert replaced.count('layer') == 1


def test_layers_of_a_scan():
  class Body(nn.Module):
    @nn.compact
    def __call__(self, x, _):
      return nn.remat(Two)()(x) @ jnp.ones((3, 4)), None

  scan = nn.scan(
    Body, variable_axes={'params': 0}, split_rngs={'params': True}, length=3
  )
  params = init(scan(), X, None, by=by_lora)
  (two,) = params.values()
  assert shapes(two['last']['lora']) == {'a': (3, 5, 2), 'b': (3, 2, 3)}


@pytest.mark.parametrize(
  'outer, inner', [(by_lora, doubled), (doubled, by_lora)]
)
def test_nested_interceptors(outer, inner):
  model = Two()
  with peft.ModuleInterceptor(outer), peft.ModuleInterceptor(inner):
    params = random(model.init(KEY, X)['params'])
    out = model.apply({'params': params}, X)
  assert shapes(params['last']) == {
    'Double_0': {'factor': (1,)},
    **DENSE['last'],
  }
  x = X
  for layer in params.values():
    lora = x @ layer['lora']['a'] @ layer['lora']['b']
    plain = x @ layer['kernel'] + layer['bias'][None]
    factor = layer['Double_0']['factor'][None]
    x = plain * factor + lora * (1 if outer is by_lora else factor)
  np.testing.assert_allclose(out, x, rtol=1e-5)


def test_blocks_of_one_interceptor_may_be_nested_and_entered_again():
  by = peft.ModuleInterceptor(by_lora)
  for _ in range(2):
    with by:
      with by:
        assert shapes(Two().init(KEY, X)['params']) == DENSE
      assert shapes(Two().init(KEY, X)['params']) == DENSE
  assert shapes(init(Two(), X)) == shapes(
    peft.split_params(init(Two(), X, by=by_lora)).original
  )


def test_an_error_inside_undoes_all():
  by = peft.ModuleInterceptor(by_lora)
  with pytest.raises(KeyError), by:
    raise KeyError
  assert 'lora' not in init(Two(), X)['last']
  with by:
    wrong = pytest.raises(RuntimeError, match='was entered before another')
    with wrong, peft.ModuleInterceptor(doubled):
      by.__exit__(None, None, None)
    assert shapes(Two().init(KEY, X)['params']) == DENSE


@pytest.mark.parametrize(
  'model', [Two(), Ready()], ids=lambda x: type(x).__name__
)
def test_threads_do_not_see_each_other(model):
  """Each in its own blocks, some in those of one interceptor, some in none."""
  shared = peft.ModuleInterceptor(by_lora)
  ways = [
    shared, shared, peft.ModuleInterceptor(lambda m: by_lora(m, 3)), None,
    peft.ModuleInterceptor(doubled),
  ]  # fmt: skip
  found = [[] for _ in ways]
  barrier = threading.Barrier(len(ways))

  def run(i, by):
    barrier.wait()
    for _ in range(3):
      if by is None:
        found[i].append(shapes(model.init(KEY, X)['params']))
      else:
        with by:
          found[i].append(shapes(model.init(KEY, X)['params']))

  threads = [
    threading.Thread(target=run, args=(i, by)) for i, by in enumerate(ways)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  for mine, by in zip(found, ways, strict=True):
    alone = init(model, X, by=by and by.replace_module_fn)
    assert mine == [shapes(alone)] * 3


class Helped(nn.Module):
  """A layer that compiles a part of itself."""

  @nn.compact
  def __call__(self, x):
    return self._compiled(x, self.param('c', nn.initializers.ones, (1,)))

  @nn.jit
  def _compiled(self, x, c):
    return x * c[None]


def test_what_is_called_inside_of_a_replaced_layer_is_its_own():
  class Outer(nn.Module):
    @nn.compact
    def __call__(self, x):
      return Helped()(x)

  def replace(module):
    return Double(module) if isinstance(module, Helped) else module

  with peft.ModuleInterceptor(replace):
    out, variables = Outer().init_with_output(KEY, X)
  np.testing.assert_array_equal(out, 2 * X)
  assert shapes(variables['params']['Helped_0']) == {
    'Double_0': {'factor': (1,)},
    'c': (1,),
  }


def test_compiled_methods_are_not_used_for_another_interceptor():
  """Their traces hold what was intercepted."""
  model = Ready()
  plain = shapes(init(model, X))
  lora = shapes(init(model, X, by=by_lora))
  wide = shapes(init(model, X, by=lambda m: by_lora(m, rank=3)))
  double = shapes(init(model, X, by=doubled))
  assert 'lora' not in plain['first']
  assert lora['first']['lora'] == {'a': (4, 2), 'b': (2, 4)}
  assert wide['first']['lora'] == {'a': (4, 3), 'b': (3, 4)}
  assert double['first']['Double_0'] == {'factor': (1,)}
  assert shapes(init(model, X)) == plain


def test_applied_numbers_follow_the_interceptor():
  """The same parameters, shapes and model: only what intercepts differs."""
  model = Ready()
  params = random(init(model, X, by=by_lora))
  calls = []

  class Scaled(peft.Interceptor):
    def __init__(self, factor):
      self.factor = factor

    def interceptor(self, next_fun, args, kwargs, context):
      y = next_fun(*args, **kwargs)
      if not isinstance(context.module, nn.Dense):
        return y
      calls.append(self.factor)
      return y * self.factor

  compiled = jax.jit(lambda p: model.apply({'params': p}, X))

  def run(by):
    if by is None:
      return compiled(params), model.apply({'params': params}, X)
    with by:
      return compiled(params), model.apply({'params': params}, X)

  base = run(None)[0]
  ways = [Scaled(2.0), Scaled(3.0), None, peft.ModuleInterceptor(by_lora)]
  first = [run(by) for by in ways]
  traced = len(calls)
  again = [run(by) for by in ways]
  assert len(calls) == traced > 0  # What was compiled is used again.
  for (jitted, direct), same in zip(first, again, strict=True):
    np.testing.assert_allclose(jitted, direct, rtol=1e-6)
    np.testing.assert_array_equal(jitted, same[0])
  np.testing.assert_array_equal(first[2][0], base)
  differ = {float(jnp.sum(out)) for out, _ in first}
  assert len(differ) == len(ways)


def test_repr_of_wrappers():
  """Bound or not, without end."""
  seen = []

  class Shows(nn.Module):
    @nn.compact
    def __call__(self, x):
      layer = nn.Dense(3)
      y = layer(x)
      seen.append(repr(layer))
      return y

  init(Shows(), X, by=by_lora)
  assert 'features = 3' in seen[0]
  assert 'LoRADense_0 = LoRADense(' in seen[0]
  assert 'rank = 2' in repr(peft.LoRADense(rank=2, wrapped=nn.Dense(3)))
