"""Cross-entropy of the next token, with and without logits in memory.

The linear form takes the states before the last product, and goes through the
vocabulary in chunks: what it holds grows with the tokens and with the
vocabulary, never with their product. Its backward pass computes each chunk of
logits again, which is one product more than the dense form makes.

Axes: *B any batch dims, R rows (all tokens), D model, V vocab, C one chunk of
the vocabulary.
"""

from collections.abc import Callable
import functools
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Float32
from jaxtyping import Int
from jaxtyping import Num

from gemma.gm.math import _partition
from gemma.gm.math import _slices

_CHUNK_BYTES = 64 * 1024 * 1024  # Of the logits of one chunk, in float32.
_MIN_CHUNK = 512  # Below, products are too narrow for matrix units.


def cross_entropy(
  logits: Float[Array, '*B V'],
  targets: Int[ArrayLike, '*B'],
  *,
  z_loss: float = 0.0,
  label_smoothing: float = 0.0,
) -> Float32[Array, '*B']:
  """The loss of each token, from its logits. The definition, and the oracle.

  `-(1 - e) log p(target) - e mean(log p) + z logsumexp(logits)**2` with `e` for
  `label_smoothing` (https://arxiv.org/abs/1512.00567) and `z` for `z_loss`
  (https://arxiv.org/abs/2204.02311, section 5), in float32.

  Args:
    logits: Scores.
    targets: The right token of each.
    z_loss: Keeps logits from drifting; 1e-4 is usual.
    label_smoothing: Part of the probability that is spread over all tokens.
  """
  logits, targets = logits.astype(jnp.float32), jnp.asarray(targets)
  logz = jax.nn.logsumexp(logits, axis=-1)
  right = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  spread = label_smoothing * logits.mean(axis=-1)
  return logz - (1 - label_smoothing) * right - spread + z_loss * logz**2


def linear_cross_entropy(
  hidden: Float[Array, '*B D'],
  table: Num[Array, 'V D'],
  targets: Int[ArrayLike, '*B'],
  *,
  scale: Float[Array, 'V 1'] | None = None,
  softcap: float | None = None,
  z_loss: float = 0.0,
  label_smoothing: float = 0.0,
  chunk: int | None = None,
) -> Float32[Array, '*B']:
  """`cross_entropy` of `hidden @ table.T`, whose logits are never all there.

  ```python
  >>> import jax.numpy as jnp
  >>> from gemma import gm
  >>> hidden, table = jnp.ones((2, 3, 8)), jnp.ones((50, 8))
  >>> targets = jnp.zeros((2, 3), jnp.int32)
  >>> losses = gm.math.linear_cross_entropy(hidden, table, targets)
  >>> losses.shape, round(float(losses[0, 0]), 3)
  ((2, 3), 3.912)

  ```

  Args:
    hidden: States after the final norm.
    table: The embedding table, or the weights of an output layer.
    targets: The right token of each state.
    scale: For a table of integers, which stands for `table / scale`. It has no
      gradient then.
    softcap: If set, logits become `softcap * tanh(logits / softcap)`.
    z_loss: See `cross_entropy`.
    label_smoothing: See `cross_entropy`.
    chunk: Tokens of the vocabulary at a time; by default what fits in 64 MiB.

  Returns:
    The loss of each token.

  Raises:
    ValueError: If a chunk is not positive.
  """
  if chunk is not None and chunk < 1:
    raise ValueError(f'chunk={chunk} is not positive.')
  split = _Split.of(hidden.shape, table.shape) if _partition.sizes() else None
  form = _Form(softcap, z_loss, label_smoothing, chunk, table.shape[0], split)
  return _losses(form, hidden, table, scale, jnp.asarray(targets))


