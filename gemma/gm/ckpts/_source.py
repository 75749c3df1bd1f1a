"""A parameter that is still in the files of a Hugging Face folder.

A few rows at a time are read and put where they belong, whatever the order and
the dtype of the result: beside it, next to nothing is in memory.
"""

from collections.abc import Iterator
import dataclasses
from typing import Any

import numpy as np

from gemma.gm.ckpts import _hf_row
from gemma.gm.ckpts import _safetensors
from gemma.peft import _quantization

_PIECE = 2**22  # Bytes that are read at a time.


@dataclasses.dataclass(frozen=True)
class Source:
  """One parameter.

  Attributes:
    row: How it is made.
    tensors: What of.
    shape: Its shape.
  """

  row: _hf_row.Row
  tensors: list[_safetensors.Tensor]
  shape: tuple[int, ...]

  @property
  def dtype(self) -> np.dtype:
    return self.tensors[0].dtype

  @property
  def nbytes(self) -> int:
    return sum(tensor.nbytes for tensor in self.tensors)

  def astype(self, dtype: Any) -> np.ndarray:
    """Reads it.

    By NumPy: to compile a program for each shape takes longer than to copy.
    """
    out = _safetensors.aligned(self.shape, dtype)
    for tensor, place in zip(self.tensors, self._places(out), strict=True):
      for rows, piece in _pieces(tensor, place):
        _copy(place[rows], piece.reshape(place[rows].shape))
    return out

  def quantize(
    self, summed: tuple[int, ...], method: str, dtype: Any
  ) -> tuple[np.ndarray, np.ndarray]:
    """Reads it as integers.

    Args:
      summed: Axes that are summed over when it is applied.
      method: `int8` or `int4`.
      dtype: Dtype of the scales.

    Returns:
      The integers, and the scales, in which the `summed` axes are 1.
    """
    kernel = _safetensors.aligned(
      self.shape, _quantization.integers_of(method)[0]
    )
    ones = [1 if i in summed else size for i, size in enumerate(self.shape)]
    scale = np.empty(ones, dtype)
    axes = [i - (len(self.tensors) > 1) for i in summed]  # Of one tensor's.
    if self.row.order is not None:
      axes = [self.row.order.index(i) for i in axes]
    for tensor, *places in zip(
      self.tensors, self._places(kernel), self._places(scale), strict=True
    ):
      for rows, piece in _pieces(tensor, places[0]):
        x = piece.astype(dtype).reshape(places[0][rows].shape)
        found = _quantization.quantize_array(x, tuple(axes), method)
        for place, part in zip(places, found, strict=True):
          place[rows] = part
    return kernel, scale

  def _places(self, out: np.ndarray) -> list[np.ndarray]:
    """Views of `out`, one for each tensor, its rows first."""
    parts = list(out) if len(self.tensors) > 1 else [out]
    return [self.row.transpose(part) for part in parts]


def _pieces(
  tensor: _safetensors.Tensor, place: np.ndarray
) -> Iterator[tuple[Any, np.ndarray]]:
  """Some rows of `place` at a time, and what belongs there."""
  if not place.ndim:
    yield (), tensor.read()
    return
  count = len(place)
  each = tensor.shape[0] // count if place.ndim > tensor.ndim else 1
  step = max(1, _PIECE * count // max(tensor.nbytes, 1))
  if each == 1:
    tensor = tensor[:count]  # Rows behind the vocabulary are left.
  for start in range(0, count, step):
    stop = min(start + step, count)
    yield slice(start, stop), tensor[start * each : stop * each].read()


def _copy(out: np.ndarray, x: np.ndarray) -> None:
  """Copies; as plain numbers where it can, which NumPy knows best."""
  if out.dtype == x.dtype:
    raw = np.dtype(f'u{out.dtype.itemsize}')
    out, x = out.view(raw), x.view(raw)
  np.copyto(out, x, casting='unsafe')
