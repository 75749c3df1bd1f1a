"""Attention over a row of tokens that devices share: all-gather against a ring.

Command: `python benchmarks/long_rows.py`; `--smoke` is short. Hardware: a CPU
that pretends to be eight devices; with `--topology v5p:2x2x2` the compiler for
TPUs instead (`pip install libtpu`), which runs nothing. Time: five minutes.

One causal layer with the heads of Gemma 3 4B, forward and backward, of one row.
The library gathers keys and values (`math/_parallel_attention.py`). The ring is
that of https://arxiv.org/abs/2310.01889, with a backward pass of its own: keys
and values travel from device to device, and their gradients with them. Metrics:

- temporary MiB: of one device, at the peak. From the program.
- exchanged MiB: what a device gets from others. From the program.
- seconds: of all devices together, which share the cores. Both compute the same
  blocks, so what differs is what exchanges and copies cost.

On two cores, JAX 0.10.2 (float32), and as compiled for TPU v5p (bfloat16):

| tokens | how | temporary MiB | exchanged MiB | seconds | v5p, temporary MiB |
|---|---|---|---|---|---|
| 8,192 | gathered | 208 | 128 | 5.2 | 101 |
| 8,192 | ring | 102 | 192 | 7.5 | 83 |
| 131,072 | gathered | | | | 1,345 |
| 131,072 | ring | | | | 578 |

Where `remat='full'` gathers again, both send the same. The ring saves memory of
one layer, at 128k tokens 0.8 GiB of a device that keeps 2.7 GiB of activations.
"""

import argparse
from collections.abc import Callable
from collections.abc import Sequence
import functools
import time
from typing import Any

import jax
from jax.experimental import topologies
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from gemma import gm

HEADS, KV_HEADS, HEAD_DIM = 8, 4, 256
BLOCK = 512  # Queries and keys of which there are scores at a time.
MIB = 2**20
ROW = PartitionSpec(None, 'sequence')


def main(argv: Sequence[str] | None = None) -> None:
  """Prints a table in Markdown."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
  parser.add_argument('--lengths', type=int, nargs='+', default=(8192, 32_768))
  parser.add_argument('--topology', help='Of TPUs, as v5p:2x2x2.')
  parser.add_argument('--smoke', action='store_true')
  args = parser.parse_args(argv)
  devices = jax.devices()
  if args.topology:
    found = topologies.get_topology_desc(args.topology, platform='tpu')
    devices = list(found.devices)
  mesh = gm.sharding.make_mesh(sequence=len(devices), devices=devices)
  print('| tokens | how | temporary MiB | exchanged MiB | seconds |')
  print('|---|---|---|---|---|')
  for length in (1024,) if args.smoke else args.lengths:
    with gm.sharding.use_mesh(mesh):
      grads = {
        run: measure(run, length, mesh, runs=not args.topology)
        for run in (gathered, ring)
      }
    if not args.topology:
      for one, other in zip(grads[gathered], grads[ring], strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-4)


def measure(
  run: Callable[..., jax.Array], length: int, mesh: Any, *, runs: bool
) -> Any:
  """Prints a row of the table; gradients where the program is run."""

  def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    return jnp.sum(jnp.sin(run(q, k, v).astype(jnp.float32)))

  # A compiler for CPUs would compute bfloat16 by way of float32.
  dtype = jnp.float32 if runs else jnp.bfloat16
  sharding = NamedSharding(mesh, ROW)
  shapes = [
    jax.ShapeDtypeStruct((1, length, n, HEAD_DIM), dtype, sharding=sharding)
    for n in (HEADS, KV_HEADS, KV_HEADS)
  ]
  compiled = jax.jit(jax.grad(loss, range(3))).lower(*shapes).compile()
  temporary = compiled.memory_analysis().temp_size_in_bytes
  sent = sum(x.nbytes * x.times for x in gm.sharding.collectives(compiled))
  seconds, grads = '', None
  if runs:
    rng = np.random.default_rng(0)
    inputs = [
      jax.device_put(rng.normal(size=x.shape).astype(np.float32), sharding)
      for x in shapes
    ]
    jax.block_until_ready(compiled(*inputs))
    start = time.perf_counter()
    grads = jax.block_until_ready(compiled(*inputs))
    seconds = f'{time.perf_counter() - start:.2f}'
  print(
    f'| {length:,} | {run.__name__} | {temporary / MIB:,.0f} '
    f'| {sent / MIB:,.0f} | {seconds} |',
    flush=True,
  )
  return grads


def gathered(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """As the library does it."""
  index = jnp.arange(q.shape[1])[None]
  return gm.math.attend(
    q,
    k,
    v,
    mask=gm.math.Mask(q_index=index, k_index=index),
    scale=HEAD_DIM**-0.5,
    implementation='chunked',
  )


def ring(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """The same in a ring."""
  run = jax.shard_map(
    lambda q, k, v: _ring(q[0], k[0], v[0])[None],
    in_specs=(ROW, ROW, ROW),
    out_specs=ROW,
    check_vma=False,
  )
  return run(q, k, v)


@jax.custom_vjp
def _ring(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  return _ring_forward(q, k, v)[0]


def _ring_forward(q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
  """Attended values, and the logarithm of each softmax's denominator."""
  q, k, v, index = _in_blocks(q, k, v)
  empty = (
    jnp.full(_stat_shape(q), -jnp.inf),
    jnp.zeros(_stat_shape(q)),
    jnp.zeros(q.shape, jnp.float32),
  )

  def visit(carry: Any, _: None) -> Any:
    state, keys = carry

    def queries(xs: Any) -> Any:
      q_block, q_index, *state = xs

      def add(state: Any, xs: Any) -> Any:
        k_block, v_block, k_index = xs

        def run(state: Any) -> Any:
          peak, total, out = state
          scores = _scores(q_block, k_block, q_index, k_index)
          new = jnp.maximum(peak, scores.max(-1))
          weights = jnp.exp(scores - new[..., None])
          decay = jnp.exp(peak - new)
          total = total * decay + weights.sum(-1)
          out = out * _beside(decay) + _dot('KGTS,SKH->TKGH', weights, v_block)
          return new, total, out

        seen = k_index[0] <= q_index[-1]
        return jax.lax.cond(seen, run, lambda x: x, state), None

      return jax.lax.scan(add, tuple(state), keys)[0]

    state = jax.lax.map(queries, (q, index, *state))
    return (state, _passed_on(keys)), None

  carry, _ = jax.lax.scan(
    visit, (empty, (k, v, index)), length=jax.lax.axis_size('sequence')
  )
  (peak, total, out), _ = carry
  out = out / _beside(total)
  return _whole(out).astype(q.dtype), peak + jnp.log(total)


