"""The logical axes of every parameter, by its path.

Letters are those of `math._partition.LETTERS`; `_` is never divided.
"""

from collections.abc import Iterable
import re
from typing import Any
from typing import NamedTuple

import jax

from gemma.gm.math import _partition

Path = str  # With slashes, as `layer_0/attn/q_einsum/w`.


class Weight(NamedTuple):
  """What the paths of some weights look like, and what their axes are.

  Attributes:
    path: Regular expression for the end of the path, without a last `w`.
    axes: A letter for each axis.
    summed: Those over which a product with the weight sums.
  """

  path: str
  axes: str
  summed: str = ''


# The first that matches and has as many axes. One axis more, in front, is that
# of layers which are compiled once.
WEIGHTS = (
  Weight('embedder/input_embedding', 'VD', 'D'),
  Weight('embedder/per_layer_(embeddings|input_embedding)', 'V_D'),
  Weight('embedder/per_layer_(model|input)_projection', 'D__', 'D'),
  Weight('embedder/(mm|audio)_input_projection', '_D', '_'),
  Weight('q_einsum', 'NDH', 'D'),
  Weight('qkv_einsum', '_NDH', 'D'),
  Weight('kv_einsum', '_KDH', 'D'),
  Weight('k_einsum', 'KDH', 'D'),
  Weight('attn_vec_einsum', 'NHD', 'NH'),
  Weight('mlp2?/gating_einsum(?!/w)', '_FD', 'D'),  # Or `_DF`, see `axes_of`.
  Weight('mlp2?/linear(?!/w)', 'FD', 'F'),
  Weight('mlp/gating_einsum/w', 'E_FD', 'D'),  # Of experts.
  Weight('mlp/linear/w', 'EFD', 'F'),
  Weight('router_logits', 'D_', 'D'),
  Weight('laurel/linear_left', 'D_', 'D'),
  Weight('laurel/linear_right', '_D', '_'),
  Weight('per_layer_input_gate', 'D_', 'D'),
  Weight('per_layer_projection', '_D', '_'),
  Weight(r'altup_(un)?(embed_)?projection_\d+(/\w+)?', 'D_', 'D'),
  # Encoders, by the width alone; heads and hidden layers are few.
  Weight(r'vision_encoder/.*(query|key|value)/kernel', 'D__', 'D'),
  Weight(r'vision_encoder/.*out/kernel', '__D'),
  Weight(r'vision_encoder/.*Dense_0/kernel', 'D_', 'D'),
  Weight(r'vision_encoder/.*Dense_1/kernel', '_D'),
  Weight(r'vision_encoder/.*embedding/kernel', '___D'),
  Weight(r'vision_encoder/.*pos_embedding', '__D'),
)
# Too small to be divided: it would cost more than it saves.
_SMALL = re.compile(
  r'.*(norm(_layer)?/(scale|bias)|LayerNorm_\d+/\w+|bias|_scale|_coefs'
  r'|(modality_router|router_norm)(/\w+)?|/m)'
)
# What a layer keeps of its tokens.
_CACHE = (
  (re.compile(r'(.*/)?layers/layer_\d+/[kv]'), 'B_KH'),
  (re.compile(r'(.*/)?length'), '_'),
)

# Beside a weight `attn/q_einsum/w`, `attn/q_einsum/_IntEinsum_0/kernel` stands
# for it; adapters are called alike. Where a weight is a leaf of its module, its
# name takes the place of the 0, as does that of a part of it.
_STAND_IN = re.compile(
  r'(?P<module>.*)/_(?P<kind>Int|LoRA)(?P<of>Einsum|Embedder)_(?P<name>\w+)/'
  r'(lora/)?(?P<leaf>\w+)'
)
_PARTS = {
  'k_proj': '',
  'v_proj': '',
  'gate_proj': '/gating_einsum',
  'up_proj': '/gating_einsum',
}


def axes_of(
  path: Path, shape: tuple[int, ...], widths: frozenset[int] = frozenset()
) -> str | None:
  """Letters for the axes of a leaf; None if its path is not known.

  Args:
    path: Its path, in whatever the parameters are in (states of optimizers).
    shape: Its shape.
    widths: Widths of the model, as `widths_of` finds them: they tell which axis
      of `gating_einsum` is which.
  """
  ndim = len(shape)
  if not ndim or not path:  # A single array is rows of a batch.
    return 'B'.ljust(ndim, '_')[:ndim]
  for pattern, axes in _CACHE:
    if pattern.fullmatch(path):
      return axes
  letters = _letters(path, ndim)
  if letters is None:
    return '_' * ndim if _SMALL.fullmatch(path) else None
  if len(letters) == ndim - 1:
    letters = f'_{letters}'
  if len(letters) != ndim:  # Sums over some axes, as optimizers keep them.
    return '_' * ndim
  is_gating = 'gating_einsum' in path and letters.endswith('FD')
  if is_gating and _is_width(shape[-2], shape[-1], widths):
    return f'{letters[:-2]}DF'
  return letters


def widths_of(leaves: Iterable[tuple[Path, Any]]) -> frozenset[int]:
  """Widths of the residual stream that the shapes of a tree tell."""
  last = re.compile(
    r'(.*/)?(mlp2?/linear|attn_vec_einsum/w|embedder/input_embedding'
    r'|(ffw2?|attention|final)_norm/scale)'
  )
  return frozenset(x.shape[-1] for path, x in leaves if last.fullmatch(path))


def leaves_of(tree: Any) -> list[tuple[Path, Any]]:
  """The leaves of any tree, with their paths."""
  flat = jax.tree_util.tree_leaves_with_path(tree)
  return [
    (jax.tree_util.keystr(path, simple=True, separator='/'), leaf)
    for path, leaf in flat
  ]


def name_of(letter: str) -> str:
  """The logical axis of a letter."""
  return _partition.LETTERS.get(letter, '-')


def _letters(path: Path, ndim: int) -> str | None:
  """Those of a weight, or of what stands for it or beside it."""
  match = _STAND_IN.fullmatch(path)
  if match is None:
    return _of_weight(path, ndim)
  found = match.groupdict()
  weight, name = found['module'], found['name']
  part = name in _PARTS
  if name == '0':
    weight += '/w' if found['of'] == 'Einsum' else '/input_embedding'
  else:
    weight += _PARTS.get(name, f'/{name}')
  if found['kind'] == 'Int':
    return _of_weight(weight, ndim)
  return _of_adapter(weight, found['leaf'], part=part)


def _of_weight(path: Path, ndim: int) -> str | None:
  rows = [row for row in WEIGHTS if _matches(row, path)]
  exact = [row.axes for row in rows if len(row.axes) in (ndim, ndim - 1)]
  if exact:
    return exact[0]
  return rows[0].axes if rows else None


def _of_adapter(path: Path, leaf: str, *, part: bool) -> str | None:
  """Those of a factor, one of whose axes is the rank."""
  row = next((row for row in WEIGHTS if _matches(row, path)), None)
  if row is None or leaf not in 'ab':
    return None
  axes = row.axes[1:] if part else row.axes
  if leaf == 'a':
    return ''.join(x for x in axes if x in row.summed) + '_'
  return '_' + ''.join(x for x in axes if x not in row.summed)


def _matches(row: Weight, path: Path) -> bool:
  return re.fullmatch(rf'(.*/)?{row.path}(/w)?', path) is not None


def _is_width(first: int, second: int, widths: frozenset[int]) -> bool:
  """Whether the first of two sizes is the width of the model."""
  if (first in widths) != (second in widths):
    return first in widths
  return first < second
