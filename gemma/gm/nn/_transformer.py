"""The one Transformer of every generation.

Axes: *B any batch dims, B the same flattened, L length, T length with room for
images, N images of a row, Y X C rows, columns and channels of an image, S soft
tokens, D model, V vocab, K columns of a caller's mask.
"""

import dataclasses
import functools
from typing import Any
from typing import ClassVar

from flax import linen as nn
from flax import struct
import jax.numpy as jnp
from jax.typing import ArrayLike
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Num

from gemma.gm.math import _shapes
from gemma.gm.nn import _altup
from gemma.gm.nn import _block
from gemma.gm.nn import _blocks
from gemma.gm.nn import _cache
from gemma.gm.nn import _checks
from gemma.gm.nn import _compiled
from gemma.gm.nn import _config
from gemma.gm.nn import _image_checks
from gemma.gm.nn import _info
from gemma.gm.nn import _inputs
from gemma.gm.nn import _layers
from gemma.gm.nn import _observed
from gemma.gm.nn import _per_layer
from gemma.gm.nn import _place
from gemma.gm.nn import _remat
from gemma.gm.vision import _expand
from gemma.gm.vision import _siglip

REQUIRED = '__KEY_REQUIRED__'
PAD = _checks.PAD


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
  """A Gemma model.

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
    segment_ids: Kauldron path of the segments.
    return_hidden_states: Default of the argument of the same name.
    remat: What gradients keep of each layer: `none` keeps all that they need,
      `dots` the products with weights, `full` the residual stream alone. The
      rest is computed again.
    scan_layers: Whether layers that repeat are compiled once, for training.
      Their parameters have an axis more: see `stack_layers`. With a cache they
      are taken apart again, at the cost of a copy.
    config: Shape and constants.
  """

  _: dataclasses.KW_ONLY
  return_last_only: bool | None = None
  dtype: DTypeLike = jnp.bfloat16
  tokens: str = REQUIRED
  images: str | None = None
  positions: str | None = None
  attention_mask: str | None = None
  segment_ids: str | None = None
  return_hidden_states: bool | None = None
  remat: str = _remat.Remat.NONE
  scan_layers: bool = False
  config: _config.TransformerConfig

  INFO: ClassVar[_info.ModelInfo] = _info.ModelInfo()
  BLOCKS: ClassVar[type[_blocks.Blocks]] = _blocks.Blocks

  def setup(self):
    config, dtype = self.config, self.dtype
    _checks.check_dtype(dtype)
    encoder, width = config.vision_encoder, None
    if encoder is not None:
      # A config is shared: its module is no part of any model.
      self._vision = encoder.clone(parent=self, name='vision_encoder')
      width = encoder.siglip_encoder.width
    self.embedder = _layers.Embedder(
      config.num_embed, config.embed_dim, width, dtype
    )
    self.blocks = self.BLOCKS(config, dtype, self.remat, self.scan_layers)
    nn.share_scope(self, self.blocks)
    self.final_norm = _layers.norm_of(config, dtype, 'final_norm')
    self._streams = self._per_layer = None
    if config.altup is not None:
      self._streams = _altup.Streams(config, dtype)
      nn.share_scope(self, self._streams)
    if config.per_layer_input_dim:
      self._per_layer = _per_layer.PerLayerInputs(config, dtype)
      nn.share_scope(self._per_layer, self.embedder)

  @property
  def vision_encoder(self) -> _siglip.SigLiPFromPatches | None:
    """The vision encoder of the config."""
    return self.config.vision_encoder

  def __kontext_keys__(self) -> dict[str, str | None]:
    """Where Kauldron finds each argument of the call."""
    return {
      'tokens': self.tokens,
      'images': self.images,
      'positions': self.positions,
      'attention_mask': self.attention_mask,
      'segment_ids': self.segment_ids,
    }

  def __call__(
    self,
    tokens: Int[ArrayLike, '*B L'],
    *,
    images: Any = None,
    soft_tokens: Any = None,
    inputs_embeds: Float[ArrayLike, '*B L D'] | None = None,
    positions: Int[ArrayLike, '*B T'] | None = None,
    cache: _cache.KVCache | None = None,
    attention_mask: Bool[ArrayLike, '*B T K'] | None = None,
    segment_ids: Int[ArrayLike, '*B _'] | None = None,
    return_last_only: bool | None = None,
    return_hidden_states: bool | None = None,
  ) -> Output:
    """Logits of the token that follows each token.

    Token 0 is padding: nobody sees it, and it takes no position and no place
    in the cache. Padding may stand on either side.

    A token that starts an image stands for all of it: room is made inside of
    the model, and only there. Positions, a mask and the cache count the tokens
    of images; logits and hidden states are those of the given tokens. An image
    that was encoded before (`soft_tokens`) goes where tokens are -2, all in one
    call; then the caller has made the room. The tokens of an image see each
    other.

    Args:
      tokens: Token ids; any number of leading batch dims, or none.
      images: Pixels from 0 to 255 of images of any size, `*B N H W C`, or
        `*B H W C` for one in each row. Rows with fewer end in any images.
      soft_tokens: From `method='encode_images'`, `*B N S D`, in place of
        images.
      inputs_embeds: Vectors in place of those of the tokens, as `embed` gives
        them: soft prompts, or what an attribution takes gradients of. Tokens
        still say what is padding, and choose per-layer inputs.
      positions: Position of each token, for RoPE; by default the number of
        real tokens before it, those in the cache included.
      cache: From `init_cache`, or from an earlier call, with as many rows as
        `tokens` has in all.
      attention_mask: Which tokens each token may see, in place of the causal
        mask. The last axis counts the tokens of the row, or those of the cache
        if there is one. Sliding layers add their window.
      segment_ids: For rows of several sequences side by side: equal for the
        tokens of one, which see each other alone. Positions begin again in
        each.
      return_last_only: Whether to return the last real token of each row only.
      return_hidden_states: Whether to return the states after the final norm.
        Logits that nobody reads are not computed under `jax.jit`: see
        `gm.nn.head_of`.

    Returns:
      Logits, the extended cache, and hidden states.

    Raises:
      ValueError: If shapes disagree, an id is outside of the table, images
        and their places differ in number, or the cache has no room. Values are
        looked at outside of `jax.jit` only.
      TypeError: If tokens are not integers.
    """
    if images is not None or soft_tokens is not None:
      self._check_vision()
    if return_last_only is None:
      return_last_only = bool(self.return_last_only)
    elif self.return_last_only is not None:
      raise ValueError(
        f'return_last_only={return_last_only} in the call, but the model '
        f'already has return_last_only={self.return_last_only}. Give it once.'
      )
    if return_hidden_states is None:
      return_hidden_states = bool(self.return_hidden_states)
    _checks.check_dtype(self.embedder.compute_dtype)
    inputs = _inputs.read(
      self.config,
      tokens,
      cache,
      images=images,
      soft_tokens=soft_tokens,
      inputs_embeds=inputs_embeds,
      positions=positions,
      attention_mask=attention_mask,
      segment_ids=segment_ids,
    )
    batch = jnp.shape(tokens)[:-1]
    out = self._forward(
      inputs,
      cache,
      return_last_only=return_last_only,
      return_hidden_states=return_hidden_states,
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

  def embed(self, tokens: Int[ArrayLike, '*B L']) -> Float[Array, '*B L D']:
    """Vectors of tokens, for `inputs_embeds` of later calls.

    `model.apply({'params': params}, tokens, method='embed')`.
    """
    tokens = jnp.asarray(tokens)
    _checks.check_tokens(tokens)
    _checks.check_values(self.config, tokens, None)
    return self.embedder.encode(jnp.maximum(tokens, 0))

  def logit_lens(
    self, residual_stream: Float[Array, '... B L D']
  ) -> Float[Array, 'B L V']:
    """Scores of the next token if the model ended at this layer.

    `model.apply({'params': params}, residual_stream, method='logit_lens')`, for
    a `residual_stream` of `mutable=['intermediates']`.

    Args:
      residual_stream: All streams of a model that has several, `I B L D`.
    """
    x = residual_stream
    if self._streams is not None:
      x = self._streams.join(x)
    return self.logits(self.final_norm(x))

  def encode_images(
    self, images: Num[ArrayLike, '*B Y X C']
  ) -> Float[Array, '*B S D']:
    """Soft tokens of images, for `soft_tokens` of later calls.

    `model.apply({'params': params}, images, method='encode_images')`.

    Args:
      images: Pixels from 0 to 255 of images of any size.

    Raises:
      ValueError: If the model has no vision encoder, or these are no images.
    """
    self._check_vision()
    return self._encode(_image_checks.as_images(images, self.config, None))

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
    like = functools.partial(
      _cache.init_cache,
      self.config,
      batch_size=batch_size,
      dtype=dtype,
      cache_length=cache_length,
      lookahead=lookahead,
    )
    return _place.zeros(like, sharding)

  @functools.partial(
    _compiled.method, static=('return_last_only', 'return_hidden_states')
  )
  def _forward(
    self,
    inputs: _inputs.Inputs,
    cache: _cache.KVCache | None,
    *,
    return_last_only: bool,
    return_hidden_states: bool,
  ) -> Output:
    tokens, x, place = self._embed(inputs)
    real = tokens != PAD
    length = jnp.zeros(tokens.shape[0], jnp.int32)
    if cache is not None:
      length = cache.length
    segment_ids = inputs.segment_ids
    if segment_ids is not None and place is not None:
      segment_ids = _expand.spread(segment_ids, place, tokens.shape[1])
    mask = _inputs.mask_of(
      tokens,
      length,
      inputs.attention_mask,
      cached=cache is not None,
      images=inputs.has_images,
      segment_ids=segment_ids,
    )
    positions = inputs.positions
    if positions is None:
      positions = mask.positions
    context = _block.Context(positions, mask, length)
    layers, x = self._layers(tokens, x, context, cache)
    if cache is not None:
      cache = cache.replace(
        layers=layers, length=length + jnp.sum(real, axis=1, dtype=jnp.int32)
      )
    if return_last_only:
      x = _inputs.last_of(x, real)
    elif place is not None:
      x = jnp.take_along_axis(x, place[:, :, None], axis=1)
    x = self.final_norm(x)
    return Output(
      logits=self.logits(x),
      cache=cache,
      hidden_states=x if return_hidden_states else None,
    )

  @nn.nowrap
  def _layers(
    self,
    tokens: Int[Array, 'B T'],
    x: Float[Array, 'B T D'],
    context: _block.Context,
    cache: _cache.KVCache | None,
  ) -> tuple[dict[str, _cache.LayerKV | None], Float[Array, 'B T D']]:
    """The extended cache of each layer that has one, and the last stream."""
    inputs: Any = None
    if self._per_layer is not None:
      inputs = self._per_layer(tokens, x)
    if self._streams is not None:
      x = self._streams.split(x)
    self.sow(_observed.INTERMEDIATES, 'residual_stream', x)
    layers, x = self.blocks(x, context, cache, inputs)
    return layers, x if self._streams is None else self._streams.join(x)

  @nn.nowrap
  def _embed(
    self, inputs: _inputs.Inputs
  ) -> tuple[
    Int[Array, 'B T'], Float[Array, 'B T D'], Int[Array, 'B L'] | None
  ]:
    """Tokens with room for images, their vectors, and where each was."""
    tokens, soft, place = inputs.tokens, inputs.soft_tokens, None
    encoder = self.config.vision_encoder
    if encoder is None:
      return tokens, self._vectors(inputs, tokens), None
    if self.is_initializing():
      self._encode(_siglip.blank(encoder))  # All parameters, text or not.
    if inputs.images is not None:
      tokens, place = _expand.expand(
        tokens,
        images=inputs.images.shape[1],
        count=encoder.num_mm_tokens_per_image,
        ids=self.config.image_tokens,
      )
      soft = self._encode(inputs.images)
      soft = soft.reshape(soft.shape[0], -1, soft.shape[-1])
    x = self._vectors(inputs, tokens)
    if soft is not None:
      x = _expand.insert(x, soft, tokens == _expand.PLACEHOLDER)
    return tokens, x, place

  @nn.nowrap
  def _vectors(
    self, inputs: _inputs.Inputs, tokens: Int[Array, 'B T']
  ) -> Float[Array, 'B T D']:
    """The caller's vectors, or those of the tokens."""
    if inputs.inputs_embeds is not None:
      return inputs.inputs_embeds.astype(self.embedder.compute_dtype)
    return self.embedder.encode(jnp.maximum(tokens, 0))

  @_compiled.method
  def _encode(self, images: Num[Array, '*B Y X C']) -> Float[Array, '*B S D']:
    patches = self._vision.patchify_images(images)
    soft = self._vision(patches=patches, is_training=False)
    return self.embedder.encode_vision(soft)

  @nn.nowrap
  def _check_vision(self) -> None:
    if self.config.vision_encoder is None:
      raise ValueError(
        f'{type(self).__name__} does not have vision encoder, but images were '
        'given. Leave them out, or take a size that has one, such as '
        'Gemma3_4B, without text_only=True.'
      )


def _unflatten(x: Any, batch: tuple[_shapes.Size, ...]) -> Any:
  return None if x is None else x.reshape(*batch, *x.shape[1:])
