"""What a step of training needs in memory, before anything is compiled.

Axes: B batch, L length, D model, V vocab.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
import optax

from gemma.gm.math import _cross_entropy
from gemma.gm.nn import _lora
from gemma.gm.nn import _remat
from gemma.gm.nn import _scan
from gemma.gm.nn import _shapes
from gemma.gm.nn import _transformer
from gemma.peft import _select

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
  """Bytes of one step of training, by what they are for.

  Attributes:
    weights: Parameters of the model, and master weights if there are any.
    optimizer: State of the optimizer.
    gradients: Of what is trained.
    activations: What the backward pass needs of the forward pass.
    recomputed: Of one layer, while it is computed again.
    loss: Logits of one chunk of the vocabulary, and gradients of the states.
    advice: What else could be chosen, and the bytes of all then.
  """

  weights: int
  optimizer: int
  gradients: int
  activations: int
  recomputed: int
  loss: int
  advice: tuple[tuple[str, int], ...] = ()

  @property
  def total(self) -> int:
    """All bytes."""
    return sum(nbytes for _, nbytes in self._parts())

  def check(self, limit: int) -> None:
    """Raises if a device with so many bytes is too small.

    Args:
      limit: Bytes of the device, or of all over which everything is sharded.

    Raises:
      ValueError: If the total is above; the error says what would fit.
    """
    if self.total <= limit:
      return
    fitting = [f'{name}: {_gib(n)}' for name, n in self.advice if n <= limit]
    others = [f'{name}: {_gib(n)}' for name, n in self.advice if n > limit]
    fix = f'These would fit: {"; ".join(fitting)}.'
    if not fitting:
      fix = f'Nor would any of these alone: {"; ".join(others)}.'
    raise ValueError(
      f'A step needs about {_gib(self.total)}, and there are {_gib(limit)}. '
      f'{fix}'
    )

  def __str__(self) -> str:
    lines = [f'{name:<12}{_gib(nbytes):>12}' for name, nbytes in self._parts()]
    lines.append(f'{"total":<12}{_gib(self.total):>12}')
    lines += [f'with {name}: {_gib(nbytes)}' for name, nbytes in self.advice]
    return '\n'.join(lines)

  def _parts(self) -> list[tuple[str, int]]:
    return [
      (field.name, getattr(self, field.name))
      for field in dataclasses.fields(self)
      if field.name != 'advice'
    ]


@dataclasses.dataclass(frozen=True)
class _Plan:
  """What a step is made of; the choices that advice varies."""

  model: _transformer.Transformer
  params: Any
  batch_size: int
  length: int
  optimizer: optax.GradientTransformation
  trainable: Any
  master_dtype: DTypeLike | None
  accumulate: int


def estimate_memory(
  model: _lora.Model,
  *,
  batch_size: int,
  length: int,
  params: Mapping[str, Any] | None = None,
  optimizer: optax.GradientTransformation | None = None,
  trainable: str | Iterable[str] | None = None,
  master_dtype: DTypeLike | None = None,
  accumulate: int = 1,
) -> MemoryEstimate:
  """About how much memory a step of training needs, and what to turn.

  No array is made and nothing is compiled: shapes are followed through the
  model. Compilers keep less than they could of `remat='none'`, and hold a few
  temporary arrays more. Nothing is said of sharding: of parameters that are
  sharded evenly over `n` devices, each has an `n`-th.

  ```python
  >>> from gemma import gm
  >>> model = gm.nn.Gemma3_1B(remat='full')
  >>> estimate = gm.nn.estimate_memory(model, batch_size=4, length=512)
  >>> print(estimate)
  weights          1.86 GiB
  optimizer        3.73 GiB
  gradients        1.86 GiB
  activations      0.14 GiB
  recomputed       0.44 GiB
  loss             0.69 GiB
  total            8.73 GiB
  with accumulate=4: 9.94 GiB
  >>> estimate.check(8 * 2**30)
  Traceback (most recent call last):
    ...
  ValueError: A step needs about 8.73 GiB, and there are 8.00 GiB. Nor ...

  ```

  Args:
    model: The model, or a `LoRA` of it.
    batch_size: Rows of a batch.
    length: Tokens of a row.
    params: Arrays or shapes of the parameters, NESTED, if they are others than
      the model makes: with adapters, or with integers.
    optimizer: By default `optax.adamw`.
    trainable: See `gm.training.init_state`. By default everything; of a `LoRA`,
      its adapters.
    master_dtype: See `gm.training.init_state`.
    accumulate: See `gm.training.make_step`.

  Returns:
    Bytes by what they are for.

  Raises:
    ValueError: If a pattern matches nothing, or numbers make no sense.
  """
  if batch_size < 1 or length < 1 or accumulate < 1 or batch_size % accumulate:
    raise ValueError(
      f'{batch_size=}, {length=}, {accumulate=}. Give positive numbers, and a '
      'batch size that accumulate divides.'
    )
  if isinstance(model, _lora.LoRA):
    if params is None:
      tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
      params = jax.eval_shape(model.init, jax.random.key(0), tokens)['params']
    trainable = 'lora' if trainable is None else trainable
    model = model.model
  if params is None:
    params = _shapes.param_shapes(model.clone(scan_layers=False))
  plan = _Plan(
    model,
    _scan.unstack_layers(params),
    batch_size,
    length,
    optax.adamw(1e-3) if optimizer is None else optimizer,
    trainable,
    master_dtype,
    accumulate,
  )
  estimate = _estimate(plan)
  advice = [
    (name, _estimate(dataclasses.replace(plan, **changes)).total)
    for name, changes in _changes(plan)
  ]
  better = [(name, n) for name, n in advice if n < estimate.total]
  return dataclasses.replace(estimate, advice=tuple(better))


def _changes(plan: _Plan) -> list[tuple[str, dict[str, Any]]]:
  """What could be chosen otherwise, one thing at a time."""
  changes: list[tuple[str, dict[str, Any]]] = []
  order = [*_remat.Remat]
  for remat in order[order.index(_remat.Remat(plan.model.remat)) + 1 :]:
    model = plan.model.clone(remat=str(remat))
    changes.append((f"remat='{remat}'", {'model': model}))
  if plan.accumulate < plan.batch_size:
    name = f'accumulate={plan.batch_size}'
    changes.append((name, {'accumulate': plan.batch_size}))
  if plan.master_dtype is not None:
    changes.append(('master_dtype=None', {'master_dtype': None}))
  return changes


def _estimate(plan: _Plan) -> MemoryEstimate:
  flat = traverse_util.flatten_dict(plan.params)
  chosen = _select.select(plan.params, plan.trainable)
  trained = {path: flat[path] for path in chosen}
  kept = trained
  if plan.master_dtype is not None:
    kept = {
      path: jax.ShapeDtypeStruct(x.shape, plan.master_dtype)
      for path, x in trained.items()
    }
  masters = _nbytes(kept) if plan.master_dtype is not None else 0
  gradients = _nbytes(trained)
  if plan.accumulate > 1:  # A float32 sum beside those of one part.
    gradients += 4 * sum(x.size for x in trained.values())
  rows = plan.batch_size // plan.accumulate
  activations = _residuals(plan.model, plan.params, chosen, rows, plan.length)
  recomputed = 0
  if plan.model.remat != _remat.Remat.NONE:
    whole = plan.model.clone(remat=_remat.Remat.NONE)
    every = _residuals(whole, plan.params, chosen, rows, plan.length)
    recomputed = every // plan.model.config.num_layers
  return MemoryEstimate(
    weights=_nbytes(flat) + masters,
    optimizer=_nbytes(jax.eval_shape(plan.optimizer.init, kept)),
    gradients=gradients,
    activations=activations,
    recomputed=recomputed,
    loss=_loss_bytes(plan, chosen, rows * plan.length),
  )


def _loss_bytes(plan: _Plan, chosen: set[Any], tokens: int) -> int:
  config = plan.model.config
  chunk = min(_cross_entropy.chunk_of(tokens), config.num_embed)
  nbytes = 2 * 4 * tokens * chunk + 4 * tokens * config.embed_dim
  table = 'embedder', 'input_embedding'
  if table in chosen:  # As rows that are read, and as weights of logits.
    nbytes += _nbytes(plan.params['embedder']['input_embedding'])
  return nbytes


def _residuals(
  model: _transformer.Transformer,
  params: Any,
  chosen: set[Any],
  rows: int,
  length: int,
) -> int:
  """Bytes that the backward pass needs, parameters left out."""
  # A flag for each parameter, as a dtype: whether it is trained.
  flat = traverse_util.flatten_dict(params)
  flags = traverse_util.unflatten_dict(
    {
      path: jax.ShapeDtypeStruct(x.shape, bool if path in chosen else x.dtype)
      for path, x in flat.items()
    }
  )
  if _can_stack(params, model):  # The same bytes, and quicker to follow.
    model = model.clone(scan_layers=True)
    params, flags = (
      _scan.stack_layers(tree, model.config) for tree in (params, flags)
    )
  leaves, structure = jax.tree.flatten(params)
  return _traced(
    model,
    structure,
    tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves),
    tuple(x.dtype == bool for x in jax.tree.leaves(flags)),
    rows,
    length,
  )


def _can_stack(params: Any, model: _transformer.Transformer) -> bool:
  """Whether layers that repeat have the same parameters: adapters may not."""
  kinds = [
    {
      tuple(
        str(jax.tree.map(jnp.shape, params[f'layer_{i}']))
        for i, _, at in stack.layers()
        if at == place
      )
      for place in range(len(stack.specs))
    }
    for stack in _scan.stacks(model.config)
  ]
  return all(len({*same}) == 1 for stack in kinds for same in stack)


@functools.lru_cache(maxsize=64)
def _traced(
  model: _transformer.Transformer,
  structure: Any,
  leaves: tuple[Any, ...],
  trained: tuple[bool, ...],
  rows: int,
  length: int,
) -> int:
  def keep(leaves: list[Any], tokens: jax.Array) -> list[jax.Array]:
    def states(some: list[Any]) -> jax.Array:
      pairs = zip(leaves, trained, strict=True)
      given = iter(some)
      whole = [next(given) if flag else x for x, flag in pairs]
      variables = {'params': jax.tree.unflatten(structure, whole)}
      out: Any = model.apply(variables, tokens, return_hidden_states=True)
      return out.hidden_states

    some = [x for x, flag in zip(leaves, trained, strict=True) if flag]
    _, backward = jax.vjp(states, some)
    known = {id(x) for x in leaves}
    return [x for x in jax.tree.leaves(backward) if id(x) not in known]

  tokens = jax.ShapeDtypeStruct((rows, length), jnp.int32)
  return _nbytes(jax.eval_shape(keep, list(leaves), tokens))


def _nbytes(tree: Any) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _gib(nbytes: int) -> str:
  return f'{nbytes / _GIB:.2f} GiB'
