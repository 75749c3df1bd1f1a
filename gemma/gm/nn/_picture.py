"""A model as a picture (SVG): the stack of layers, and the inside of one."""

from collections.abc import Iterable
import dataclasses

from gemma.gm.nn import _config
from gemma.gm.nn import _summary
from gemma.gm.nn import _svg

_WIDTH, _MARGIN = 810, 30
_STACK_X, _STACK_WIDTH = 40, 260
_BLOCK_X, _BLOCK_WIDTH = 445, 320
_BOX = 34  # Height of a box.
_GAP = 14
_COLORS = {
  'embed': '#dbe7f6',
  'norm': '#eeeeee',
  'sliding': '#cfe8d5',
  'global': '#f6cf9b',
  'attention': '#f7d9dc',
  'ffw': '#e3d6f0',
}


@dataclasses.dataclass(frozen=True)
class _Box:
  text: str
  color: str


def picture(summary: _summary.Summary) -> _svg.Svg:
  """Draws a model, tokens at the bottom and logits at the top.

  Args:
    summary: From `summarize`.

  Returns:
    SVG text: write it to a file, or let a notebook show it.
  """
  config = summary.config
  layers = config.layers()
  left = _stack(config, layers)
  right = _block(config, layers[-1])
  height = 2 * _MARGIN + 40 + max(_height(left, layers), 13 * (_BOX + _GAP))
  parts = [
    _svg.text(_STACK_X, 34, summary.name, size=20, weight='bold'),
    _svg.text(_STACK_X, 56, f'{summary.size:,} parameters', size=13),
    *_draw_stack(left, layers, height - _MARGIN),
    *_draw_block(right, height - _MARGIN),
  ]
  return _svg.Svg(
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" '
    f'height="{height}" viewBox="0 0 {_WIDTH} {height}" '
    'font-family="Helvetica, Arial, sans-serif">\n'
    f'<rect width="{_WIDTH}" height="{height}" fill="white"/>\n'
    + '\n'.join(parts)
    + '\n</svg>\n'
  )


def _stack(
  config: _config.TransformerConfig, layers: Iterable[_config.LayerSpec]
) -> list[_Box]:
  """Boxes around the layers: below them, and above them from the third on."""
  cap, inputs = config.final_logit_softcap, 'tokens'
  if config.vision_encoder is not None:
    inputs += '; images through SigLIP'
  out = [
    _Box(inputs, 'norm'),
    _Box(f'embedding {config.num_embed:,} x {config.embed_dim:,}', 'embed'),
    _Box('RMSNorm', 'norm'),
    _Box('logits (embedding transposed)', 'embed'),
  ]
  if cap is not None:
    out.append(_Box(f'soft cap {cap:g}', 'norm'))
  return out


def _block(
  config: _config.TransformerConfig, spec: _config.LayerSpec
) -> list[_Box]:
  """The inside of a layer, from the bottom up."""
  heads = (
    f'{spec.num_heads} query, {spec.num_kv_heads} key and value heads '
    f'x {spec.head_dim}'
  )
  attention = [
    _Box('RMSNorm', 'norm'),
    _Box(f'attention: {heads}', 'attention'),
  ]
  if spec.qk_norm:
    attention.insert(1, _Box('RMSNorm of queries and keys, RoPE', 'norm'))
  else:
    attention.insert(1, _Box('RoPE', 'norm'))
  if spec.softcap is not None:
    attention.insert(2, _Box(f'soft cap {spec.softcap:g}', 'norm'))
  if spec.post_attn_norm:
    attention.append(_Box('RMSNorm', 'norm'))
  ffw = [
    _Box('RMSNorm', 'norm'),
    _Box(
      f'gated feed-forward {config.embed_dim:,} - {spec.ffw.hidden_dim:,} '
      f'- {config.embed_dim:,}',
      'ffw',
    ),
  ]
  if spec.post_ffw_norm:
    ffw.append(_Box('RMSNorm', 'norm'))
  plus = _Box('+', 'plus')
  return [*attention, plus, *ffw, plus]


