"""What a model is made of, counted: tables and totals."""

from collections.abc import Iterator
import dataclasses
import math
from typing import Any

from flax import traverse_util
import jax.numpy as jnp

from gemma.gm.nn import _config
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

  def totals(self) -> Iterator[tuple[str, str]]:
    """Label and value of each total."""
    config = self.config
    yield 'Parameters', f'{self.size:,}'
    yield 'in the embedding table', f'{self.embedding_size:,}'
    yield 'elsewhere', f'{self.size - self.embedding_size:,}'
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
    yield 'Query heads', f'{config.num_heads} x {config.head_dim}'
    yield 'Key and value heads', f'{config.num_kv_heads} x {config.head_dim}'

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
  params = _transformer.param_shapes(model)
  layers = model.config.layers()
  groups = [Group('Embedder', _rows(params['embedder'], 'embedder'))]
  for spec in dict.fromkeys(layers):
    same = [i for i, other in enumerate(layers) if other == spec]
    rows = _rows(params[f'layer_{same[0]}'], '', layers=len(same))
    groups.append(Group(f'{len(same)} x {describe(spec)}', rows))
  groups.append(Group('Head', _rows(params['final_norm'], 'final_norm')))
  if model.config.vision_encoder is not None:
    vision = params['vision_encoder']['siglip_encoder']
    groups += _vision_groups(vision, model.config.vision_encoder.siglip_encoder)
  return Summary(name or type(model).__name__, model.config, tuple(groups))


def describe(spec: _config.LayerSpec) -> str:
  """A layer in a few words."""
  match spec.attention:
    case _config.Sliding(window=window, rope=rope):
      kind = f'sliding layer, window {window:,}'
    case _config.Full(rope=rope):
      kind = 'global layer'
  out = f'{kind}, RoPE base {rope.base:,.0f}'
  return out + (f' / {rope.scale_factor:g}' if rope.scale_factor != 1 else '')


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
