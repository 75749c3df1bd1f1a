"""One step of training."""

from collections.abc import Callable
from collections.abc import Mapping
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gemma.gm.losses import _ids
from gemma.gm.losses import _mean
from gemma.gm.math import _numbers
from gemma.gm.nn import _compiled
from gemma.gm.sharding import _mesh
from gemma.gm.training import _rows
from gemma.gm.training import _state

BatchLoss = Callable[[Any, Any, Any], _mean.Mean]
Metrics = dict[str, jax.Array]
_METRICS = 'loss', 'grad_norm', 'update_norm', 'tokens', 'learning_rate'


class Step:
  """See `make_step`."""

  def __init__(
    self,
    loss: BatchLoss,
    optimizer: optax.GradientTransformation,
    accumulate: int,
  ):
    """Compiles nothing yet."""
    self._loss, self._accumulate = loss, accumulate
    self._update = _program(loss, optimizer, accumulate)
    # The last step, what it told, and where to look if it went wrong.
    self._before: tuple[jax.Array, Metrics, jax.Array, Any] | None = None

  def __call__(
    self, state: _state.TrainState, batch: Any
  ) -> tuple[_state.TrainState, Metrics]:
    """Does a step.

    Args:
      state: The state. The memory of `params` and `opt_state` is given away.
      batch: What the loss takes; each array begins with the axis of rows. If
        the parameters are on a mesh, rows are divided among its devices, with
        empty ones behind them if it takes some; of several processes, each
        gives rows of its own.

    Returns:
      The next state, and what there is to tell.

    Raises:
      ValueError: If a number of the step before was not finite, the batch does
        not divide, or an id in it is outside of the table.
    """
    # One step late, so that the device never waits for the host.
    before, self._before = self._before, None
    if before is not None and before[0] is state.step:
      step, metrics, first_bad, names = before
      check(int(step), metrics, names[int(first_bad)])
    check_batch(self._loss, batch)
    _check_rows(batch, self._accumulate)
    mesh = mesh_of(state)
    batch = _rows.put(batch, mesh, self._accumulate)
    with _mesh.use_mesh(mesh):
      trained, step, metrics = self._update(*_arguments(state, batch, mesh))
    names = [
      jax.tree_util.keystr(path, simple=True, separator='/')
      for path, _ in jax.tree_util.tree_leaves_with_path(state.params)
    ]
    first_bad = metrics['first_bad']
    metrics = {name: metrics[name] for name in _METRICS if name in metrics}
    self._before = step, metrics, first_bad, names
    params, opt_state = trained
    state = state.replace(params=params, opt_state=opt_state, step=step)
    return state, metrics

  def lower(self, state: _state.TrainState, batch: Any) -> jax.stages.Lowered:
    """The step as a program, to look at before it runs, if it ever does.

    `step.lower(state, batch).compile().memory_analysis()` tells what it needs.

    Args:
      state: The state, or its shapes with their shardings.
      batch: As above.
    """
    mesh = mesh_of(state)
    with _mesh.use_mesh(mesh):
      return self._update.lower(*_arguments(state, batch, mesh))


def make_step(
  loss: BatchLoss,
  optimizer: optax.GradientTransformation,
  *,
  accumulate: int = 1,
) -> Step:
  """A compiled step: `state, metrics = step(state, batch)`.

  ```python
  >>> import jax.numpy as jnp, optax
  >>> from gemma import gm
  >>> def loss(params, batch, rng):
  ...   errors = (batch['x'] @ params['w'] - batch['y']) ** 2
  ...   return gm.losses.Mean(errors.sum(), jnp.float32(errors.size))
  >>> batch = {'x': jnp.eye(4), 'y': jnp.arange(4.0)}
  >>> optimizer = optax.sgd(1.0)
  >>> state = gm.training.init_state({'w': jnp.zeros(4)}, optimizer)
  >>> step = gm.training.make_step(loss, optimizer, accumulate=2)
  >>> for _ in range(2):
  ...   state, metrics = step(state, batch)
  >>> print(metrics['loss'], state.params['w'])
  0.875 [0.   0.75 1.5  2.25]

  ```

  The metrics are `loss`; `grad_norm` and `update_norm`, the norms of all
  gradients and of all changes of parameters together; `tokens`, how many the
  loss is the mean of; and `learning_rate`, if the state of the optimizer tells
  it, as that of `gm.training.adamw` and of `optax.inject_hyperparams` does.

  Memory of `params` and `opt_state` is used again for the next state. The
  frozen parameters stay where they are. A step whose loss, gradient or update
  is not finite, or whose batch has no token that counts, changes nothing but
  its number, and the next call raises an error that names it, and the first
  parameter whose numbers are not finite.

  Args:
    loss: `loss(params, batch, rng)` gives a `gm.losses.Mean`; `params` are
      those of the whole model, `rng` is of this step alone.
    optimizer: That of the state.
    accumulate: How many parts to take the batch in, one after the other, to
      save memory. Row `i` is in part `i % accumulate`. Loss and gradients are
      those of the whole batch, because totals and counts are summed.

  Raises:
    ValueError: If `accumulate` is not a positive whole number.
  """
  _numbers.whole(1, accumulate=accumulate)
  return Step(loss, optimizer, accumulate)


