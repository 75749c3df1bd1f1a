"""A model whose weights have adapters."""

from collections.abc import Iterable
import dataclasses
from typing import Any
from typing import TypeAlias

from flax import linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from gemma.gm.nn import _cache
from gemma.gm.nn import _config
from gemma.gm.nn import _info
from gemma.gm.nn import _transformer
from gemma.peft import _lora


class LoRA(nn.Module):
  """Creates the adapters of a model, https://arxiv.org/abs/2106.09685.

  Only `init` needs it: a model uses the adapters that are in its parameters,
  so `model.apply`, `gm.text.Sampler(model=model, ...)` and this wrapper give
  the same. Its parameters are those of the model with `lora` dicts between,
  for `peft.split_params` to find and for an optimizer to select.

  ```python
  >>> import jax, jax.numpy as jnp
  >>> from gemma import gm, peft
  >>> model = gm.nn.LoRA(rank=4, model=gm.nn.Gemma3_Tiny())
  >>> tokens = jnp.ones((1, 4), jnp.int32)
  >>> params = model.init(jax.random.key(0), tokens)['params']
  >>> lora = peft.split_params(params).lora
  >>> lora['layer_0']['attn']['q_einsum']['_LoRAEinsum_0']['lora']['a'].shape
  (192, 4)

  ```

  Attributes:
    rank: Columns of `A`.
    model: The model.
    dtype: Dtype in which adapters are created.
    targets: Which weights have one, see `peft.init_lora`; by default all, those
      of a vision encoder included.
  """

  _: dataclasses.KW_ONLY
  rank: int
  model: _transformer.Transformer
  dtype: DTypeLike = jnp.bfloat16
  targets: str | Iterable[str] | None = None

  @property
  def config(self) -> _config.TransformerConfig:
    """That of the model."""
    return self.model.config

  @property
  def INFO(self) -> _info.ModelInfo:
    """That of the model."""
    return self.model.INFO

  def __kontext_keys__(self) -> dict[str, str | None]:
    """Where Kauldron finds each argument of the call."""
    return self.model.__kontext_keys__()

  def setup(self):
    nn.share_scope(self, self.model)

  def __call__(self, *args: Any, **kwargs: Any) -> _transformer.Output:
    """What the model returns, see `Transformer`.

    Raises:
      ValueError: If a target matches no weight.
    """
    out = self.model(*args, **kwargs)
    if self.is_initializing():
      self._create()
    return out

  def init_cache(self, **kwargs: Any) -> _cache.KVCache:
    """An empty cache, see `Transformer.init_cache`."""
    return self.model.init_cache(**kwargs)

  def _create(self) -> None:
    """Puts adapters into the parameters that the model has made."""
    params = self.variables['params']
    for adapter in _lora.adapters(params, rank=self.rank, targets=self.targets):
      scope: Any = self.scope  # Of the whole model: both share it.
      for name in adapter.path:
        scope = scope.push(name, reuse=True)
      scope.param('a', _lora.INIT_A, adapter.a, self.dtype)
      scope.param('b', _lora.INIT_B, adapter.b, self.dtype)


# What samplers take. Adapters are in the parameters, so they need no wrapper.
Model: TypeAlias = _transformer.Transformer | LoRA
