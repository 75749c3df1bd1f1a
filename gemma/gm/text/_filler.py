"""Prompts into caches: what is known already, and what has to be computed."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

from gemma.gm.nn import _like
from gemma.gm.nn import _weights
from gemma.gm.text import _album
from gemma.gm.text import _decode
from gemma.gm.text import _drafts
from gemma.gm.text import _prefix_cache
from gemma.gm.text import _state
from gemma.gm.text import _step

_SHARED = 32  # A common prefix is kept from so many new tokens on.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filler:
  """Fills the caches of a model, and of its draft model if there is one.

  Attributes:
    model: The model.
    params: Its parameters.
    album: The images of the prompts.
    buckets: Sizes of a chunk of a prompt.
    draft: Who guesses tokens ahead.
    prefix_cache: Keeps prompts for later calls.
    sharding: Where prompts lie.
  """

  model: _like.TransformerLike
  params: Mapping[str, Any]
  album: _album.Album
  buckets: tuple[int, ...] | None
  draft: _drafts.Draft | None
  prefix_cache: _prefix_cache.PrefixCache | None
  sharding: Any

  def empty(self, rows: int, capacity: int) -> _prefix_cache.Caches:
    """Caches without a token."""

    def empty(model: Any, params: Any) -> Any:
      return model.init_cache(
        batch_size=rows,
        dtype=_weights.dtype_of(params),
        cache_length=capacity,
        lookahead=self.draft.num_tokens if self.draft else 0,
        sharding=self.sharding,
      )

    cache = empty(self.model, self.params)
    if not isinstance(self.draft, _drafts.DraftModel):
      return _prefix_cache.Caches(cache)
    draft = empty(self.draft.model, self.draft.params)
    return _prefix_cache.Caches(cache, draft)

  def known(
    self, contexts: list[list[int]], capacity: int, *, most: int
  ) -> tuple[_prefix_cache.Caches, list[int]]:
    """Caches that hold what the contexts share, if prompts are kept.

    Args:
      contexts: Tokens of each row.
      capacity: Tokens that the caches can hold at least.
      most: And at most.

    Returns:
      The caches, and how many tokens of each row they hold.
    """
    rows = len(contexts)
    if self.prefix_cache is None:
      return self.empty(rows, capacity), [0] * rows
    # The last token is always computed: what follows is predicted from it.
    shared = _prefix_cache.common_prefix(contexts)
    shared = min(shared, min(map(len, contexts)) - 1)
    first = contexts[0][:shared]
    known, caches, common = self.prefix_cache.find(first, most=most)
    if caches is None:
      caches = self.empty(1, capacity)
    capacity = max(capacity, caches.model.cache_length)
    caches = _state.take_rows(caches.grow(capacity), [0])  # To be filled.
    # What others begin with too is kept on its own.
    wanted = common if rows == 1 else shared
    if wanted - known >= _SHARED:
      caches, _ = self.fill(caches, [first[known:wanted]])
      self.prefix_cache.store(first[:wanted], caches)
      known = wanted
    return _state.take_rows(caches, [0] * rows), [known] * rows

  def fill(
    self, caches: _prefix_cache.Caches, rows: Sequence[Sequence[int]]
  ) -> tuple[_prefix_cache.Caches, _step.Prediction]:
    """Feeds tokens to the model, and to the draft model."""
    cache, ahead = self._prefill(self.model, self.params, rows, caches.model)
    draft = caches.draft
    if draft is not None:
      assert isinstance(self.draft, _drafts.DraftModel)
      model, params = _drafts.free(self.draft.model), self.draft.params
      if not self._draft_sees:
        rows = [_blind(row, self.model) for row in rows]
      draft, _ = self._prefill(model, params, rows, draft)
    return _prefix_cache.Caches(cache, draft), ahead

  def warm_up(self, rows: int, capacity: int) -> None:
    """Compiles every piece of a prompt; those with images, if there is one."""
    sizes = self.buckets or ()
    pieces = [[1] * size for size in sizes]
    for ids in self.album.images:
      self.album.warm_up(self.model, self.params)
      if isinstance(self.draft, _drafts.DraftModel) and self._draft_sees:
        model = _drafts.free(self.draft.model)
        self.album.warm_up(model, self.draft.params)
      room = [size for size in sizes if size >= len(ids)] or [len(ids)]
      pieces += [[*ids, *[1] * (size - len(ids))] for size in room]
    for piece in pieces:
      self.fill(self.empty(rows, capacity), [piece] * rows)

  @property
  def _draft_sees(self) -> bool:
    """Whether a draft model sees images, in as many tokens as the model."""
    return isinstance(self.draft, _drafts.DraftModel) and _drafts.sees_the_same(
      self.draft.model, self.model
    )

  def _prefill(
    self, model: Any, params: Any, rows: Any, cache: Any
  ) -> tuple[Any, _step.Prediction]:
    return _decode.prefill(
      model,
      params,
      rows,
      cache,
      album=self.album,
      buckets=self.buckets,
      sharding=self.sharding,
    )


def _blind(row: Sequence[int], model: _like.TransformerLike) -> Sequence[int]:
  """A row for a draft that does not see: images are as long, but say nothing.

  Its guesses get worse, and the answer stays the same: the model checks them.
  """
  end = model.config.image_tokens.end
  return [end if token < 0 else token for token in row]
