"""What samplers need of a model that is not a `Transformer`."""

from typing import Any
from typing import ClassVar
from typing import Protocol
from typing import runtime_checkable

from jax.typing import DTypeLike

from gemma.gm.nn import _cache
from gemma.gm.nn import _config
from gemma.gm.nn import _info


@runtime_checkable
class TransformerLike(Protocol):
  """A model for `gm.text.Sampler` and `gm.text.ChatSampler`.

  Write a Flax module with these members to sample from a model of your own: one
  that changes the logits of another, or a mixture of several.

  ```python
  >>> from flax import linen as nn
  >>> from gemma import gm
  >>> class Cooler(nn.Module):
  ...   model: gm.nn.Transformer
  ...   INFO = gm.nn.Gemma3_Tiny.INFO
  ...   config = property(lambda self: self.model.config)
  ...
  ...   def __call__(self, tokens, **kwargs):
  ...     out = self.model(tokens, **kwargs)
  ...     return out.replace(logits=2 * out.logits)
  ...
  ...   def init_cache(self, **kwargs):
  ...     return self.model.init_cache(**kwargs)
  ...
  >>> isinstance(Cooler(gm.nn.Gemma3_Tiny()), gm.nn.TransformerLike)
  True

  ```

  Samplers call it with `tokens`, and with the keywords `cache`,
  `return_last_only`, `return_hidden_states`, and, for images, `soft_tokens`. It
  returns a `gm.nn.Output`. `Sampler.score` also calls its method `logits`, and
  images need `encode_images`, each as a `Transformer` has it.

  Attributes:
    config: Shape of the model: its vocabulary, its layers, its encoder.
    INFO: The tokenizer's version, for samplers without `tokenizer=`.
  """

  INFO: ClassVar[_info.ModelInfo]

  @property
  def config(self) -> _config.TransformerConfig:
    """Shape of the model."""
    ...

  def apply(self, *args: Any, **kwargs: Any) -> Any:
    """See `flax.linen.Module.apply`."""
    ...

  def init_cache(
    self,
    *,
    batch_size: int,
    dtype: DTypeLike,
    cache_length: int,
    lookahead: int = 0,
    sharding: Any = None,
  ) -> _cache.KVCache:
    """An empty cache, see `Transformer.init_cache`."""
    ...
