"""Hugging Face tensors of what Gemma 3n and 4 add to the layers before them.

Axes: V vocab, D model, N layers, P width of a per-layer input, I J streams, R
rank, E experts, F hidden, G gate and up; `n` is the number in `Row.heads`.
"""

from collections.abc import Iterator

from gemma.gm.ckpts import _hf_row
from gemma.gm.nn import _config

Row = _hf_row.Row
# Tensors whose names do not end with `.weight`.
_BARE = (
  'altup.correct_output_scale',
  'layer_scalar',
  'experts.gate_up_proj',
  'experts.down_proj',
  'router.scale',
  'router.per_expert_scale',
)


def full_name(layer: int, name: str) -> str:
  """The name of a tensor of a layer."""
  return f'layers.{layer}.{name}' + ('' if name in _BARE else '.weight')


def model(config: _config.TransformerConfig) -> Iterator[Row]:
  """Tensors beside the layers."""
  if config.per_layer_input_dim:
    yield from _per_layer_inputs(config)
  count = 0 if config.altup is None else config.altup.num_inputs - 1
  for ours, theirs in (
    ('altup_projection', 'altup_projections'),
    ('altup_unembed_projection', 'altup_unembed_projections'),
  ):
    for i in range(count):
      path, name = f'{ours}_{i}/{ours}_{i}', f'{theirs}.{i}.weight'
      yield Row(path, (name,), 'J D -> D J')


def layer(
  spec: _config.LayerSpec, config: _config.TransformerConfig
) -> Iterator[Row]:
  """Tensors of one layer."""
  if config.altup is not None:
    yield from _altup(config.altup)
  if spec.laurel_rank:
    yield _map('laurel/linear_left', 'laurel.linear_left')
    yield _map('laurel/linear_right', 'laurel.linear_right')
    yield Row('post_laurel_norm/scale', ('laurel.post_laurel_norm',))
  if config.per_layer_input_dim:
    within = '' if config.altup is None else 'per_layer_mapping/'
    for name in ('per_layer_input_gate', 'per_layer_projection'):
      yield _map(within + name, name)
    name = 'post_per_layer_input_norm'
    yield Row(f'{within}{name}/scale', (name,))
  if spec.experts is not None:
    yield from _experts()
  if spec.layer_scalar:
    yield Row('skip_scale', ('layer_scalar',))


def norms_of_experts() -> Iterator[Row]:
  """The norms around a feed-forward that has experts beside it."""
  before, after = 'pre_feedforward_layernorm', 'post_feedforward_layernorm'
  yield Row('pre_ffw2_norm/scale', (before,))
  yield Row('post_ffw2_norm/scale', (f'{after}_1',))
  yield Row('pre_ffw_norm/scale', (f'{before}_2',))
  yield Row('post_ffw1_norm/scale', (f'{after}_2',))
  yield Row('post_ffw_norm/scale', (after,))


def _per_layer_inputs(config: _config.TransformerConfig) -> Iterator[Row]:
  layers = config.num_layers
  table, projection = (
    ('per_layer_embeddings', 'per_layer_model_projection')
    if config.altup is None
    else ('per_layer_input_embedding', 'per_layer_input_projection')
  )
  name = ('embed_tokens_per_layer.weight',)
  yield Row(f'embedder/{table}', name, 'V (n P) -> V n P', heads=layers)
  name = ('per_layer_model_projection.weight',)
  yield Row(f'embedder/{projection}/w', name, '(n P) D -> D n P', heads=layers)
  norm = 'per_layer_projection_norm'
  yield Row(f'embedder/{norm}/scale', (f'{norm}.weight',))


def _altup(altup: _config.AltUp) -> Iterator[Row]:
  yield Row(
    'altup/prediction_coefs',
    ('altup.prediction_coefs',),
    '(n J) P -> P n J',
    heads=altup.num_inputs,
  )
  yield Row('altup/correction_coefs', ('altup.correction_coefs',), 'I P -> P I')
  yield _map('altup/modality_router', 'altup.modality_router')
  yield Row('altup/router_norm_layer/scale', ('altup.router_norm',))
  yield Row('altup/correct_output_scale', ('altup.correct_output_scale',))


def _experts() -> Iterator[Row]:
  gating, linear = ('experts.gate_up_proj',), ('experts.down_proj',)
  yield Row('mlp/gating_einsum/w', gating, 'E (n F) D -> E n F D', heads=2)
  yield Row('mlp/linear/w', linear, 'E D F -> E F D')
  yield _map('mlp/router_logits', 'router.proj')
  yield Row('mlp/router_scale', ('router.scale',))
  yield Row('mlp/per_expert_scale', ('router.per_expert_scale',))


def _map(path: str, name: str) -> Row:
  """A matrix, which they store as outputs by inputs."""
  return Row(f'{path}/w', (name,), 'o i -> i o')
