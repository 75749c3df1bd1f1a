"""What a step of training needs in memory, before anything is compiled.

Axes: B batch, L length, D model, V vocab.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
import optax

from gemma.gm.math import _cross_entropy
from gemma.gm.nn import _lora
from gemma.gm.nn import _remat
from gemma.gm.nn import _residuals
from gemma.gm.nn import _scan
from gemma.gm.nn import _shapes
from gemma.gm.nn import _transformer
from gemma.peft import _select

_GIB = 2**30
_TABLE = 'embedder', 'input_embedding'


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
  """Bytes of one step of training, by what they are for.

  Attributes:
    weights: Parameters of the model, and master weights if there are any.
    optimizer: State of the optimizer.
    gradients: Of what is trained.
    activations: What the backward pass needs of the forward pass.
    temporary: Logits of one chunk of the vocabulary, or what one layer needs
      while it is computed again, whichever is more.
    advice: What else could be chosen, and the bytes of all then.
  """

  weights: int
  optimizer: int
  gradients: int
  activations: int
  temporary: int
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
  >>> model = gm.nn.Gemma3_1B()
  >>> estimate = gm.nn.estimate_memory(model, batch_size=4, length=512)
  >>> print(estimate)
  weights         1.86 GiB
  optimizer       3.72 GiB
  gradients       2.42 GiB
  activations ...
  temporary       0.13 GiB
  total ...
  with remat='dots': ...
  with remat='full': ...
  with accumulate=4: ...
  >>> estimate.check(8 * 2**30)
  Traceback (most recent call last):
    ...
  ValueError: A step needs about ... GiB, and there are 8.00 GiB...

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
  if _TABLE in trained:  # As rows that are read, and as weights of logits.
    gradients += _nbytes(trained[_TABLE])
  if plan.accumulate > 1:  # A float32 sum beside those of one part.
    gradients += 4 * sum(x.size for x in trained.values())
  rows = plan.batch_size // plan.accumulate
  activations = _residuals.activation_bytes(
    plan.model, plan.params, chosen, rows, plan.length
  )
  recomputed = 0
  if plan.model.remat != _remat.Remat.NONE:
    whole = plan.model.clone(remat=_remat.Remat.NONE)
    every = _residuals.activation_bytes(
      whole, plan.params, chosen, rows, plan.length
    )
    recomputed = every // plan.model.config.num_layers
  return MemoryEstimate(
    weights=_nbytes(flat) + masters,
    optimizer=_nbytes(jax.eval_shape(plan.optimizer.init, kept)),
    gradients=gradients,
    activations=activations,
    temporary=max(recomputed, _loss_bytes(plan, rows * plan.length)),
  )


def _loss_bytes(plan: _Plan, tokens: int) -> int:
  """Logits and their gradients, and those of the states, in float32."""
  config = plan.model.config
  chunk = min(_cross_entropy.chunk_of(tokens), config.num_embed)
  return 4 * tokens * (2 * chunk + config.embed_dim)


def _nbytes(tree: Any) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _gib(nbytes: int) -> str:
  return f'{nbytes / _GIB:.2f} GiB'