def _ring_fwd(q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
  out, log_total = _ring_forward(q, k, v)
  return out, (q, k, v, out, log_total)


def _ring_bwd(residuals: Any, grad: jax.Array) -> Any:
  *arrays, out, log_total = residuals
  q, k, v, index = _in_blocks(*arrays)
  grad, out = _blocks(grad, q), _blocks(out, q)
  delta = jnp.einsum('XTKGH,XTKGH->XKGT', grad, out.astype(grad.dtype))

  def visit(carry: Any, _: None) -> Any:
    dq, (keys, dkeys) = carry

    def queries(dkeys: Any, xs: Any) -> Any:
      q_block, q_index, grad, log_total, delta, dq = xs

      def add(dq: Any, xs: Any) -> Any:
        (k_block, v_block, k_index), dkv = xs

        def run(state: Any) -> Any:
          dq, (dk, dv) = state
          scores = _scores(q_block, k_block, q_index, k_index)
          weights = jnp.exp(scores - log_total[..., None])
          dv += _dot('KGTS,TKGH->SKH', weights, grad)
          dscores = _dot('TKGH,SKH->KGTS', grad, v_block) - delta[..., None]
          dscores = dscores * weights * HEAD_DIM**-0.5
          dq += _dot('KGTS,SKH->TKGH', dscores, k_block)
          dk += _dot('KGTS,TKGH->SKH', dscores, q_block)
          return dq, (dk, dv)

        seen = k_index[0] <= q_index[-1]
        return jax.lax.cond(seen, run, lambda x: x, (dq, dkv))

      dq, dkeys = jax.lax.scan(add, dq, (keys, dkeys))
      return dkeys, dq

    wide = jax.tree.map(lambda x: x.astype(jnp.float32), dkeys)
    xs = q, index, grad, log_total, delta, dq
    wide, dq = jax.lax.scan(queries, wide, xs)
    dkeys = jax.tree.map(lambda x: x.astype(k.dtype), wide)
    return (dq, _passed_on((keys, dkeys))), None

  start = (
    jnp.zeros(q.shape, jnp.float32),
    (
      (k, v, index),
      (jnp.zeros_like(k), jnp.zeros_like(v)),
    ),
  )
  carry, _ = jax.lax.scan(visit, start, length=jax.lax.axis_size('sequence'))
  dq, (_, (dk, dv)) = carry
  return _whole(dq).astype(q.dtype), _joined(dk), _joined(dv)


_ring.defvjp(_ring_fwd, _ring_bwd)


def _in_blocks(q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
  """Blocks of queries, keys and values, and the places of their tokens."""
  length = q.shape[0]
  first = jax.lax.axis_index('sequence') * length
  index = _split(first + jnp.arange(length))
  k, v = _split(k), _split(v)
  group = q.shape[1] // k.shape[2]
  q = _split(q.reshape(length, k.shape[2], group, HEAD_DIM))
  return q, k, v, index


def _split(x: jax.Array) -> jax.Array:
  return x.reshape(-1, min(BLOCK, x.shape[0]), *x.shape[1:])


def _joined(x: jax.Array) -> jax.Array:
  return jax.lax.collapse(x, 0, 2)


def _blocks(x: jax.Array, like: jax.Array) -> jax.Array:
  """`[T N H]` as blocks of queries."""
  return x.reshape(like.shape)


def _whole(x: jax.Array) -> jax.Array:
  """Blocks of queries as `[T N H]`."""
  return x.reshape(-1, HEADS, HEAD_DIM)


def _stat_shape(q: jax.Array) -> tuple[int, ...]:
  """Of what each query has a number of."""
  blocks, block, heads, group, _ = q.shape
  return blocks, heads, group, block


def _beside(x: jax.Array) -> jax.Array:
  """A number of each query, beside its values."""
  return jnp.moveaxis(x, -1, -3)[..., None]


def _scores(q: Any, k: Any, q_index: Any, k_index: Any) -> jax.Array:
  scores = _dot('TKGH,SKH->KGTS', q, k) * HEAD_DIM**-0.5
  return jnp.where(k_index[None] <= q_index[:, None], scores, -jnp.inf)


def _dot(eqn: str, x: jax.Array, y: jax.Array) -> jax.Array:
  dtype = jnp.promote_types(y.dtype, jnp.bfloat16)
  return jnp.einsum(eqn, x.astype(dtype), y, preferred_element_type=jnp.float32)


def _passed_on(tree: Any) -> Any:
  """To the next device of the ring."""
  count = jax.lax.axis_size('sequence')
  ahead = [(i, (i + 1) % count) for i in range(count)]
  send = functools.partial(jax.lax.ppermute, axis_name='sequence', perm=ahead)
  return jax.tree.map(send, tree)


if __name__ == '__main__':
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', 8)
  main()
