"""Which Hugging Face tensor is which parameter.

The layout is a table of rows, each with an inverse. Axes: V vocab, D model, F
hidden, n query or kv heads, h head_dim; of the vision encoder W width, P
patches, p q rows and columns of a patch, c channels.
"""

from collections.abc import Iterator
import dataclasses
import re

from gemma.gm.ckpts import _hf_config
from gemma.gm.ckpts import _hf_parts
from gemma.gm.ckpts import _hf_row
from gemma.gm.nn import _config
from gemma.gm.vision import _vit

Row = _hf_row.Row


def table(config: _config.TransformerConfig) -> Iterator[Row]:
  """All parameters of a model."""
  yield Row(
    'embedder/input_embedding',
    ('embed_tokens.weight',),
    rows=config.num_embed,
    padding=_hf_config.padding_rows(config),
  )
  yield Row('final_norm/scale', ('norm.weight',))
  yield from _hf_parts.model(config)
  for i, spec in enumerate(config.layers()):
    rows = (
      *_attention(spec, config),
      *_norms(spec),
      *_feed_forward(spec),
      *_hf_parts.layer(spec, config),
    )
    for row in rows:
      yield dataclasses.replace(
        row,
        path=f'layer_{i}/{row.path}',
        names=tuple(_hf_parts.full_name(i, name) for name in row.names),
      )
  if config.vision_encoder is not None:
    yield from _projector()
    yield from _vision(config.vision_encoder.siglip_encoder)


def _attention(
  spec: _config.LayerSpec, config: _config.TransformerConfig
) -> Iterator[Row]:
  n, k = spec.num_heads, spec.num_kv_heads
  split = '(n h) D -> n D h'
  query, key, value = (f'self_attn.{x}_proj' for x in 'qkv')
  own = spec.kv_source is None
  if spec.fused_qkv:
    yield Row('attn/qkv_einsum/w', (query, key, value), split, heads=n)
  else:
    yield Row('attn/q_einsum/w', (query,), split, heads=n)
  if own and spec.keys_as_values:
    yield Row('attn/k_einsum/w', (key,), split, heads=k)
  elif own and not spec.fused_qkv:
    yield Row('attn/kv_einsum/w', (key, value), split, heads=k)
  yield Row(
    'attn/attn_vec_einsum/w', ('self_attn.o_proj',), 'D (n h) -> n h D', heads=n
  )
  prefix = 'attn/_' if config.zero_centered_norms else 'attn/'
  if spec.qk_norm:
    yield Row(f'{prefix}query_norm/scale', ('self_attn.q_norm',))
  if spec.qk_norm and own:
    yield Row(f'{prefix}key_norm/scale', ('self_attn.k_norm',))


def _norms(spec: _config.LayerSpec) -> Iterator[Row]:
  yield Row('pre_attention_norm/scale', ('input_layernorm',))
  if not spec.post_attn_norm:
    # Gemma 1: the norm after attention is the one before the feed-forward.
    yield Row('pre_ffw_norm/scale', ('post_attention_layernorm',))
    return
  yield Row('post_attention_norm/scale', ('post_attention_layernorm',))
  if spec.experts is not None:  # It has other names for these.
    yield from _hf_parts.norms_of_experts()
    return
  yield Row('pre_ffw_norm/scale', ('pre_feedforward_layernorm',))
  yield Row('post_ffw_norm/scale', ('post_feedforward_layernorm',))


def _feed_forward(spec: _config.LayerSpec) -> Iterator[Row]:
  mlp = 'mlp' if spec.experts is None else 'mlp2'
  pattern = None if spec.ffw.gate_last else 'F D -> D F'
  gates = 'mlp.gate_proj', 'mlp.up_proj'
  yield Row(f'{mlp}/gating_einsum', gates, pattern)
  yield Row(f'{mlp}/linear', ('mlp.down_proj',), 'D F -> F D')


def _projector() -> Iterator[Row]:
  yield Row(
    'embedder/mm_input_projection/w',
    (f'{_PROJECTOR}mm_input_projection_weight',),
  )
  yield Row(
    'embedder/mm_soft_embedding_norm/scale',
    (f'{_PROJECTOR}mm_soft_emb_norm.weight',),
  )


