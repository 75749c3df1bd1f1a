"""Batches of examples, in an order that can be taken up again."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from gemma.gm.data import _assemble
from gemma.gm.data import _example
from gemma.gm.data import _pack
from gemma.gm.data import _reader
from gemma.gm.data import _source
from gemma.gm.data import _transform
from gemma.gm.math import _numbers

Ref = _example.Ref


class Batches:
  """Batches of examples: dicts of NumPy arrays, one behind the other.

  A loop over it goes on where the one before was left; behind the last batch it
  begins anew. Batches run on across epochs, so that no example is left out
  before the very end.

  ```python
  >>> from gemma import gm
  >>> task = gm.data.NextTokenTask(
  ...   tokenizer=gm.text.Gemma3TinyTokenizer(), add_eos=False
  ... )
  >>> batches = gm.data.Batches(
  ...   [{'text': [7] * n} for n in (1, 2, 3)],
  ...   batch_size=2,
  ...   transforms=[task],
  ...   pack=4,
  ...   epochs=1,
  ... )
  >>> (batch,) = batches
  >>> batch['input']
  array([[2, 2, 7, 0],
         [2, 7, 7, 0]], dtype=int32)
  >>> batch['segment_ids']
  array([[1, 2, 2, 0],
         [1, 1, 1, 0]], dtype=int32)

  ```
  """

  def __init__(
    self,
    source: Any,
    *,
    batch_size: int,
    transforms: _reader.Transform | Sequence[_reader.Transform] = (),
    shuffle: bool = False,
    seed: int = 0,
    epochs: int | None = None,
    pack: int | None = None,
    buckets: Sequence[int] | None = None,
    drop_remainder: bool = True,
    keys: Sequence[str] | None = None,
    shard: tuple[int, int] = (0, 1),
  ):
    """Reads nothing yet.

    Args:
      source: Examples, which are dicts: a list, anything else with a length and
        numbers (as those of `datasets` and `grain`), an iterable, or a function
        that gives one.
      batch_size: How many rows a batch has.
      transforms: What becomes of an example, one behind the other: functions,
        or objects with a `map`. One that gives a list makes as many examples of
        one, or none.
      shuffle: Whether each epoch has an order of its own, which follows from
        the seed and the number of the epoch alone.
      seed: See `shuffle`.
      epochs: How often to read the source; None never ends.
      pack: Length of rows in which examples are side by side, none of them
        split; `segment_ids` tells them apart: 1, 2, ..., and 0 is padding.
      buckets: Lengths; examples of like length are in one batch, padded to the
        shortest of these that fits.
      drop_remainder: Whether examples that fill no batch at the very end are
        left out; otherwise the last batches are smaller.
      keys: Which keys batches have; None for all.
      shard: Which part of the examples to read, and of how many: with several
        processes `(jax.process_index(), jax.process_count())`.

    Raises:
      TypeError: If the source is none.
      ValueError: If it has no examples or cannot be shuffled, or a number makes
        no sense.
    """
    _check(batch_size, epochs, pack, buckets, shard)
    if not isinstance(transforms, Sequence):
      transforms = [transforms]
    row_keys = _row_keys(transforms)
    self._seed = seed if shuffle else None
    self._drop_remainder = drop_remainder
    self._reader = _reader.Reader(
      _source.source_of(source, seed=self._seed, shard=shard),
      _reader.Maker(
        transforms=transforms,
        keys=keys,
        row_keys=row_keys,
        trim=pack is not None or buckets is not None,
      ),
      epochs,
    )
    self._ended = False
    self._make_assembler = _assembler_of(batch_size, pack, buckets, row_keys)
    self._begin()

  @property
  def dropped(self) -> int:
    """How many examples had nothing to train on, and were left out."""
    return self._reader.dropped

  @property
  def truncated(self) -> int:
    """How many examples were cut by a task, as it was told to."""
    return self._reader.truncated

  @property
  def epoch(self) -> int:
    """The number of the epoch that is read, from 0 on."""
    return self._reader.at.epoch

  @property
  def position(self) -> dict[str, Any]:
    """Where the next batch begins, in numbers that JSON can hold.

    With `pack` and `buckets` it names the examples that were read already and
    are in no batch yet.
    """
    return {
      **self._reader.at._asdict(),
      'waiting': [
        [[*example.ref] for example in examples]
        for examples in self._assembler.waiting
      ],
      'dropped': self.dropped,
      'truncated': self.truncated,
      'seed': self._seed,
    }

  def seek(self, position: Mapping[str, Any]) -> None:
    """Goes to where the next batch is the one that it was.

    Args:
      position: What `position` was, with the same source, transforms and
        options.

    Raises:
      ValueError: If it is no position, or one in another order or other data.
    """
    try:
      at = Ref(position['epoch'], position['place'], position['part'])
      lists = [[Ref(*ref) for ref in refs] for refs in position['waiting']]
      counts = {name: position[name] for name in ('dropped', 'truncated')}
      seed = position['seed']
    except (KeyError, TypeError) as e:
      raise ValueError(
        f'{position!r:.80} is no position of Batches: {e!r}.'
      ) from e
    if seed != self._seed:
      raise ValueError(
        f'The position is one of seed {seed}, but the order here is that of '
        f'{self._seed} (None is not shuffled). Set shuffle and seed as then.'
      )
    found = self._reader.pick(ref for refs in lists for ref in refs)
    if lost := [ref for refs in lists for ref in refs if ref not in found]:
      raise ValueError(
        f'The position knows of {[*lost[0]]}, an example that transforms do '
        'not make any more. Go on with the transforms that it was made with.'
      )
    self._begin()
    self._reader.seek(at, **counts)
    self._assembler.restore([[found[ref] for ref in refs] for refs in lists])

  def __iter__(self) -> Iterator[_assemble.Batch]:
    """Goes on; behind the last batch, begins anew."""
    if self._ended:
      self._begin()
    return self

  def __next__(self) -> _assemble.Batch:
    """The next batch.

    Raises:
      StopIteration: Behind the last one.
    """
    while not self._ended:
      batch = self._assembler.take()
      if batch is not None:
        return batch
      example = self._reader.read()
      if example is not None:
        self._assembler.add(example)
        continue
      batch = self._assembler.take(last=True, smaller=not self._drop_remainder)
      if batch is not None:
        return batch
      self._ended = True
    raise StopIteration

  def _begin(self) -> None:
    self._reader.seek(Ref(0, 0, 0), dropped=0, truncated=0)
    self._assembler = self._make_assembler()
    self._ended = False


def _assembler_of(
  batch_size: int,
  pack: int | None,
  buckets: Sequence[int] | None,
  row_keys: _transform.RowKeys,
) -> Callable[[], _assemble.Assembler]:
  if pack is not None:
    return lambda: _pack.Packed(batch_size, pack, row_keys)
  if buckets is not None:
    return lambda: _assemble.Buckets(batch_size, buckets)
  return lambda: _assemble.InOrder(batch_size)


def _row_keys(transforms: Sequence[Any]) -> _transform.RowKeys:
  """Where the last task puts its rows; the usual keys if there is none."""
  found = [t for t in transforms if isinstance(t, _transform.RowTransform)]
  return found[-1].row_keys if found else _transform.RowKeys()


def _check(
  batch_size: int,
  epochs: int | None,
  pack: int | None,
  buckets: Sequence[int] | None,
  shard: tuple[int, int],
) -> None:
  smallest = None if buckets is None else min(buckets, default=0)
  optional = _numbers.given(epochs=epochs, pack=pack, buckets=smallest)
  _numbers.whole(1, batch_size=batch_size, **optional)
  if pack is not None and buckets is not None:
    raise ValueError(
      f'pack={pack} and buckets={buckets}: examples are side by side in rows '
      'of one length, or sorted by theirs. Give one of these.'
    )
  if not 0 <= shard[0] < shard[1]:
    raise ValueError(
      f'shard={shard}. Give which part, from 0 on, and of how many: (0, 1).'
    )
