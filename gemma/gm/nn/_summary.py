"""What a model is made of, counted: tables and totals."""

from collections.abc import Iterator
import dataclasses
import math
from typing import Any

from flax import traverse_util
import jax.numpy as jnp

from gemma.gm.nn import _config
from gemma.gm.nn import _scan
from gemma.gm.nn import _shapes
from gemma.gm.nn import _transformer
from gemma.gm.vision import _vit


@dataclasses.dataclass(frozen=True)
class Row:
  """One parameter, or one that stands in several equal layers.

  Attributes:
    path: The parameter, without its layer.
    shape: Its shape.
    dtype: Its dtype.
    layers: In how many layers it stands.
  """

  path: str
  shape: tuple[int, ...]
  dtype: Any
  layers: int = 1

  @property
  def size(self) -> int:
    return math.prod(self.shape) * self.layers

  @property
  def nbytes(self) -> int:
    return self.size * jnp.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class Group:
  """Parameters that belong together.

  Attributes:
    title: What they are.
    rows: The parameters.
  """

  title: str
  rows: tuple[Row, ...]


@dataclasses.dataclass(frozen=True)
class Summary:
  """The parts of a model and what they weigh. Prints as a table.

  Attributes:
    name: Name of the model.
    config: Its config.
    groups: Its parameters, equal layers together.
  """

  name: str
  config: _config.TransformerConfig
  groups: tuple[Group, ...]

  @property
  def size(self) -> int:
    """Number of parameters."""
    return sum(row.size for group in self.groups for row in group.rows)

  @property
  def nbytes(self) -> int:
    """Bytes of the parameters."""
    return sum(row.nbytes for group in self.groups for row in group.rows)

  @property
  def embedding_size(self) -> int:
    """Parameters in the embedding table, padding rows included."""
    return self.config.num_embed * self.config.embed_dim

  @property
  def per_layer_size(self) -> int:
    """Parameters in the tables that give each layer its own input."""
    config = self.config
    width = config.num_layers * config.per_layer_input_dim
    return config.num_embed * width

  def totals(self) -> Iterator[tuple[str, str]]:
    """Label and value of each total."""
    config = self.config
    yield 'Parameters', f'{self.size:,}'
    yield 'in the embedding table', f'{self.embedding_size:,}'
    tables = self.per_layer_size
    if tables:
      yield 'in the tables of the layers', f'{tables:,}'
    yield 'elsewhere', f'{self.size - self.embedding_size - tables:,}'
    if config.vocab_size is not None and config.vocab_size < config.num_embed:
      rows = config.num_embed - config.vocab_size
      spare = rows * config.embed_dim
      yield f'without {rows} rows of padding', f'{self.size - spare:,}'
      yield (
        f'of these in {config.vocab_size:,} rows of embeddings',
        f'{self.embedding_size - spare:,}',
      )
    gib, mib = self.nbytes / 2**30, self.nbytes / 2**20
    near = f'{gib:.2f} GiB' if gib >= 1 else f'{mib:.2f} MiB'
    yield 'Bytes', f'{self.nbytes:,} ({near})'
    yield 'Width', f'{config.embed_dim:,}'
    yield 'Layers', f'{config.num_layers}'
    heads: dict[tuple[int, int, int], str] = {}
    for spec in config.layers():
      sizes = spec.num_heads, spec.num_kv_heads, spec.head_dim
      heads.setdefault(sizes, 'global' if spec.window is None else 'sliding')
    for (queries, keys, width), kind in heads.items():
      where = f', {kind} layers' if len(heads) > 1 else ''
      yield f'Query heads{where}', f'{queries} x {width}'
      yield f'Key and value heads{where}', f'{keys} x {width}'

  def __str__(self) -> str:
    lines = [self.name]
    paths = [row.path for group in self.groups for row in group.rows]
    width = max(32, *map(len, paths))
    for group in self.groups:
      lines += ['', group.title]
      lines += [_line(row, width) for row in group.rows]
    lines += ['']
    lines += [f'{label:<50}{value:>28}' for label, value in self.totals()]
    return '\n'.join(lines)


def summarize(model: _transformer.Transformer, name: str = '') -> Summary:
  """Counts a model's parameters without making them.

  ```python
  >>> from gemma import gm
  >>> summary = gm.nn.summarize(gm.nn.Gemma3_1B())
  >>> f'{summary.size:,}'
  '999,885,952'

  ```

  Args:
    model: The model.
    name: What to call it; by default its class.
  """
  params = _scan.unstack_layers(_shapes.param_shapes(model))
  layers = model.config.layers()
  groups = [Group('Embedder', _rows(params.pop('embedder'), 'embedder'))]
  for spec in dict.fromkeys(layers):
    same = [f'layer_{i}' for i, other in enumerate(layers) if other == spec]
    first, *_ = [params.pop(name) for name in same]
    rows = _rows(first, '', layers=len(same))
    groups.append(Group(f'{len(same)} x {describe(spec)}', rows))
  vision = params.pop('vision_encoder', None)
  groups.append(Group('Around the layers', _rows(params, '')))
  if model.config.vision_encoder is not None:
    vit = model.config.vision_encoder.siglip_encoder
    groups += _vision_groups(vision['siglip_encoder'], vit)
  return Summary(name or type(model).__name__, model.config, tuple(groups))


def describe(spec: _config.LayerSpec) -> str:
  """A layer in a few words."""
  match spec.attention:
    case _config.Sliding(window=window, rope=rope):
      kind = f'sliding layer, window {window:,}'
    case _config.Full(rope=rope):
      kind = 'global layer'
  rope_text = f'RoPE base {rope.base:,.0f}'
  if rope.scale_factor != 1:
    rope_text += f' / {rope.scale_factor:g}'
  parts = [kind, rope_text]
  if rope.proportion != 1:
    parts.append(f'{rope.proportion:.0%} of pairs turned')
  if spec.keys_as_values:
    parts.append('keys as values')
  if spec.kv_source is not None:
    parts.append(f'keys of layer {spec.kv_source}')
  if spec.ffw.sparsity:
    parts.append(f'{spec.ffw.sparsity:.0%} of gates cut')
  if spec.experts is not None:
    parts.append(f'{spec.experts.top_k} of {spec.experts.num_experts} experts')
  return ', '.join(parts)


def _vision_groups(
  params: dict[str, Any], vit: _vit.ViTModel
) -> Iterator[Group]:
  """The layers of a vision encoder, and what is around them."""
  layers = [
    params['Transformer'].pop(f'encoderblock_{i}') for i in range(vit.depth)
  ]
  yield Group('Vision encoder', _rows(params, ''))
  yield Group(
    f'{vit.depth} x vision layer', _rows(layers[0], '', layers=vit.depth)
  )


def _rows(params: Any, prefix: str, layers: int = 1) -> tuple[Row, ...]:
  flat = traverse_util.flatten_dict(params)
  prefixes = (prefix,) if prefix else ()
  return tuple(
    Row('/'.join((*prefixes, *path)), leaf.shape, leaf.dtype, layers)
    for path, leaf in flat.items()
  )


def _line(row: Row, width: int) -> str:
  shape = ' x '.join(f'{n:,}' for n in row.shape)
  return (
    f'  {row.path:<{width}}{shape:>22}{row.size:>18,}'
    f'{row.nbytes / 2**20:>12,.2f} MiB'
  )