def _vision(vit: _vit.ViTModel) -> Iterator[Row]:
  where = 'embeddings.position_embedding.weight'
  rows = [
    *_affine('embedding', 'embeddings.patch_embedding', 'W c p q -> p q c W'),
    Row('pos_embedding', (where,), '(n P) W -> n P W', heads=1),
    *_layer_norm('Transformer/encoder_norm', 'post_layernorm'),
  ]
  for i in range(vit.depth):
    block, layer = f'Transformer/encoderblock_{i}/', f'encoder.layers.{i}.'
    rows += _vision_block(block, layer, vit.num_heads)
  for row in rows:
    yield dataclasses.replace(
      row,
      path=f'vision_encoder/siglip_encoder/{row.path}',
      names=tuple(f'{_TOWER}{name}' for name in row.names),
    )


def _vision_block(block: str, layer: str, heads: int) -> Iterator[Row]:
  for i in range(2):
    yield from _layer_norm(f'{block}LayerNorm_{i}', f'{layer}layer_norm{i + 1}')
  attn = f'{block}MultiHeadDotProductAttention_0/'
  for name in ('query', 'key', 'value'):
    theirs = f'{layer}self_attn.{name[0]}_proj.'
    split, bias = '(n h) W -> W n h', '(n h) -> n h'
    yield Row(f'{attn}{name}/kernel', (f'{theirs}weight',), split, heads)
    yield Row(f'{attn}{name}/bias', (f'{theirs}bias',), bias, heads)
  theirs = f'{layer}self_attn.out_proj.'
  yield Row(
    f'{attn}out/kernel', (f'{theirs}weight',), 'W (n h) -> n h W', heads
  )
  yield Row(f'{attn}out/bias', (f'{theirs}bias',))
  for i in range(2):
    dense = f'{block}MlpBlock_0/Dense_{i}'
    yield from _affine(dense, f'{layer}mlp.fc{i + 1}', 'F W -> W F')


def _affine(path: str, name: str, pattern: str) -> Iterator[Row]:
  yield Row(f'{path}/kernel', (f'{name}.weight',), pattern)
  yield Row(f'{path}/bias', (f'{name}.bias',))


def _layer_norm(path: str, name: str) -> Iterator[Row]:
  yield Row(f'{path}/scale', (f'{name}.weight',))
  yield Row(f'{path}/bias', (f'{name}.bias',))


def unused(config: _config.TransformerConfig) -> set[str]:
  """Tensors that files may have in layers that read the keys of another."""
  return {
    f'layers.{i}.self_attn.{name}.weight'
    for i, spec in enumerate(config.layers())
    if spec.kv_source is not None
    for name in ('k_proj', 'v_proj', 'k_norm', 'v_norm')
  }


# Put before names by wrappers: of compilers, of trainers, of PEFT.
_WRAPPERS = re.compile(
  r'^((base_model\.model|module)\.)+|(?<![^.])(_orig_mod|_fsdp_wrapped_module)\.'
)
_TOWER, _PROJECTOR = 'vision_tower.', 'multi_modal_projector.'
_TEXT = re.compile(r'^(model\.)?(language_model\.)?(model\.)?')
_MEDIA = re.compile(
  r'^(model\.)?(vision_tower|multi_modal_projector|embed_vision|vision_embedder'
  r'|audio_tower|embed_audio)\.(vision_model\.)?'
)
# Buffers, and a head behind the vision encoder that Gemma does not use.
_IGNORED = re.compile(
  r'(rotary_emb\.|position_ids$|vision_tower\.(vision_model\.)?head\.)'
)
HEAD = 'lm_head.weight'


def is_media(name: str) -> bool:
  """Whether a tensor belongs to an encoder of images or audio."""
  return bool(_MEDIA.match(_unwrapped(name)))


def _unwrapped(name: str) -> str:
  """A name without what wrappers put before it, in any order."""
  while (plain := _WRAPPERS.sub('', name)) != name:
    name = plain
  return name


def plain_name(name: str) -> str | None:
  """A tensor's name without the prefixes that versions put before it.

  None for what holds no weights of the model.
  """
  name = _unwrapped(name)
  if _IGNORED.search(name):
    return None
  if is_media(name):
    return _MEDIA.sub(r'\2.', name)
  return _TEXT.sub('', name)


def stored_name(name: str, config: _config.TransformerConfig) -> str:
  """The name that published files have for a tensor of a `Row`."""
  if name.startswith(_TOWER):
    return name.replace(_TOWER, f'{_TOWER}vision_model.', 1)
  if name.startswith(_PROJECTOR):
    return name
  text = 'model.' if config.vision_encoder is None else 'language_model.model.'
  return f'{text}{name}'
