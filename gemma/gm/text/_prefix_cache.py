"""Prompts kept between calls, so that what they share is computed once."""

from collections.abc import Sequence
import dataclasses

from flax import struct
import jax
import jax.numpy as jnp

from gemma.gm.nn import _cache


class Caches(struct.PyTreeNode):
  """The cache of a model, and that of its draft model if it has one.

  Attributes:
    model: The model's.
    draft: The draft model's.
  """

  model: _cache.KVCache
  draft: _cache.KVCache | None = None

  @property
  def each(self) -> list[_cache.KVCache]:
    """Those that are there."""
    return [self.model] if self.draft is None else [self.model, self.draft]

  def grow(self, cache_length: int) -> 'Caches':
    """The same tokens, with room for more."""
    draft = None if self.draft is None else self.draft.grow(cache_length)
    return Caches(self.model.grow(cache_length), draft)

  def cut(self, length: int) -> 'Caches':
    """The first tokens of each row alone."""

    def first(cache: _cache.KVCache) -> _cache.KVCache:
      return cache.replace(length=jnp.full_like(cache.length, length))

    return Caches(first(self.model), self.draft and first(self.draft))

  def can_cut(self, have: int, length: int) -> bool:
    """Whether nothing that the first tokens need was overwritten."""
    return all(
      not layer.is_ring
      or have <= layer.k.shape[1]
      or have - length <= layer.lookahead
      for cache in self.each
      for layer in cache.layers.values()
    )


@dataclasses.dataclass(eq=False)
class PrefixCache:
  """Keys and values of earlier prompts, for prompts that begin alike.

  Give it to a `Sampler`. A prompt that begins as an earlier one is not computed
  again from the start. Where sliding layers have already forgotten what the
  common part needs, that part is kept on its own from its second use on.

  ```python
  >>> from gemma import gm
  >>> tiny = gm.from_pretrained(gm.ckpts.CheckpointPath.GEMMA3_TINY_IT)
  >>> sampler = gm.text.Sampler(
  ...   model=tiny.model,
  ...   params=tiny.params,
  ...   tokenizer=tiny.tokenizer,
  ...   prefix_cache=gm.text.PrefixCache(max_entries=4),
  ... )
  >>> rules = 'A dialogue between a king and a fool. '
  >>> text = sampler.sample(rules + 'KING:', max_new_tokens=4)
  >>> out = sampler.sample(
  ...   rules + 'FOOL:', max_new_tokens=4, return_state=True
  ... )
  >>> out.usage.cached_tokens > 8
  True

  ```

  Attributes:
    max_entries: Prompts that are kept; the least recently used one goes first.
  """

  max_entries: int = 4
  _entries: dict[tuple[int, ...], Caches] = dataclasses.field(
    default_factory=dict, init=False, repr=False
  )
  _owner: tuple[object, ...] = dataclasses.field(
    default=(), init=False, repr=False
  )

  @property
  def nbytes(self) -> int:
    """Bytes of all that is kept."""
    caches = self._entries.values()
    return sum(cache.nbytes for kept in caches for cache in kept.each)

  def clear(self) -> None:
    """Forgets everything, for example when the parameters have changed."""
    self._entries = {}
    self._owner = ()

  def bind(self, *objects: object) -> None:
    """Raises if the cache holds prompts of other parameters, or drafts."""
    same = len(objects) == len(self._owner) and all(
      mine is other for mine, other in zip(self._owner, objects, strict=True)
    )
    if self._entries and not same:
      raise ValueError(
        'This PrefixCache holds prompts of another model, or of other '
        'parameters, or another draft. Give each its own, or call clear().'
      )
    self._owner = objects

  def find(
    self, ids: Sequence[int], *, most: int
  ) -> tuple[int, Caches | None, int]:
    """The longest beginning that is at hand.

    Args:
      ids: A prompt.
      most: Largest cache that is of use.

    Returns:
      Its length; caches of one row that hold it; and the length that an entry
      has in common with the prompt, though it may have to be computed again.
    """
    best, source, common = 0, None, 0
    entries = self._entries
    for kept, caches in entries.items():
      n = common_prefix([kept, ids])
      common = max(common, n)
      fits = caches.model.cache_length <= most
      if n > best and fits and caches.can_cut(len(kept), n):
        best, source = n, kept
    if source is None:
      return 0, None, common
    caches = entries[source]
    self._renew(source, caches)
    return best, caches.cut(best), common

  def store(self, ids: Sequence[int], caches: Caches) -> None:
    """Keeps a copy of caches of one row."""
    self._renew(tuple(ids), jax.tree.map(jnp.copy, caches))

  def _renew(self, ids: tuple[int, ...], caches: Caches) -> None:
    """Makes an entry the most recently used, and drops those beyond the most.

    The entries are replaced as a whole: other threads may be reading them.
    """
    rest = {kept: c for kept, c in self._entries.items() if kept != ids}
    entries = [*rest.items(), (ids, caches)]
    self._entries = dict(entries[max(0, len(entries) - self.max_entries) :])


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
  """Tokens with which all rows begin, and no part of an image behind them."""
  n = 0
  for column in zip(*rows, strict=False):
    if any(token != column[0] for token in column):
      break
    n += 1
  # Ids of two images may begin alike, by chance.
  while n and rows[0][n - 1] < 0 and any(_goes_on(row, n) for row in rows):
    n -= 1
  return n


def _goes_on(row: Sequence[int], n: int) -> bool:
  """Whether an image is on both sides of a place."""
  return n < len(row) and row[n - 1] < 0 and row[n] < 0