def check(step: int, metrics: Mapping[str, Any], parameter: str = '') -> None:
  """Waits for a step, and raises if it went wrong.

  Args:
    step: Steps done, this one with them.
    metrics: What it told.
    parameter: The first one whose numbers are not finite, if any is.

  Raises:
    ValueError: If a number is not finite, or the loss is of no token.
  """
  numbers = [float(metrics[x]) for x in ('loss', 'grad_norm', 'update_norm')]
  if not all(map(math.isfinite, numbers)):
    loss, norm, change = numbers
    first = f' The first parameter concerned is {parameter}.' * bool(parameter)
    raise ValueError(
      f'Step {step}: loss={loss:g}, gradient norm={norm:g}, update norm='
      f'{change:g}.{first} The parameters are those before it. Lower the '
      'learning rate, clip the gradients, or look at the batch.'
    )
  if not float(metrics['tokens']):
    raise ValueError(
      f'Step {step}: the loss is of no token. All of `loss_mask` is False, as '
      'where prompts alone fill the rows: make the rows longer.'
    )


def check_batch(loss: BatchLoss, batch: Any) -> None:
  """What a loss says of a batch that is still on the host."""
  if isinstance(loss, _ids.Checked):
    loss.check(batch)


def _program(
  loss: BatchLoss, optimizer: optax.GradientTransformation, accumulate: int
) -> Any:
  """The part that runs on the device."""

  @functools.partial(_compiled.jit, donate_argnums=0, static_argnums=(2, 6))
  def update(trained, frozen, dtypes, step, rng, batch, places):
    params, opt_state = trained

    def total(params, batch, rng):
      mean = loss(_state.join(params, frozen, dtypes), batch, rng)
      return mean.total, mean.count

    key = jax.random.fold_in(rng, step)
    mean, grads = _gradients(total, params, batch, key, accumulate)
    grads = _placed(grads, places)
    grad_sizes = _sizes(grads)
    grads = jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)
    updates, new_state = optimizer.update(grads, opt_state, params)
    new = optax.apply_updates(params, updates), new_state
    sizes = _sizes(updates)
    norms = jnp.sqrt(grad_sizes.sum()), jnp.sqrt(sizes.sum())
    fine = jnp.isfinite(jnp.stack([mean.value, *norms])).all() & (
      mean.count > 0
    )
    new = jax.tree.map(lambda x, old: jnp.where(fine, x, old), new, trained)
    new = _placed(new, places)
    bad = ~jnp.isfinite(jnp.concatenate([grad_sizes, sizes]))
    metrics = {
      'loss': mean.value,
      'grad_norm': norms[0],
      'update_norm': norms[1],
      'tokens': mean.count,
      'first_bad': jnp.argmax(bad) % len(sizes),
    }
    return new, step + 1, metrics | _learning_rate(new_state)

  return update


def _sizes(tree: Any) -> jax.Array:
  """The sum of squares of each leaf."""
  leaves = jax.tree.leaves(tree)
  return jnp.stack([jnp.sum(jnp.square(x.astype(jnp.float32))) for x in leaves])


def mesh_of(state: _state.TrainState) -> jax.sharding.Mesh | None:
  """The mesh that the parameters are on."""
  return _mesh.mesh_of(state.params) or _mesh.mesh_of(state.frozen)


def _arguments(
  state: _state.TrainState, batch: Any, mesh: jax.sharding.Mesh | None
) -> tuple[Any, ...]:
  """What the compiled part takes."""
  trained, places = (state.params, state.opt_state), None
  if mesh is not None:
    places = tuple(x.sharding for x in jax.tree.leaves(trained))
  return (
    trained,
    state.frozen,
    state.dtypes,
    state.step,
    state.rng,
    batch,
    places,
  )


def _placed(tree: Any, places: tuple[Any, ...] | None) -> Any:
  """Arrays where the first `places` say; as the compiler likes if None."""
  if places is None:
    return tree
  leaves, structure = jax.tree.flatten(tree)
  both = zip(leaves, places, strict=False)
  return jax.tree.unflatten(
    structure, [jax.lax.with_sharding_constraint(*x) for x in both]
  )


def _gradients(
  total: Callable[..., Any], params: Any, batch: Any, rng: Any, parts: int
) -> tuple[_mean.Mean, Any]:
  """The loss of a batch, and its gradients in float32."""

  def of_part(carry, part):
    batch, rng = part
    value, grads = jax.value_and_grad(total, has_aux=True)(params, batch, rng)
    new = _mean.Mean(*value), grads
    return jax.tree.map(lambda x, y: x + y.astype(x.dtype), carry, new), None

  zero = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), params)
  none = jnp.zeros((), jnp.float32)
  start = _mean.Mean(none, none), zero
  keys = jax.random.split(rng, parts)
  if parts == 1:
    (mean, grads), _ = of_part(start, (batch, keys[0]))
  else:
    batch = jax.tree.map(lambda x: _split(x, parts), batch)
    (mean, grads), _ = jax.lax.scan(of_part, start, (batch, keys))
  count = jnp.maximum(mean.count, _mean.TINY)
  return mean, jax.tree.map(lambda g: g / count, grads)


def _split(x: Any, parts: int) -> jax.Array:
  """Rows as `parts` of them; each has rows of all devices."""
  x = jnp.asarray(x)
  return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)


def _check_rows(batch: Any, parts: int) -> None:
  for path, x in jax.tree_util.tree_leaves_with_path(batch):
    shape = jnp.shape(x)
    if parts > 1 and (not shape or shape[0] % parts):
      name = f'batch{jax.tree_util.keystr(path)}'
      raise ValueError(
        f'{name} has shape {shape}, which accumulate={parts} does not divide '
        'by rows. Choose a batch size that is a multiple of it.'
      )


def _learning_rate(opt_state: Any) -> Metrics:
  """That of the last update, if the state has it."""
  found = optax.tree_utils.tree_get_all_with_path(opt_state, 'learning_rate')
  if not found:
    return {}
  _, rate = found[0]
  return {'learning_rate': jnp.asarray(rate, jnp.float32)}
