"""Adapters for weights that have none yet (LoRA).

An adapter adds `x A B` to the product `x W` of a frozen weight
(https://arxiv.org/abs/2106.09685). There is no factor: `A` starts at random and
`B` at zero, so that nothing changes before the first step.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import re
from typing import Any
from typing import NamedTuple
import zlib

from flax import traverse_util
import jax
from jax import nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from gemma.peft import _tree
from gemma.peft import _weights

INIT_A = nn.initializers.kaiming_uniform()
INIT_B = nn.initializers.zeros


class Adapter(NamedTuple):
  """An adapter that a weight can have.

  Attributes:
    path: Where `a` and `b` go.
    a: Shape of `a`: what is summed over, then the rank.
    b: Shape of `b`: the rank, then what is not.
  """

  path: _weights.Path
  a: tuple[int, ...]
  b: tuple[int, ...]


def init_lora(
  params: Mapping[str, Any],
  *,
  rank: int,
  rng: jax.Array,
  dtype: DTypeLike = jnp.float32,
  targets: str | Iterable[str] | None = None,
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
    params: Arrays or shapes, NESTED; or any nested dicts with weights called
      `kernel`, as Flax's own layers have them. Weights may be integers.
    rank: Columns of `A`.
    rng: Random key; an adapter's own follows from its path.
    dtype: Dtype of the adapters.
    targets: Regular expressions; an adapter is made for a weight whose path,
      as `layer_0/attn/q_einsum/w`, has a match of one. By default, for all.

  Returns:
    The adapters alone, at their paths.

  Raises:
    ValueError: If the rank is below 1, or a target matches no weight.
  """
  flat: dict[_weights.Path, jax.Array] = {}
  for adapter in adapters(params, rank=rank, targets=targets):
    seed = zlib.crc32('/'.join(adapter.path).encode())
    key = jax.random.fold_in(rng, seed)
    flat[(*adapter.path, 'a')] = INIT_A(key, adapter.a, dtype)
    flat[(*adapter.path, 'b')] = INIT_B(key, adapter.b, dtype)
  return traverse_util.unflatten_dict(flat)


def adapters(
  params: Mapping[str, Any],
  *,
  rank: int,
  targets: str | Iterable[str] | None = None,
) -> Iterator[Adapter]:
  """The adapters that the weights of a model can have; see `init_lora`."""
  if rank < 1:
    raise ValueError(f'rank={rank} is below 1.')
  patterns = [targets] if isinstance(targets, str) else targets
  found = {
    '/'.join(weight.path): _adapter(weight, shape, rank)
    for weight, shape in _linear(_tree.split_params(params).original)
  }
  if patterns is None:
    yield from found.values()
    return
  patterns = list(patterns)
  for pattern in patterns:
    if not any(re.search(pattern, name) for name in found):
      raise ValueError(
        f'targets={pattern!r} matches none of {len(found)} weights. Their '
        f'paths are as {next(iter(found), "?")!r}.'
      )
  for name, adapter in found.items():
    if any(re.search(pattern, name) for pattern in patterns):
      yield adapter


def _linear(
  params: Mapping[str, Any],
) -> Iterator[tuple[_weights.Weight, tuple[int, ...]]]:
  """All weights that can be adapted, and their shapes."""
  plain = _weights.as_plain(params)
  flat = traverse_util.flatten_dict(plain)
  for weight in (*_weights.weights(plain), *_weights.kernels(plain)):
    yield weight, flat[weight.path].shape


def _adapter(
  weight: _weights.Weight, shape: tuple[int, ...], rank: int
) -> Adapter:
  inside = tuple(shape[i] for i in weight.summed)
  outside = tuple(n for i, n in enumerate(shape) if i not in weight.summed)
  return Adapter(weight.adapter, (*inside, rank), (rank, *outside))
