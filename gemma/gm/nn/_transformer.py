"""The one Transformer of every generation.

Axes: *B any batch dims, B the same flattened, L length, D model, V vocab, C
columns of a caller's mask.
"""

import dataclasses
import functools
import math
from typing import Any
from typing import ClassVar

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int

from gemma.gm.math import _mask
from gemma.gm.nn import _block
from gemma.gm.nn import _cache
from gemma.gm.nn import _checks
from gemma.gm.nn import _config
from gemma.gm.nn import _info
from gemma.gm.nn import _layers
from gemma.gm.nn import _place

REQUIRED = '__KEY_REQUIRED__'
PAD = 0  # Token id that stands for nothing: unseen, and takes no position.


class Output(struct.PyTreeNode):
  """What a `Transformer` returns.

  Attributes:
    logits: Scores of the next token, float32.
    cache: The extended cache; None if none was given.
    hidden_states: States after the final norm; None unless asked for.
  """

  logits: Float[Array, '*B L V'] | Float[Array, '*B V']
  cache: _cache.KVCache | None
  hidden_states: Float[Array, '*B L D'] | Float[Array, '*B D'] | None


class Transformer(nn.Module):
  """A Gemma text model.

  The released sizes are subclasses (`gm.nn.Gemma3_1B()`); any other is
  `Transformer(config=...)`.

  ```python
  >>> import jax, jax.numpy as jnp
  >>> from gemma import gm
  >>> model = gm.nn.Gemma3_Tiny()
  >>> tokens = jnp.array([[2, 300, 301, 302]])
  >>> params = model.init(jax.random.key(0), tokens)['params']
  >>> model.apply({'params': params}, tokens).logits.shape[:2]
  (1, 4)

  ```

  Attributes:
    return_last_only: Default of the argument of the same name.
    dtype: Dtype in which parameters are created. A forward pass computes in
      the dtype of the parameters that it is given.
    tokens: Kauldron path of the tokens in a batch, such as `batch.input`.
    images: Kauldron path of the images.
    positions: Kauldron path of the positions.
    attention_mask: Kauldron path of the mask.
    config: Shape and constants.
  """

  _: dataclasses.KW_ONLY
  return_last_only: bool | None = None
  dtype: DTypeLike = jnp.bfloat16
  tokens: str = REQUIRED
  images: str | None = None
  positions: str | None = None
  attention_mask: str | None = None
  config: _config.TransformerConfig

  INFO: ClassVar[_info.ModelInfo] = _info.ModelInfo()

  def setup(self):
    config, dtype = self.config, self.dtype
    _checks.check_dtype(dtype)
    self.embedder = _layers.Embedder(config.num_embed, config.embed_dim, dtype)
    self.blocks = [
      _block.Block(config, spec, dtype, name=f'layer_{i}')
      for i, spec in enumerate(config.layers())
    ]
    self.final_norm = _layers.RMSNorm(eps=config.norm_eps, dtype=dtype)

  def __kontext_keys__(self) -> dict[str, str | None]:
    """Where Kauldron finds each argument of the call."""
    return {
      'tokens': self.tokens,
      'images': self.images,
      'positions': self.positions,
      'attention_mask': self.attention_mask,
    }

  def __call__(
    self,
    tokens: Int[ArrayLike, '*B L'],
    *,
    images: Any = None,
    positions: Int[ArrayLike, '*B L'] | None = None,
    cache: _cache.KVCache | None = None,
    attention_mask: Bool[ArrayLike, '*B L C'] | None = None,
    return_last_only: bool | None = None,
    return_hidden_states: bool | None = None,
  ) -> Output:
    """Logits of the token that follows each token.

    Token 0 is padding: nobody sees it, and it takes no position and no place
    in the cache. Padding may stand on either side.

    Args:
      tokens: Token ids; any number of leading batch dims, or none.
      images: For models with a vision encoder.
      positions: Position of each token, for RoPE; by default the number of
        real tokens before it, those in the cache included.
      cache: From `init_cache`, or from an earlier call, with as many rows as
        `tokens` has in all.
      attention_mask: Which tokens each token may see, in place of the causal
        mask. The last axis counts the tokens of the row, or those of the cache
        if there is one. Sliding layers add their window.
      return_last_only: Whether to return the last real token of each row only.
      return_hidden_states: Whether to return the states after the final norm.

    Returns:
      Logits, the extended cache, and hidden states.

    Raises:
      ValueError: If shapes disagree, an id is outside of the table, or the
        cache has no room. Values are looked at outside of `jax.jit` only.
      TypeError: If tokens are not integers.
    """
    if images is not None:
      raise ValueError(
        f'{type(self).__name__} does not have vision encoder, but images were '
        'given. Leave them out.'
      )
    if return_last_only is None:
      return_last_only = bool(self.return_last_only)
    elif self.return_last_only is not None:
      raise ValueError(
        f'return_last_only={return_last_only} in the call, but the model '
        f'already has return_last_only={self.return_last_only}. Give it once.'
      )
    tokens = jnp.asarray(tokens)
    _checks.check_dtype(self.embedder.compute_dtype)
    _checks.check_inputs(
      self.config, tokens, positions, attention_mask, cache, pad=PAD
    )
    batch = tokens.shape[:-1]
    flat = functools.partial(_flatten, rows=math.prod(batch))
    out = self._forward(
      flat(tokens, ndim=2),
      flat(positions, ndim=2),
      cache,
      flat(attention_mask, ndim=3),
      return_last_only=return_last_only,
      return_hidden_states=bool(return_hidden_states),
    )
    return out.replace(
      logits=_unflatten(out.logits, batch),
      hidden_states=_unflatten(out.hidden_states, batch),
    )

  def logits(
    self, hidden_states: Float[Array, '*B L D']
  ) -> Float[Array, '*B L V']:
    """Scores of the next token from states after the final norm.

    For few tokens at a time, where the logits of all would not fit:
    `model.apply({'params': params}, hidden_states, method='logits')`.
    """
    logits = self.embedder.decode(hidden_states)
    cap = self.config.final_logit_softcap
    return logits if cap is None else cap * jnp.tanh(logits / cap)

  def init_cache(
    self,
    *,
    batch_size: int,
    dtype: DTypeLike,
    cache_length: int,
    lookahead: int = 0,
    sharding: Any = None,
  ) -> _cache.KVCache:
    """An empty cache.

    Global layers get `cache_length` slots, sliding layers one window.

    Args:
      batch_size: Rows.
      dtype: Dtype of the keys and values.
      cache_length: Tokens that each row can hold.
      lookahead: Newest tokens of a row that can be taken back by setting
        `cache.length`, as speculative decoding does.
      sharding: Where the cache lies: a `jax.sharding.Sharding`, or a function
        from arrays to shardings.
    """
    cache = _cache.init_cache(
      self.config,
      batch_size=batch_size,
      dtype=dtype,
      cache_length=cache_length,
      lookahead=lookahead,
    )
    return _place.place(cache, sharding)

  @functools.partial(
    nn.jit, static_argnames=('return_last_only', 'return_hidden_states')
  )
  def _forward(
    self,
    tokens: Int[Array, 'B L'],
    positions: Int[Array, 'B L'] | None,
    cache: _cache.KVCache | None,
    attention_mask: Bool[Array, 'B L C'] | None,
    *,
    return_last_only: bool,
    return_hidden_states: bool,
  ) -> Output:
    real = tokens != PAD
    length = jnp.zeros(tokens.shape[0], jnp.int32)
    if cache is not None:
      length = cache.length
    mask = _mask_of(real, length, attention_mask, cached=cache is not None)
    if positions is None:
      positions = mask.q_index

    x = self.embedder.encode(tokens)
    layers = {}
    for i, block in enumerate(self.blocks):
      name = f'layer_{i}'
      layer = None if cache is None else cache.layers[name]
      layers[name], x = block(x, positions, mask, length, layer)
    if cache is not None:
      cache = cache.replace(
        layers=layers, length=length + jnp.sum(real, axis=1, dtype=jnp.int32)
      )
    if return_last_only:
      x = _last(x, real)
    x = self.final_norm(x)
    return Output(
      logits=self.logits(x),
      cache=cache,
      hidden_states=x if return_hidden_states else None,
    )


