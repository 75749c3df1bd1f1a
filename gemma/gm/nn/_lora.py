"""A model whose weights have adapters."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
from typing import Any
from typing import TypeAlias

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Num

from gemma.gm.math import _numbers
from gemma.gm.nn import _cache
from gemma.gm.nn import _config
from gemma.gm.nn import _info
from gemma.gm.nn import _transformer
from gemma.gm.vision import _siglip
from gemma.peft import _lora
from gemma.peft import _loss
from gemma.peft import _targets
from gemma.peft import _tree


class LoRA(nn.Module):
  """Creates the adapters of a model, https://arxiv.org/abs/2106.09685.

  Only `init` needs it: a model uses the adapters that are in its parameters,
  so `model.apply`, `gm.text.Sampler(model=model, ...)` and this wrapper give
  the same, if there is neither `alpha` nor `dropout`. Its parameters are those
  of the model with `lora` dicts between, for `peft.split_params` to find and
  for an optimizer to select.

  Axes: *B any batch dims, L length, Y X C rows, columns and channels of an
  image, S soft tokens, D model, V vocab.

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

  With them the wrapper is called: by losses, and by samplers that get it;
  `gm.ckpts.save_adapter` writes the factor down. What has no model gets them
  with their factor: `peft.fuse_params(peft.scale_lora(params, model.factor))`.

  Attributes:
    rank: Columns of `A`.
    model: The model.
    dtype: Dtype in which adapters are created.
    targets: Which weights have one, see `peft.init_lora`; by default all, those
      of a vision encoder included.
    alpha: If set, products of adapters are multiplied by `alpha / rank`.
    use_rslora: Whether by `alpha / sqrt(rank)`
      (https://arxiv.org/abs/2312.03732).
    use_dora: Whether adapters have magnitudes. They are those of the weights
      that `init` makes: after others are loaded, `peft.set_magnitudes` is due
      (`gm.ckpts.SkipLoRA` does it).
    dropout: Share of the inputs of adapters that is dropped in calls with an
      rng `dropout`.
    per_head: See `peft.init_lora`.
    verbose: Whether `init` prints the adapters that it makes.
  """

  _: dataclasses.KW_ONLY
  rank: int
  model: _transformer.Transformer
  dtype: DTypeLike = jnp.bfloat16
  targets: str | Iterable[str] | None = None
  alpha: float | None = None
  use_rslora: bool = False
  use_dora: bool = False
  dropout: float = 0.0
  per_head: bool = False
  verbose: bool = False

  @property
  def factor(self) -> float:
    """What products of adapters are multiplied by."""
    if self.alpha is None:
      return 1.0
    return self.alpha / (self.rank**0.5 if self.use_rslora else self.rank)

  @property
  def config(self) -> _config.TransformerConfig:
    """That of the model."""
    return self.model.config

  @property
  def INFO(self) -> _info.ModelInfo:
    """That of the model."""
    return self.model.INFO

  @property
  def vision_encoder(self) -> _siglip.SigLiPFromPatches | None:
    """That of the model."""
    return self.model.vision_encoder

  def __getattr__(self, name: str) -> Any:
    """Fields of the model, such as `images`, are those of the wrapper too."""
    model = self.__dict__.get('model')
    if model is not None and name in model.__dataclass_fields__:
      return getattr(model, name)
    return super().__getattr__(name)

  def __kontext_keys__(self) -> dict[str, str | None]:
    """Where Kauldron finds each argument of the call."""
    return self.model.__kontext_keys__()

  def __post_init__(self):
    _numbers.whole(1, rank=self.rank)
    _loss.check_rate(self.dropout)
    if self.alpha is not None:
      _numbers.above(0, alpha=self.alpha)
    elif self.use_rslora:
      raise ValueError('use_rslora=True is a factor of alpha. Give alpha too.')
    super().__post_init__()

  def setup(self):
    nn.share_scope(self, self.model)

  def __call__(self, *args: Any, **kwargs: Any) -> _transformer.Output:
    """What the model returns, see `Transformer`.

    Raises:
      ValueError: If a target matches no weight, the rate of dropout is none, or
        `use_rslora` has no `alpha`.
    """
    if not self.is_initializing():
      return self._run(lambda model: model(*args, **kwargs))
    out = self.model(*args, **kwargs)
    self._create()
    return out

  def logits(
    self, hidden_states: Float[Array, '*B L D']
  ) -> Float[Array, '*B L V']:
    """See `Transformer.logits`."""
    return self.model.logits(hidden_states)

  def encode_images(
    self, images: Num[ArrayLike, '*B Y X C']
  ) -> Float[Array, '*B S D']:
    """See `Transformer.encode_images`."""
    return self._run(lambda model: model.encode_images(images))

  def init_cache(self, **kwargs: Any) -> _cache.KVCache:
    """An empty cache, see `Transformer.init_cache`."""
    return self.model.init_cache(**kwargs)

  @nn.nowrap
  def _run(self, call: Callable[[_transformer.Transformer], Any]) -> Any:
    """A call of the model with adapters as a loss sees them."""
    dropout = self.dropout if self.has_rng('dropout') else 0.0
    if self.factor == 1 and not dropout:
      return call(self.model)

    def seen(variables: Mapping[str, Any]) -> dict[str, Any]:
      params = _loss.scale_lora(variables['params'], self.factor)
      return {**variables, 'params': _loss.drop_lora(params, dropout)}

    # Only adapters change: all else is passed on as it is.
    run = nn.map_variables(call, 'params', trans_in_fn=seen)
    return run(self.model)

  @nn.nowrap
  def _create(self) -> None:
    """Puts adapters into the parameters that the model has made."""
    params = self.variables['params']
    made = _lora.adapters(
      params, rank=self.rank, targets=self.targets, per_head=self.per_head
    )
    for adapter in made:
      a = self._param(adapter.path, 'a', adapter.start_a)
      b = self._param(adapter.path, 'b', adapter.start_b)
      if self.verbose:
        print(f'{"/".join(adapter.path)}: a {a.shape}, b {b.shape}')
    if self.use_dora:
      lora = _tree.split_params(self.variables['params']).lora
      lengths = _lora.set_magnitudes(lora, params)
      for path, found in _targets.adapters_in(lengths).items():
        self._param(path, 'm', lambda *_, m=found['m']: m)

  @nn.nowrap
  def _param(self, path: tuple[str, ...], name: str, start: Any) -> jax.Array:
    scope: Any = self.scope  # Of the whole model: both share it.
    for part in path:
      scope = scope.push(part, reuse=True)
    return scope.param(name, start, self.dtype)


# A model of the library, as losses and checkpoints take it.
Model: TypeAlias = _transformer.Transformer | LoRA
