"""Bytes of the KV cache of every size, next to a uniform one.

Command: `python benchmarks/kv_cache.py`. Hardware: none, it is arithmetic on
the shapes that `init_cache` makes. Metric: GiB in bfloat16 for one row.
"""

import argparse
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gemma import gm

LENGTHS = (8_192, 32_768, 131_072)


def main(argv: Sequence[str] | None = None) -> None:
  """Prints a table in Markdown."""
  argparse.ArgumentParser(description=__doc__.split('\n')[0]).parse_args(argv)
  print('| size | tokens | cache GiB | uniform GiB | ratio |')
  print('|---|---|---|---|---|')
  for name, make in gm.nn.PRESETS.items():
    config = make().config
    for length in LENGTHS:
      ours = nbytes(make(), length)
      # Keys and values of every layer, of two bytes each, for every token.
      slots = [4 * x.num_kv_heads * x.head_dim for x in config.layers()]
      uniform = sum(slots) * length
      print(
        f'| {name} | {length:,} | {ours / 2**30:.3f} | {uniform / 2**30:.3f} '
        f'| {uniform / ours:.1f} |'
      )


def nbytes(model: gm.nn.Transformer, length: int) -> int:
  """What `cache.nbytes` would be, without making the cache."""
  cache = jax.eval_shape(
    lambda: model.init_cache(
      batch_size=1, dtype=jnp.bfloat16, cache_length=length
    )
  )
  return cache.nbytes


if __name__ == '__main__':
  main()