def param_shapes(model: Transformer) -> dict[str, Any]:
  """Shapes and dtypes of a model's parameters, without making them."""
  tokens = jnp.ones((1, 1), jnp.int32)
  return jax.eval_shape(model.init, jax.random.key(0), tokens)['params']


def _mask_of(
  real: Bool[Array, 'B L'],
  length: Int[Array, 'B'],
  dense: Bool[Array, 'B L C'] | None,
  *,
  cached: bool,
) -> _mask.Mask:
  """The mask that all layers share, with the new tokens as keys."""
  if dense is not None and not cached:
    # The caller's columns are places in the row, padding included.
    index = jnp.broadcast_to(jnp.arange(real.shape[1]), real.shape)
    return _mask.Mask(q_index=index, k_index=index, dense=dense, causal=False)
  count = jnp.cumsum(real, axis=1, dtype=jnp.int32)
  index = length[:, None] + jnp.maximum(count - 1, 0)
  return _mask.Mask(
    q_index=index,
    k_index=jnp.where(real, index, -1),
    dense=dense,
    causal=dense is None,
  )


def _last(
  x: Float[Array, 'B L D'], real: Bool[Array, 'B L']
) -> Float[Array, 'B D']:
  """The state of each row's last real token."""
  last = jnp.max(jnp.where(real, jnp.arange(real.shape[1])[None], 0), axis=1)
  return jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]


def _flatten(x: Any, rows: int, ndim: int) -> Any:
  if x is None:
    return None
  return jnp.asarray(x).reshape(rows, *x.shape[x.ndim - ndim + 1 :])


def _unflatten(x: Any, batch: tuple[int, ...]) -> Any:
  return None if x is None else x.reshape(*batch, *x.shape[1:])
