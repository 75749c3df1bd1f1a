"""Adapters for weights that have none yet (LoRA).

An adapter adds `x A B` to the product `x W` of a frozen weight
(https://arxiv.org/abs/2106.09685). `A` starts at random and `B` at zero, so
that nothing changes before the first step. There is no factor but that of
`scale_lora`.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import re
from typing import Any
import zlib

from flax import traverse_util
import jax
from jax import nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from gemma.peft import _factors
from gemma.peft import _targets
from gemma.peft import _tree
from gemma.peft import _weights

INIT_A = nn.initializers.kaiming_uniform()
INIT_B = nn.initializers.zeros


@dataclasses.dataclass(frozen=True)
class Adapter:
  """An adapter that a weight can have.

  Attributes:
    target: What it is of.
    a: Shape of `a`.
    b: Shape of `b`.
  """

  target: _targets.Target
  a: tuple[int, ...]
  b: tuple[int, ...]

  @property
  def path(self) -> _weights.Path:
    """Where `a` and `b` go."""
    return self.target.adapter

  def start_a(self, key: jax.Array, dtype: DTypeLike) -> jax.Array:
    """The first `a`.

    Args:
      key: A random key; or as many as there are layers in the weight.
      dtype: Its dtype.
    """
    batch, shape = self.a[: self.target.batch], self.a[self.target.batch :]
    if batch and not key.shape:
      key = jax.random.split(key, batch)
    return self.target.map(lambda key: INIT_A(key, shape, dtype), key)

  def start_b(self, key: jax.Array, dtype: DTypeLike) -> jax.Array:
    """The first `b`."""
    return INIT_B(key, self.b, dtype)


def init_lora(
  params: Mapping[str, Any],
  *,
  rank: int,
  rng: jax.Array,
  dtype: DTypeLike = jnp.float32,
  targets: str | Iterable[str] | None = None,
  per_head: bool = False,
  use_dora: bool = False,
) -> dict[str, Any]:
  """Adapters for a model's parameters. The models of `gm.nn` use them at once.

  ```python
  >>> import jax
  >>> from gemma import gm, peft
  >>> tiny = gm.from_pretrained(gm.ckpts.CheckpointPath.GEMMA3_TINY_IT)
  >>> lora = peft.init_lora(
  ...   tiny.params, rank=4, rng=jax.random.key(0), targets='q_einsum'
  ... )
  >>> lora['layer_0']['attn']['q_einsum']['_LoRAEinsum_0']['lora']['a'].shape
  (192, 4)
  >>> params = peft.merge_params(tiny.params, lora)

  ```

  Args:
    params: Arrays or shapes, NESTED or those of `scan_layers`; or any nested
      dicts with weights called `kernel`, as Flax's own layers have them.
      Weights may be integers.
    rank: Columns of `A`.
    rng: Random key; an adapter's own follows from its path.
    dtype: Dtype of the adapters.
    targets: Regular expressions; an adapter is made for a weight whose path,
      as `layer_0/attn/q_einsum/w`, has a match of one. Names of Hugging Face
      are paths as well, as `layer_0/attn/q_proj`: there, keys and values are
      two weights, and so are gate and up, and one of them alone can have an
      adapter. By default, all weights have one. The weights of experts have
      none, but their router has.
    per_head: Whether each head has an `A` of its own, and all share `B`, as in
      Keras. Of queries, keys and values only: others have no heads to give.
    use_dora: Whether adapters have a magnitude `m` as well: the length of each
      output of the weight (https://arxiv.org/abs/2402.09353). Needs arrays.

  Returns:
    The adapters alone, at their paths.

  Raises:
    ValueError: If the rank is below 1, or a target matches no weight, or the
      magnitudes of shapes are asked for.
  """
  flat: dict[_weights.Path, jax.Array] = {}
  found = adapters(params, rank=rank, targets=targets, per_head=per_head)
  for adapter in found:
    key = _key(adapter, rng)
    flat[(*adapter.path, _factors.A)] = adapter.start_a(key, dtype)
    flat[(*adapter.path, _factors.B)] = adapter.start_b(rng, dtype)
  lora = traverse_util.unflatten_dict(flat)
  return set_magnitudes(lora, params) if use_dora else lora


def set_magnitudes(
  lora: Mapping[str, Any], params: Mapping[str, Any]
) -> dict[str, Any]:
  """Adapters with the magnitudes with which DoRA starts.

  They are the lengths of the weights with the adapters in them, in float32, so
  that a model gives the same with them and without. Adapters that were made
  before the weights were loaded need this afterwards.

  ```python
  >>> import jax, jax.numpy as jnp
  >>> from gemma import peft
  >>> base = {'dense': {'kernel': jnp.ones((4, 2))}}
  >>> lora = peft.init_lora(base, rank=1, rng=jax.random.key(0))
  >>> peft.set_magnitudes(lora, base)['dense']['lora']['m'].tolist()
  [2.0, 2.0]

  ```

  Args:
    lora: The adapters alone; magnitudes that they have are replaced.
    params: The weights, with the adapters or without.

  Raises:
    ValueError: If an adapter has no weight or does not fit it, or the weights
      are shapes.
  """
  original = _tree.split_params(params).original
  plain = _weights.as_plain(original)
  flat = traverse_util.flatten_dict(original)
  out = traverse_util.flatten_dict(_tree.split_params(lora).lora)
  for target, adapter in _targets.adapted(plain, lora, {}):
    w = _weights.floats(flat, target.path)
    if isinstance(w, jax.ShapeDtypeStruct):
      raise ValueError(
        f'{"/".join(target.path)} is a shape, and has no lengths. Give the '
        'weights themselves for use_dora=True.'
      )
    out[(*target.adapter, _factors.M)] = target.map(
      lambda w, lora, summed=target.summed: jnp.squeeze(
        _factors.norms(w, lora, summed), summed
      ),
      target.of(w),
      adapter,
    )
  return traverse_util.unflatten_dict(out)


def adapters(
  params: Mapping[str, Any],
  *,
  rank: int,
  targets: str | Iterable[str] | None = None,
  per_head: bool = False,
) -> Iterator[Adapter]:
  """The adapters that the weights of a model can have; see `init_lora`."""
  if rank < 1:
    raise ValueError(f'rank={rank} is below 1.')
  plain = _weights.as_plain(_tree.split_params(params).original)
  flat = traverse_util.flatten_dict(plain)
  chosen = [*_targets.targets(plain)]
  if targets is None:
    picked = [whole for whole, *_ in chosen]
  else:
    patterns = [targets] if isinstance(targets, str) else [*targets]
    picked = [*_matching(chosen, patterns)]
  for target in picked:
    yield _adapter(target, flat[target.path].shape, rank, per_head)


def _matching(
  found: list[tuple[_targets.Target, ...]], patterns: list[str]
) -> Iterator[_targets.Target]:
  """Weights of which a name matches, else those of their parts that do."""
  names = [
    name for group in found for target in group for name in _names(target)
  ]
  for pattern in patterns:
    if not any(re.search(pattern, name) for name in names):
      raise ValueError(
        f'targets={pattern!r} matches none of {len(found)} weights. Their '
        f'paths are as {next(iter(names), "?")!r}.'
      )
  for whole, *parts in found:
    for group in ([whole], parts):
      matching = [
        target
        for target in group
        if any(re.search(p, name) for p in patterns for name in _names(target))
      ]
      yield from matching
      if matching:
        break


def _names(target: _targets.Target) -> list[str]:
  """The paths that a target goes by."""
  names = [] if target.part is not None else ['/'.join(target.path)]
  return [*names, target.name] if target.name else names


def _adapter(
  target: _targets.Target, shape: tuple[int, ...], rank: int, per_head: bool
) -> Adapter:
  batch, one = shape[: target.batch], target.shape_in(shape)
  summed = target.summed
  if per_head and target.heads:
    return Adapter(target, (*batch, *one[:-1], rank), (*batch, rank, one[-1]))
  inside = tuple(one[i] for i in summed)
  outside = tuple(n for i, n in enumerate(one) if i not in summed)
  return Adapter(target, (*batch, *inside, rank), (*batch, rank, *outside))


def _key(adapter: Adapter, rng: jax.Array) -> jax.Array:
  """The random key of an adapter; of a stack, those of its layers."""
  if not adapter.target.batch:
    return _fold(adapter.path, rng)
  paths = _weights.unstacked(adapter.path, adapter.a[0])
  return jnp.stack([_fold(path, rng) for path in paths])


def _fold(path: _weights.Path, rng: jax.Array) -> jax.Array:
  return jax.random.fold_in(rng, zlib.crc32('/'.join(path).encode()))
