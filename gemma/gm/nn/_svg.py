"""Parts of pictures in SVG."""

import html


class Svg(str):
  """SVG text that a notebook shows as a picture."""

  def _repr_svg_(self) -> str:
    return str(self)


def line(
  x1: float, y1: float, x2: float, y2: float, color: str, *, width: float = 1
) -> str:
  """A line between two points."""
  return (
    f'<line x1="{x1:g}" y1="{y1:.1f}" x2="{x2:g}" y2="{y2:.1f}" '
    f'stroke="{color}" stroke-width="{width:g}"/>'
  )


def text(
  x: float,
  y: float,
  text: str,
  *,
  size: int,
  weight: str = 'normal',
  anchor: str = 'start',
) -> str:
  """A line of text; `x` is where its anchor is."""
  return (
    f'<text x="{x:g}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" '
    f'text-anchor="{anchor}" fill="#222">{html.escape(text)}</text>'
  )