def _bar(layers: Iterable[_config.LayerSpec]) -> float:
  """Height of one layer's bar, so that all fit."""
  return max(8.0, min(26.0, 560 / len(list(layers))))


def _height(boxes: list[_Box], layers: Iterable[_config.LayerSpec]) -> int:
  layers = list(layers)
  return int(len(boxes) * (_BOX + _GAP) + len(layers) * (_bar(layers) + 3) + 40)


def _draw_stack(
  boxes: list[_Box], layers: Iterable[_config.LayerSpec], bottom: float
) -> Iterable[str]:
  layers = list(layers)
  y = bottom
  for box in boxes[:2]:
    y -= _BOX + _GAP
    yield _rect(_STACK_X, y, _STACK_WIDTH, _BOX, box.color, box.text)
  y -= _GAP
  bar = _bar(layers)
  for i, spec in enumerate(layers):
    y -= bar + 3
    color = 'global' if spec.window is None else 'sliding'
    label = f'{i}' if bar >= 14 else ''
    yield _rect(_STACK_X, y, _STACK_WIDTH, bar, color, label)
  for spec in reversed(list(dict.fromkeys(layers))):
    first = layers.index(spec)
    middle = bottom - 2 * (_BOX + _GAP) - _GAP - (first + 1) * (bar + 3)
    count = layers.count(spec)
    text = _summary.describe(spec).split(',')[0].replace(' layer', '')
    window = '' if spec.window is None else f' {spec.window:,}'
    yield _svg.text(
      _STACK_X + _STACK_WIDTH + 8,
      middle + bar / 2 + 4,
      f'{count} x {text}{window}',
      size=12,
    )
  y -= _GAP
  for box in boxes[2:]:
    y -= _BOX + _GAP
    yield _rect(_STACK_X, y, _STACK_WIDTH, _BOX, box.color, box.text)


def _draw_block(boxes: list[_Box], bottom: float) -> Iterable[str]:
  x, y = _BLOCK_X + 24, bottom - 30
  middle = x + _BLOCK_WIDTH / 2
  side, start = _BLOCK_X + 6, y
  yield _svg.text(
    _BLOCK_X, bottom, 'inside one layer, from the bottom up', size=12
  )
  for box in boxes:
    top = y - _GAP - (_BOX if box.text != '+' else 20)
    yield _line(middle, y, middle, y - _GAP)
    if box.text == '+':
      # The residual stream goes around everything since the last sum.
      yield _circle(middle, top + 10)
      turn = start - _GAP / 2
      yield _path(middle, turn, side, top + 10, middle - 10)
      start = top
    else:
      yield _rect(x, top, _BLOCK_WIDTH, _BOX, box.color, box.text)
    y = top
  yield _line(middle, y, middle, y - _GAP)


def _rect(
  x: float, y: float, width: float, height: float, color: str, text: str
) -> str:
  fill = _COLORS[color]
  label = ''
  if text:
    label = _svg.text(
      x + width / 2, y + height / 2 + 4, text, size=12, anchor='middle'
    )
  return (
    f'<rect x="{x:g}" y="{y:.1f}" width="{width:g}" height="{height:.1f}" '
    f'rx="4" fill="{fill}" stroke="#777" stroke-width="0.8"/>{label}'
  )


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
  return _svg.line(x1, y1, x2, y2, '#555', width=1.2)


def _circle(x: float, y: float) -> str:
  plus = _svg.text(x, y + 5, '+', size=15, anchor='middle')
  return (
    f'<circle cx="{x:g}" cy="{y:.1f}" r="10" fill="white" stroke="#555"/>{plus}'
  )


def _path(x: float, y: float, side: float, top: float, end: float) -> str:
  return (
    f'<path d="M {x:g} {y:.1f} H {side:g} V {top:.1f} H {end:g}" fill="none" '
    'stroke="#555" stroke-width="1.2"/>'
  )
