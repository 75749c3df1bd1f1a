"""What a model is made of: the published flat config, and what code reads."""

from collections.abc import Sequence
import dataclasses
import enum

from gemma.gm.math._rope import Rope
from gemma.gm.vision import _expand
from gemma.gm.vision import _siglip


class AttentionType(enum.Enum):
  """Reach of a layer's attention, with the published names."""

  GLOBAL = 1
  LOCAL_SLIDING = 2


class QueryPreAttentionNormalisation(enum.Enum):
  """Rules for the factor on the attention scores, with the published names."""

  BY_ONE_OVER_SQRT_HEAD_DIM = enum.auto()
  BY_EMBED_DIM_DIV_NUM_HEADS = enum.auto()
  BY_ONE_OVER_SQRT_EMBED_DIM_DIV_NUM_HEADS = enum.auto()


GEMMA2_ATTENTION_PATTERN = (
  AttentionType.LOCAL_SLIDING,
  AttentionType.GLOBAL,
)
GEMMA3_ATTENTION_PATTERN = (AttentionType.LOCAL_SLIDING,) * 5 + (
  AttentionType.GLOBAL,
)


def make_attention_layers_types(
  pattern: Sequence[AttentionType], *, num_layers: int
) -> tuple[AttentionType, ...]:
  """Repeats `pattern` from layer 0 and cuts it at `num_layers`."""
  repeats = -(-num_layers // len(pattern))
  return (tuple(pattern) * repeats)[:num_layers]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Full:
  """Attention over the whole past."""

  rope: Rope


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sliding:
  """Attention over the last `window` tokens, the query's own included."""

  window: int
  rope: Rope


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dense:
  """The gated feed-forward.

  Attributes:
    hidden_dim: Width of one branch.
    gate_last: Whether the gating weight is stored `(2, hidden, embed)` and not
      `(2, embed, hidden)`. A matter of storage: the numbers are the same.
    sparsity: Share of the gates that are cut to zero, see `AltUp`'s report.
  """

  hidden_dim: int
  gate_last: bool
  sparsity: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experts:
  """Feed-forwards of which each token takes a few, beside the dense one.

  Attributes:
    num_experts: How many there are.
    top_k: How many a token takes.
    hidden_dim: Width of one branch of one of them.
  """

  num_experts: int
  top_k: int
  hidden_dim: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class AltUp:
  """Alternating updates of a residual stream that is several times as wide.

  Each layer computes one of the streams, and predicts and corrects the others
  (https://arxiv.org/abs/2301.13310).

  Attributes:
    num_inputs: Streams.
    active: The one that layers compute.
    coef_clip: Limit of the coefficients.
  """

  num_inputs: int = 4
  active: int = 0
  coef_clip: float = 120.0


class ImageAttention(enum.StrEnum):
  """The layers in which the tokens of an image see each other."""

  ALL = 'all'
  LOCAL = 'local'
  NONE = 'none'


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerSpec:
  """Everything that one `Block` needs to know about itself.

  Attributes:
    attention: How far the layer sees, and its position encoding.
    num_heads: Query heads.
    num_kv_heads: Key and value heads, each shared by a group of query heads.
    head_dim: Width of a head.
    query_scale: Factor on the attention scores.
    softcap: Soft cap on the attention scores.
    qk_norm: Whether queries and keys are normalised before RoPE.
    value_norm: Whether values are normalised; that has no parameter.
    fused_qkv: Whether one parameter holds all three projections.
    keys_as_values: Whether values are the keys before norm and RoPE.
    kv_source: The layer whose keys and values this one reads; None if it has
      its own.
    images_see: Whether the tokens of an image see each other here.
    post_attn_norm: Whether the attention's output is normalised.
    ffw: The dense feed-forward.
    experts: The experts beside it.
    post_ffw_norm: Whether the feed-forward's output is normalised.
    laurel_rank: Rank of a branch beside attention; 0 for none.
    layer_scalar: Whether the residual stream is scaled behind the layer.
  """

  attention: Full | Sliding
  num_heads: int
  num_kv_heads: int
  head_dim: int
  query_scale: float
  softcap: float | None
  qk_norm: bool
  value_norm: bool
  fused_qkv: bool
  keys_as_values: bool
  kv_source: int | None
  images_see: bool
  post_attn_norm: bool
  ffw: Dense
  experts: Experts | None
  post_ffw_norm: bool
  laurel_rank: int
  layer_scalar: bool

  @property
  def window(self) -> int | None:
    """Tokens in reach; None is all of them."""
    match self.attention:
      case Sliding(window=window):
        return window
      case Full():
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
  """The folder that a config was read from.

  Attributes:
    path: The folder, or `hf://org/name[@revision]`; None if it has none.
    multimodal: Whether its model has encoders of images or audio. Hugging Face
      then calls the text model `language_model`, with or without them here.
  """

  path: str | None = None
  multimodal: bool = False


MULTIMODAL = Origin(multimodal=True)  # Any published folder with encoders.


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """Shape and constants of a model.

  Attributes:
    num_embed: Rows of the embedding table.
    embed_dim: Width of the residual stream.
    hidden_dim: Width of one branch of the feed-forward.
    num_heads: Query heads.
    head_dim: Width of a head; not `embed_dim / num_heads`.
    num_kv_heads: Key and value heads.
    final_logit_softcap: Soft cap on the logits.
    use_post_attn_norm: Whether the attention's output is normalised.
    use_post_ffw_norm: Whether the feed-forward's output is normalised.
    attention_types: Reach of each layer; their number is the depth.
    query_pre_attn_norm: Rule for the factor on the attention scores.
    query_scale: The factor itself, where no rule gives it.
    attn_logits_soft_cap: Soft cap on the attention scores.
    sliding_window_size: Window of the local layers.
    transpose_gating_einsum: See `Dense.gate_last`.
    use_qk_norm: Whether queries and keys are normalised.
    local_base_frequency: RoPE base of the local layers.
    global_base_frequency: RoPE base of the global layers.
    local_scale_factor: RoPE position interpolation of the local layers.
    global_scale_factor: RoPE position interpolation of the global layers.
    norm_eps: Added to the mean square in every norm.
    zero_centered_norms: Whether norms multiply by `1 + scale`; those of Gemma
      3n and 4 multiply by `scale`, and have other names.
    use_value_norm: Whether values are normalised.
    global_head_dim: Width of a head of the global layers, if another.
    global_num_kv_heads: Key and value heads of the global layers, if another
      number.
    global_keys_as_values: See `LayerSpec.keys_as_values`, of the global layers.
    global_rope_proportion: See `Rope.proportion`, of the global layers.
    num_kv_shared_layers: Last layers that read the keys and values of the last
      layer before them that has the same reach.
    hidden_dims: `hidden_dim` of each layer, if they differ.
    activation_sparsity: `Dense.sparsity` of the first layers.
    experts: Feed-forwards of which each token takes a few.
    per_layer_input_dim: Width of what each layer gets of each token by a table
      of its own; 0 for none.
    per_layer_rows: Rows of that table, if fewer than `num_embed`: a token
      without a row reads that of padding.
    altup: Several residual streams, as in Gemma 3n.
    laurel_rank: Rank of the LAuReL branch (https://arxiv.org/abs/2411.07501).
    use_layer_scalar: See `LayerSpec.layer_scalar`.
    image_attention: The layers in which the tokens of an image see each other.
    vocab_size: Rows that stand for a token, if the table is padded beyond.
    vision_encoder: What makes soft tokens of images; None if the model reads
      text only.
    image_tokens: Ids around an image.
    origin: The folder that the config was read from. Configs that differ only
      in it are equal, so that they share compiled programs.
  """

  num_embed: int
  embed_dim: int
  hidden_dim: int
  num_heads: int
  head_dim: int
  num_kv_heads: int
  final_logit_softcap: float | None
  use_post_attn_norm: bool
  use_post_ffw_norm: bool
  attention_types: tuple[AttentionType, ...]
  query_pre_attn_norm: QueryPreAttentionNormalisation = (
    QueryPreAttentionNormalisation.BY_ONE_OVER_SQRT_HEAD_DIM
  )
  query_scale: float | None = None
  attn_logits_soft_cap: float | None = None
  sliding_window_size: int | None = None
  transpose_gating_einsum: bool = False
  use_qk_norm: bool = False
  local_base_frequency: float = 10_000
  global_base_frequency: float = 10_000
  local_scale_factor: float = 1.0
  global_scale_factor: float = 1.0
  norm_eps: float = 1e-6
  zero_centered_norms: bool = True
  use_value_norm: bool = False
  global_head_dim: int | None = None
  global_num_kv_heads: int | None = None
  global_keys_as_values: bool = False
  global_rope_proportion: float = 1.0
  num_kv_shared_layers: int = 0
  hidden_dims: tuple[int, ...] | None = None
  activation_sparsity: tuple[float, ...] = ()
  experts: Experts | None = None
  per_layer_input_dim: int = 0
  per_layer_rows: int | None = None
  altup: AltUp | None = None
  laurel_rank: int = 0
  use_layer_scalar: bool = False
  image_attention: ImageAttention = ImageAttention.ALL
  vocab_size: int | None = None
  vision_encoder: _siglip.SigLiPFromPatches | None = None
  image_tokens: _expand.ImageTokens = _expand.ImageTokens()
  origin: Origin | None = dataclasses.field(
    default=None, compare=False, repr=False
  )

  def __post_init__(self):
    _check(self)
    self.layers()

  @property
  def num_layers(self) -> int:
    return len(self.attention_types)

  def query_pre_attn_scalar(self) -> float:
    """Factor on the attention scores."""
    rule = QueryPreAttentionNormalisation
    if self.query_scale is not None:
      return self.query_scale
    match self.query_pre_attn_norm:
      case rule.BY_EMBED_DIM_DIV_NUM_HEADS:
        return self.embed_dim // self.num_heads
      case rule.BY_ONE_OVER_SQRT_EMBED_DIM_DIV_NUM_HEADS:
        return (self.embed_dim // self.num_heads) ** -0.5
      case rule.BY_ONE_OVER_SQRT_HEAD_DIM:
        return self.head_dim**-0.5

  def layers(self) -> tuple[LayerSpec, ...]:
    """What each layer is, resolved from the fields above."""
    return tuple(map(self._layer, range(self.num_layers)))

  @property
  def num_own_kv(self) -> int:
    """Layers that have keys and values of their own: the first ones."""
    return self.num_layers - self.num_kv_shared_layers

  def _layer(self, i: int) -> LayerSpec:
    kind = self.attention_types[i]
    is_global = kind is AttentionType.GLOBAL
    heads, head_dim = self.num_kv_heads, self.head_dim
    if is_global:
      heads = self.global_num_kv_heads or heads
      head_dim = self.global_head_dim or head_dim
    sparse = i < len(self.activation_sparsity)
    return LayerSpec(
      attention=self._attention(kind),
      num_heads=self.num_heads,
      num_kv_heads=heads,
      head_dim=head_dim,
      query_scale=self.query_pre_attn_scalar(),
      softcap=self.attn_logits_soft_cap,
      qk_norm=self.use_qk_norm,
      value_norm=self.use_value_norm,
      fused_qkv=self.num_heads == heads and self.zero_centered_norms,
      keys_as_values=is_global and self.global_keys_as_values,
      kv_source=self._kv_source(i),
      images_see=self.image_attention is ImageAttention.ALL
      or (self.image_attention is ImageAttention.LOCAL and not is_global),
      post_attn_norm=self.use_post_attn_norm,
      ffw=Dense(
        hidden_dim=self.hidden_dims[i] if self.hidden_dims else self.hidden_dim,
        gate_last=self.transpose_gating_einsum,
        sparsity=self.activation_sparsity[i] if sparse else 0.0,
      ),
      experts=self.experts,
      post_ffw_norm=self.use_post_ffw_norm,
      laurel_rank=self.laurel_rank,
      layer_scalar=self.use_layer_scalar,
    )

  def _kv_source(self, i: int) -> int | None:
    if i < self.num_own_kv:
      return None
    own = self.attention_types[: self.num_own_kv]
    kind = self.attention_types[i]
    if kind not in own:
      raise ValueError(
        f'num_kv_shared_layers={self.num_kv_shared_layers} leaves no layer '
        f'before of type {kind.name} whose keys layer {i} could read.'
      )
    return len(own) - 1 - own[::-1].index(kind)

  def _attention(self, kind: AttentionType) -> Full | Sliding:
    if kind is AttentionType.GLOBAL:
      rope = Rope(
        base=self.global_base_frequency,
        scale_factor=self.global_scale_factor,
        proportion=self.global_rope_proportion,
      )
      return Full(rope=rope)
    if not self.sliding_window_size or self.sliding_window_size < 1:
      raise ValueError(
        f'sliding_window_size={self.sliding_window_size}, but attention_types '
        'has local layers. Give the number of tokens that they see.'
      )
    rope = Rope(
      base=self.local_base_frequency, scale_factor=self.local_scale_factor
    )
    return Sliding(window=self.sliding_window_size, rope=rope)


def _check(config: TransformerConfig) -> None:
  """Raises on a config that no model can have, naming the field to change."""
  sizes = ('num_embed', 'embed_dim', 'hidden_dim', 'num_heads', 'num_kv_heads')
  for name in (*sizes, 'head_dim'):
    value = vars(config)[name]
    if value < 1:
      raise ValueError(f'{name}={value} must be at least 1.')
  if config.num_heads % config.num_kv_heads:
    raise ValueError(
      f'num_heads={config.num_heads} is not a multiple of '
      f'num_kv_heads={config.num_kv_heads}: heads cannot share keys evenly.'
    )
  if config.head_dim % 2:
    raise ValueError(f'head_dim={config.head_dim} must be even for RoPE.')
  if not config.attention_types or not isinstance(
    config.attention_types, tuple
  ):
    raise ValueError(
      f'attention_types={config.attention_types!r} must be a tuple with one '
      'AttentionType per layer.'
    )
  if config.vocab_size is not None and config.vocab_size > config.num_embed:
    raise ValueError(
      f'vocab_size={config.vocab_size} is above num_embed={config.num_embed}, '
      'the rows of the table.'
    )
  if config.vision_encoder is not None:
    _siglip.check(config.vision_encoder)
  _check_parts(config)


def _check_parts(config: TransformerConfig) -> None:
  """Raises on parts of Gemma 3n and 4 that do not go together."""
  shared, layers = config.num_kv_shared_layers, config.num_layers
  if not 0 <= shared < layers:
    raise ValueError(
      f'num_kv_shared_layers={shared} must be at least 0 and below the '
      f'{layers} layers.'
    )
  dims, sparsity = config.hidden_dims, config.activation_sparsity
  if dims is not None and len(dims) != layers:
    raise ValueError(
      f'hidden_dims has {len(dims)} numbers for {layers} layers.'
    )
  if len(sparsity) > layers or not all(0 <= x < 1 for x in sparsity):
    raise ValueError(
      f'activation_sparsity={sparsity} must be numbers from 0 to below 1, for '
      f'at most {layers} layers.'
    )
  rows = config.per_layer_rows
  if rows is not None and not 1 <= rows <= config.num_embed:
    raise ValueError(
      f'per_layer_rows={rows} must be from 1 to num_embed={config.num_embed}.'
    )
  experts = config.experts
  if experts is not None and not 1 <= experts.top_k <= experts.num_experts:
    raise ValueError(
      f'top_k={experts.top_k} of experts must be from 1 to num_experts='
      f'{experts.num_experts}.'
    )
  if experts is not None and not config.use_post_ffw_norm:
    raise ValueError(
      'experts need use_post_ffw_norm=True: their sum is normed.'
    )
  if config.altup is not None and not config.per_layer_input_dim:
    raise ValueError(
      'altup needs per_layer_input_dim: only that moves the other streams.'
    )
