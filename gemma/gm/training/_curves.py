"""What a run logged, as a picture (SVG): a small chart for each number."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import math

from gemma.gm.nn import _svg
from gemma.gm.training import _metrics

Svg = _svg.Svg
Points = list[tuple[float, float]]  # Step, value.

_WIDTH, _HEIGHT = 400, 230  # Of a chart, with what is around it.
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 24, 34, 30
_COLORS = '#2f6fb5', '#d1495b', '#2e8b57', '#b07c1e', '#7a4fa3'
_MOST = 300  # Points of a line: more are not seen.
_SMOOTH = 0.03  # Of a line, as a share of its points.
_FEW = 30  # Points that are shown as they are.


def draw_curves(rows: Iterable[Mapping[str, float]]) -> Svg:
  """Draws a chart for each number over the steps; losses share one.

  ```python
  >>> from gemma import gm
  >>> rows = [{'step': n, 'loss': 4.0 / n} for n in range(1, 50)]
  >>> gm.training.draw_curves(rows).count('<polyline')
  2

  ```

  Args:
    rows: As in `Run.rows`; `step` in each, and any others where they are known.

  Returns:
    SVG text: write it to a file, or let a notebook show it.
  """
  lines = _lines(rows)
  charts: dict[str, dict[str, Points]] = {}
  for name, points in lines.items():
    title = 'loss' if name.endswith('loss') else name
    charts.setdefault(title, {})[name] = points
  steps = [x for points in lines.values() for x, _ in points] or [0.0]
  xs = _ticks(min(steps), max(steps), whole=True)
  width = 2 * _WIDTH if len(charts) > 1 else _WIDTH
  height = max(1, math.ceil(len(charts) / 2)) * _HEIGHT
  parts = [
    f'<g transform="translate({i % 2 * _WIDTH} {i // 2 * _HEIGHT})">\n'
    + '\n'.join(_chart(title, chart, xs))
    + '\n</g>'
    for i, (title, chart) in enumerate(charts.items())
  ]
  return Svg(
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" '
    f'height="{height}" viewBox="0 0 {width} {height}" '
    'font-family="Helvetica, Arial, sans-serif">\n'
    f'<rect width="{width}" height="{height}" fill="white"/>\n'
    + '\n'.join(parts)
    + '\n</svg>\n'
  )


def _lines(rows: Iterable[Mapping[str, float]]) -> dict[str, Points]:
  """The points of each number; without what cannot be drawn."""
  out: dict[str, Points] = {}
  for row in rows:
    for name, value in row.items():
      if name not in _metrics.OWN and math.isfinite(value):
        out.setdefault(name, []).append((row[_metrics.STEP], value))
  return {name: _thinned(points) for name, points in out.items()}


def _thinned(points: Points) -> Points:
  """At most `_MOST` points, each the mean of its neighbours."""
  size = math.ceil(len(points) / _MOST)
  groups = [points[i : i + size] for i in range(0, len(points), size)]
  return [(_mean(x for x, _ in g), _mean(y for _, y in g)) for g in groups]


def _smoothed(points: Points) -> Points:
  """The same, with each value the mean of as many on both sides."""
  last, most = len(points) - 1, max(1, round(_SMOOTH * len(points)))
  out: Points = []
  for i, (x, _) in enumerate(points):
    half = min(most, i, last - i)
    out.append((x, _mean(y for _, y in points[i - half : i + half + 1])))
  return out


def _mean(values: Iterable[float]) -> float:
  values = [*values]
  return sum(values) / len(values)


def _chart(
  title: str, lines: Mapping[str, Points], xs: Sequence[float]
) -> Iterator[str]:
  """A chart with its axes, at the origin."""
  values = [y for line in lines.values() for _, y in line]
  ys = _ticks(min(values), max(values))
  across = _Scale(xs, _LEFT, _WIDTH - _RIGHT)
  up = _Scale(ys, _HEIGHT - _BOTTOM, _TOP)
  yield _svg.text(_LEFT, 20, title.replace('_', ' '), size=13, weight='bold')
  for y in ys:
    yield _svg.line(_LEFT, up(y), _WIDTH - _RIGHT, up(y), '#e4e4e4')
    yield _svg.text(_LEFT - 6, up(y) + 4, _label(y, ys), size=11, anchor='end')
  for x in xs:
    label = _label(x, xs)
    yield _svg.text(across(x), _HEIGHT - 12, label, size=11, anchor='middle')
  yield _svg.line(_LEFT, up(ys[0]), _WIDTH - _RIGHT, up(ys[0]), '#888')
  for i, (name, line) in enumerate(lines.items()):
    color = _COLORS[i % len(_COLORS)]
    if len(line) > _FEW:
      yield _polyline(line, across, up, color, opacity=0.3)
      yield _polyline(_smoothed(line), across, up, color)
    else:
      yield _polyline(line, across, up, color)
      yield from (_dot(across(x), up(y), color) for x, y in line)
    if len(lines) > 1:
      yield from _legend(i, name, color)


class _Scale:
  """From numbers to places."""

  def __init__(self, ticks: Sequence[float], first: float, last: float):
    """The first tick is at one place, the last at the other."""
    self._low, self._first = ticks[0], first
    self._factor = (last - first) / (ticks[-1] - ticks[0])

  def __call__(self, value: float) -> float:
    return self._first + (value - self._low) * self._factor


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
  """Round numbers, 3 to 7 of them, from below the lowest to above the highest.

  All are multiples of 1, 2 or 5 times a power of ten, and of 1 if `whole`.
  """
  if high == low:
    low, high = (low - 1, high + 1) if low <= 0 else (0.0, 2 * high)
  rough = max((high - low) / 5, whole)
  power = 10.0 ** math.floor(math.log10(rough))
  step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough * 0.999)
  first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
  return [n * step for n in range(first, last + 1)]


def _label(value: float, ticks: Sequence[float]) -> str:
  """A number with as many digits as tell the ticks apart."""
  step = ticks[1] - ticks[0]
  largest = max(abs(ticks[0]), abs(ticks[-1]))
  if largest < 1e-2 or largest >= 1e6:
    digits = max(0, math.floor(math.log10(largest) - math.log10(step) + 1e-9))
    return f'{value:.{digits}e}' if value else '0'
  return f'{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}'


def _legend(i: int, name: str, color: str) -> Iterator[str]:
  y = _TOP + 10 + 16 * i
  end = _WIDTH - _RIGHT
  yield _svg.line(end - 18, y, end, y, color, width=2.5)
  yield _svg.text(
    end - 24, y + 4, name.replace('_', ' '), size=11, anchor='end'
  )


def _polyline(
  points: Points,
  across: _Scale,
  up: _Scale,
  color: str,
  *,
  opacity: float = 1.0,
) -> str:
  places = ' '.join(f'{across(x):.1f},{up(y):.1f}' for x, y in points)
  return (
    f'<polyline points="{places}" fill="none" stroke="{color}" '
    f'stroke-width="1.6" stroke-opacity="{opacity:g}"/>'
  )


def _dot(x: float, y: float, color: str) -> str:
  return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{color}"/>'
