"""What adapters are of: weights, or parts of them."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import functools
import itertools
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp

from gemma.peft import _einsum
from gemma.peft import _tree
from gemma.peft import _weights

_HEADS = {'q_proj', 'k_proj', 'v_proj'}
Lora = dict[str, Any]  # `a` and `b`, and `m` of DoRA.


@dataclasses.dataclass(frozen=True)
class Target:
  """A weight, or a part of one, that can have an adapter.

  Attributes:
    path: Where the weight is.
    adapter: Where the adapter is.
    summed: Axes that are summed over; of the part, without the batch.
    name: The path that Hugging Face's name gives; nothing if it has none.
    part: Which index of the first axis it is; None for all.
    batch: How many axes before that have an adapter for each index.
    heads: Whether it makes queries, keys or values.
  """

  path: _weights.Path
  adapter: _weights.Path
  summed: tuple[int, ...]
  name: str = ''
  part: int | None = None
  batch: int = 0
  heads: bool = False

  def shape_in(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one part, without the batch."""
    return shape[self.batch + (self.part is not None) :]

  def of(self, w: Any) -> Any:
    """The part of an array."""
    return w if self.part is None else w[self._index()]

  def map(self, fun: Callable[..., Any], *args: Any) -> Any:
    """A function of arrays without the batch, for each index of it."""
    for _ in range(self.batch):
      fun = jax.vmap(fun)
    return fun(*args)

  def replaced(
    self, fun: Callable[[Any, Lora], jax.Array], w: jax.Array, lora: Lora
  ) -> jax.Array:
    """The weight with another in place of the part, in its dtype."""
    new = self.map(fun, self.of(w), lora).astype(w.dtype)
    return new if self.part is None else w.at[self._index()].set(new)

  def _index(self) -> tuple[Any, ...]:
    return (*(slice(None),) * self.batch, self.part)


def targets(params: Mapping[str, Any]) -> Iterator[tuple[Target, ...]]:
  """For each weight of a tree, itself and its parts.

  The weights of experts are left out.

  Args:
    params: Nested dicts of arrays or shapes, without integers.
  """
  for weight in _weights.weights(params):
    if weight.of_experts:
      continue
    batch = int(weight.stacked)
    summed = tuple(i - batch for i in weight.summed)
    end = -1 if weight.path[-1] == weight.module else -2
    names = _weights.projections(weight.module)
    heads = bool(_HEADS & {*names})
    above = '/'.join(weight.path[:end])
    name = f'{above}/{names[0]}' if len(names) == 1 else ''
    whole = Target(
      weight.path, weight.adapter, summed, name, batch=batch, heads=heads
    )
    parts = (
      Target(
        weight.path,
        weight.part_adapter(name),
        tuple(i - 1 for i in summed),
        f'{above}/{name}',
        part,
        batch,
        heads,
      )
      for part, name in enumerate(_weights.parts(weight.module))
    )
    yield whole, *parts
  for weight in _weights.kernels(params):
    yield (Target(weight.path, weight.adapter, weight.summed),)


def adapted(
  params: Mapping[str, Any],
  lora: Mapping[str, Any],
  einsums: Mapping[str, str],
) -> Iterator[tuple[Target, Lora]]:
  """Each adapter, and what it is of.

  Args:
    params: The weights, or their shapes, without integers.
    lora: The adapters.
    einsums: Equations of Flax's einsums.

  Raises:
    ValueError: If an adapter has no weight, or does not fit it.
  """
  flat = traverse_util.flatten_dict(params)
  rest = adapters_in(lora)
  for whole, *parts in targets(params):
    if whole.path[-1] == _weights.KERNEL:
      continue
    found = [part for part in parts if part.adapter in rest]
    if whole.adapter in rest and found:
      raise ValueError(
        f'{"/".join(whole.path)} has an adapter, and its part '
        f'{found[0].adapter[-2]} has one too. Keep one of them.'
      )
    for target in (whole, *parts):
      if target.adapter in rest:
        adapter = rest.pop(target.adapter)
        _check(target, flat[target.path].shape, adapter)
        yield target, adapter
  for where in [path for path in rest if _kernel(path) in flat]:
    adapter = rest.pop(where)
    yield (
      _of_kernel(where, flat[_kernel(where)].shape, adapter, einsums),
      adapter,
    )
  if rest:
    raise ValueError(
      'Adapters without a weight beside them: '
      f'{sorted("/".join(path) for path in rest)}.'
    )


def adapters_in(lora: Mapping[str, Any]) -> dict[_weights.Path, Lora]:
  """The adapters of a tree by their paths."""
  found: dict[_weights.Path, Lora] = {}
  flat = traverse_util.flatten_dict(_tree.split_params(lora).lora)
  for path, x in flat.items():
    found.setdefault(path[:-1], {})[path[-1]] = x
  return found


def _kernel(adapter: _weights.Path) -> _weights.Path:
  return (*adapter[:-1], _weights.KERNEL)


def _check(target: Target, shape: tuple[int, ...], lora: Lora) -> None:
  """Raises if an adapter is not for a weight of this shape."""
  a, b = (jnp.shape(lora[x]) for x in 'ab')
  one = target.shape_in(shape)
  batch = shape[: target.batch]
  inside = tuple(one[i] for i in target.summed)
  outside = tuple(n for i, n in enumerate(one) if i not in target.summed)
  fits = [((*batch, *inside), (*batch, a[-1], *outside))]
  if target.heads:  # One for each.
    fits.append(((*batch, *one[:-1]), (*batch, a[-1], one[-1])))
  if (a[:-1], b) not in fits:
    raise ValueError(_misfit(target.path, shape, a, b))


def _misfit(path: _weights.Path, shape: Any, a: Any, b: Any) -> str:
  return (
    f'The adapter of {"/".join(path)} {shape} does not fit it: a {a}, b {b}.'
  )


def _of_kernel(
  where: _weights.Path,
  shape: tuple[int, ...],
  lora: Lora,
  einsums: Mapping[str, str],
) -> Target:
  """What the adapter of one of Flax's layers is of, by its shapes.

  Their kernels have the batch axes first, then those that are summed over; but
  einsums have them in any order.
  """
  a, b = jnp.shape(lora['a']), jnp.shape(lora['b'])
  path = _kernel(where)
  batch = len(a) + len(b) - 2 - len(shape)
  if batch < 0 or a[:batch] != b[:batch] or a[-1] != b[batch]:
    raise ValueError(_misfit(path, shape, a, b))
  target = functools.partial(Target, path, where, batch=batch)
  equation = einsums.get('/'.join(path[:-1]))
  count = len(a) - 1 - batch
  if equation is not None:
    orders = [_einsum.summed_axes(equation)]
  else:
    orders = [*itertools.combinations(range(len(shape) - batch), count)]
  one = shape[batch:]
  for summed in orders:  # The first are the first axes.
    inside = tuple(one[i] for i in summed)
    outside = tuple(n for i, n in enumerate(one) if i not in summed)
    if (inside, outside) == (a[batch:-1], b[batch + 1 :]):
      return target(summed)
  raise ValueError(_misfit(path, shape, a, b))