def chunk_of(rows: int) -> int:
  """Tokens of the vocabulary that are taken at a time, for so many states."""
  return max(_MIN_CHUNK, _CHUNK_BYTES // (4 * max(1, rows)))


class _Split(NamedTuple):
  """What each device of a mesh has.

  Attributes:
    tokens: Mesh axes that divide the batch, and the length.
    vocab: The mesh axis that divides the rows of the table.
    width: That which divides its columns. They are gathered chunk by chunk.
    stream: Whether those of `vocab` divide the length of the states, too.
  """

  tokens: tuple[Any, ...]
  vocab: str | None
  width: str | None
  stream: bool

  @classmethod
  def of(cls, hidden: tuple[int, ...], table: tuple[int, ...]) -> '_Split':
    """As the mesh in context divides them."""
    tokens = _partition.spec_of(hidden[:-1][:2], 'BL'[: len(hidden) - 1])
    vocab, width = _partition.weight_spec(table, ['vocab', 'embed'])
    stream = False
    if len(hidden) == 3 and vocab:
      length = _partition.stream_spec(hidden, 'BLD')[1]
      stream = vocab in _partition.names_of(length)
    return cls(tuple(tokens), vocab, width, stream)

  @property
  def hidden(self) -> PartitionSpec:
    """The spec of states."""
    if not self.stream:
      return self.each
    batch, length = self.tokens
    return PartitionSpec(batch, (*_partition.names_of(length), self.vocab))

  @property
  def each(self) -> PartitionSpec:
    """The spec of targets and losses."""
    return PartitionSpec(*self.tokens)

  @property
  def table(self) -> PartitionSpec:
    """The spec of the table."""
    return PartitionSpec(self.vocab, self.width)

  @property
  def given(self) -> tuple[PartitionSpec, ...]:
    """The specs of states, table, scale and targets."""
    return self.hidden, self.table, PartitionSpec(self.vocab), self.each

  @property
  def token_axes(self) -> tuple[str, ...]:
    """All mesh axes that divide the tokens."""
    return tuple(x for part in self.tokens for x in _partition.names_of(part))


class _Form(NamedTuple):
  """What does not change while a program runs.

  Attributes:
    softcap: See `linear_cross_entropy`, as the next three.
    z_loss: As above.
    smoothing: As above.
    chunk: As above.
    vocab: Tokens of the whole vocabulary.
    split: How it is divided among devices, if it is.
  """

  softcap: float | None
  z_loss: float
  smoothing: float
  chunk: int | None
  vocab: int
  split: _Split | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _losses(
  form: _Form, hidden: Any, table: Any, scale: Any, targets: Any
) -> jax.Array:
  return _forward(form, hidden, table, scale, targets)[0]


def _fwd(form: _Form, hidden: Any, table: Any, scale: Any, targets: Any) -> Any:
  given = hidden.value, table.value, scale, targets.value
  if scale is not None:
    given = hidden.value, table.value, scale.value, targets.value
  losses, logz = _forward(form, *given)
  # A tree and not a flag: what is known while tracing is in its structure.
  trained = () if table.perturbed and scale is None else None
  return losses, (given, logz, trained)


def _bwd(form: _Form, residuals: Any, cotangent: Any) -> Any:
  given, logz, trained = residuals
  if isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
    return None, None, None, None
  run: Callable[..., Any] = functools.partial(
    _backward_here, form, trained is not None
  )
  if form.split is not None:
    specs = form.split.given, form.split.each, form.split.each
    out = form.split.hidden, form.split.table
    run = _partition.run_local(run, specs, out)
  d_hidden, d_table = run(given, logz, cotangent)
  return d_hidden, d_table, None, None


_losses.defvjp(_fwd, _bwd, symbolic_zeros=True)


def _forward(form: _Form, *given: Any) -> tuple[jax.Array, jax.Array]:
  """Losses, and the logarithm of what probabilities are divided by."""
  run: Callable[..., Any] = functools.partial(_forward_here, form)
  if form.split is not None:
    out = form.split.each, form.split.each
    run = _partition.run_local(run, (form.split.given,), out)
  return run(given)


def _forward_here(form: _Form, given: Any) -> tuple[jax.Array, jax.Array]:
  """`_forward` of the tokens of one device, which may have but some logits."""
  hidden, targets = _rows(form, given)
  _, table, scale, _ = given

  def visit(start: Any, size: int, carry: Any) -> Any:
    peak, total, right, mean = carry
    part = _part(form, table, scale, start, size, hidden)
    logits = _logits(form, hidden, part)
    new_peak = jnp.maximum(peak, logits.max(axis=1))
    total *= jnp.exp(peak - new_peak)
    total += jnp.exp(logits - new_peak[:, None]).sum(axis=1)
    here = targets - start
    inside = (here >= 0) & (here < size)
    own = jnp.take_along_axis(
      logits, jnp.clip(here, 0, size - 1)[:, None], axis=1
    )[:, 0]
    right = jnp.where(inside, own, right)
    if form.smoothing:
      mean += logits.sum(axis=1) / form.vocab
    return new_peak, total, right, mean

  zeros = jnp.zeros(hidden.shape[0], jnp.float32)
  carry = (zeros - jnp.inf, zeros, zeros, zeros)
  peak, total, right, mean = _over_vocab(form, hidden, table, visit, carry)
  if form.split is not None and form.split.vocab:
    own, vocab = peak, form.split.vocab
    peak = jax.lax.pmax(own, vocab)
    parts = total * jnp.exp(own - peak), right, mean
    total, right, mean = jax.lax.psum(parts, vocab)
  logz = peak + jnp.log(total)
  losses = logz - (1 - form.smoothing) * right - form.smoothing * mean
  shape = given[-1].shape
  return (losses + form.z_loss * logz**2).reshape(shape), logz.reshape(shape)


def _backward_here(
  form: _Form, trained: bool, given: Any, logz: Any, cotangent: Any
) -> tuple[jax.Array, jax.Array | None]:
  """Gradients of the states, and of the table if it is trained."""
  hidden, targets = _rows(form, given)
  _, table, scale, _ = given
  shape = logz.shape
  logz, cotangent = logz.reshape(-1), cotangent.reshape(-1)
  slope = cotangent * (1 + 2 * form.z_loss * logz)

  def visit(start: Any, size: int, carry: Any) -> Any:
    d_hidden, d_table = carry
    part = _part(form, table, scale, start, size, hidden)
    logits = _logits(form, hidden, part)
    grads = slope[:, None] * jnp.exp(logits - logz[:, None])
    right = targets[:, None] == start + jnp.arange(size)[None]
    less = (1 - form.smoothing) * right + form.smoothing / form.vocab
    grads -= cotangent[:, None] * less
    if form.softcap is not None:
      grads *= 1 - (logits / form.softcap) ** 2
    grads = grads.astype(hidden.dtype)
    d_hidden += _dot(grads, part, 1, 0)
    if d_table is not None:
      d_part = _summed(form, _dot(grads, hidden, 0, 0))
      d_table = rows.put(d_table, d_part, start)
    return d_hidden, d_table

  rows = _slices.Rows(table)
  d_table = rows.bits if trained else None
  carry = jnp.zeros(hidden.shape, jnp.float32), d_table
  d_hidden, d_table = _over_vocab(form, hidden, table, visit, carry)
  d_hidden = d_hidden.astype(hidden.dtype).reshape(*shape, hidden.shape[-1])
  if form.split is not None and form.split.vocab:
    if form.split.stream:
      d_hidden = _partition.scattered(d_hidden, form.split.vocab, 1)
    else:
      d_hidden = jax.lax.psum(d_hidden, form.split.vocab)
  if d_table is not None:
    d_table = rows.read(d_table)
  return d_hidden, d_table


def _rows(form: _Form, given: Any) -> tuple[jax.Array, jax.Array]:
  """States `[R D]`, and targets as rows of the table that is here."""
  hidden, table, _, targets = given
  targets = targets.reshape(-1)
  if form.split is not None and form.split.vocab:
    if form.split.stream:
      hidden = _partition.gathered(hidden, form.split.vocab, 1)
    targets -= jax.lax.axis_index(form.split.vocab) * table.shape[0]
  return hidden.reshape(-1, hidden.shape[-1]), targets


def _over_vocab(
  form: _Form,
  hidden: jax.Array,
  table: jax.Array,
  visit: Callable[[Any, int, Any], Any],
  carry: Any,
) -> Any:
  """Calls `visit(start, size, carry)` for each chunk; the last may be small."""
  chunk = min(form.chunk or chunk_of(hidden.shape[0]), table.shape[0])
  count, rest = divmod(table.shape[0], chunk)
  carry = jax.lax.fori_loop(
    0, count, lambda i, c: visit(i * chunk, chunk, c), carry
  )
  return visit(count * chunk, rest, carry) if rest else carry


def _part(
  form: _Form, table: Any, scale: Any, start: Any, size: int, like: Any
) -> Any:
  """Some rows of the table, in the dtype of the states."""
  part = _slices.take(table, start, size)
  if form.split is not None and form.split.width:
    part = _partition.gathered(part, form.split.width, 1)
  if scale is not None:
    part = part.astype(scale.dtype) / _slices.take(scale, start, size)
  return part.astype(like.dtype)


def _summed(form: _Form, d_part: jax.Array) -> jax.Array:
  """The gradient of some rows from all tokens, where the rows are."""
  if form.split is None:
    return d_part
  width = form.split.width
  others = tuple(x for x in form.split.token_axes if x != width)
  if others:
    d_part = jax.lax.psum(d_part, others)
  if width is None:
    return d_part
  if width in form.split.token_axes:
    return _partition.scattered(d_part, width, 1)
  return _partition.own_part(d_part, width, 1)


def _logits(form: _Form, hidden: jax.Array, part: jax.Array) -> jax.Array:
  logits = _dot(hidden, part, 1, 1)
  if form.softcap is None:
    return logits
  return form.softcap * jnp.tanh(logits / form.softcap)


def _dot(x: jax.Array, y: jax.Array, x_axis: int, y_axis: int) -> jax.Array:
  return jax.lax.dot_general(
    x,
    y,
    (((x_axis,), (y_axis,)), ((), ())),
    preferred_element_type=jnp.float32,
  )
