"""What a training step needs on a mesh: bytes, exchanges, time; and no device.

Command: `python benchmarks/scale.py`; `--smoke` is short. Hardware: none but a
CPU, which pretends to be up to 1,024 devices: steps are compiled and not run,
so weights are never made. Time: about half an hour for all.

A step is full fine-tuning with AdamW, parameters and both moments in bfloat16,
`scan_layers=True`, `remat='full'`, with 8,192 tokens for each device, in rows
of 8,192: as many rows at a time as there are groups of devices that share rows
(`accumulate`). Metrics:

- state, GiB: parameters and optimizer on one device. From the program.
- all, GiB: at the peak, with gradients and activations. From the program, as
  the CPU would run it: it keeps much of bfloat16 in float32, so this is too
  much. `--topology v5e:8x8` asks the compiler for TPUs (`pip install libtpu`).
- exchanged, GB: what each device gets from others in a step. From the program.
- predicted seconds: the longest of arithmetic (`flops`) and exchanges, each at
  the published rate of the hardware, as if all else were hidden behind it. No
  device is that fast; what differs between rows is what counts.

With `--compile-time` it compares `scan_layers` with layers one by one instead.
"""

import argparse
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import math
import pathlib
import time
from typing import Any

import jax
from jax.experimental import topologies
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import optax

from gemma import gm

GIB = 2**30
LENGTH = 8192
SIZES = (
  'Gemma3_270M',
  'Gemma3_1B',
  'Gemma3_4B',
  'Gemma3_12B',
  'Gemma3_27B',
  'Gemma4_E4B',
  'Gemma4_26B_A4B',
  'Gemma4_31B',
)
PRESETS = 'DATA', 'FSDP', 'TENSOR', 'FSDP_TENSOR', 'EXPERT'
DEVICES = 64, 1024


@dataclasses.dataclass(frozen=True)
class Hardware:
  """What makers publish of a device.

  Attributes:
    flops: Operations in bfloat16 a second.
    gib: Memory.
    link: Bytes a second between devices, both directions together.
  """

  flops: float
  gib: float
  link: float


HARDWARE = {
  'v5e': Hardware(197e12, 16, 200e9),
  'v5p': Hardware(459e12, 95, 600e9),
  'v6e': Hardware(918e12, 32, 448e9),
  'H100': Hardware(989e12, 80, 900e9),
  'H200': Hardware(989e12, 141, 900e9),
}


@dataclasses.dataclass(frozen=True)
class Cost:
  """What one device does in a step.

  Attributes:
    mesh: The mesh.
    state: Bytes between steps.
    peak: Bytes at the most.
    exchanged: Bytes that it gets from others.
    flops: Operations.
    seconds: To compile.
  """

  mesh: str
  state: int
  peak: int
  exchanged: float
  flops: float
  seconds: float

  def predicted(self, hardware: Hardware) -> float:
    """Seconds of a step."""
    # Half of a link's rate is for what comes in.
    return max(self.flops / hardware.flops, 2 * self.exchanged / hardware.link)


def main(argv: Sequence[str] | None = None) -> None:
  """Prints a table in Markdown."""
  args = arguments(argv)
  if args.compile_time:
    compare_compile_times(args.sizes[-1] if args.smoke else 'Gemma3_27B')
    return
  rows = list(table(args))
  if args.picture:
    draw(rows, args.picture)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
  """What to compile."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--sizes', nargs='+')
  parser.add_argument('--presets', nargs='+')
  parser.add_argument('--devices', nargs='+', type=int)
  parser.add_argument('--layers', type=int, help='Only the last ones.')
  parser.add_argument('--topology', help='Of TPUs, as v5e:8x8.')
  parser.add_argument('--at-once', action='store_true', help='All rows.')
  parser.add_argument('--compile-time', action='store_true')
  parser.add_argument('--picture', type=pathlib.Path, help='A file to write.')
  parser.add_argument('--smoke', action='store_true')
  args = parser.parse_args(argv)
  small = args.smoke
  args.sizes = args.sizes or (['Gemma3_270M'] if small else SIZES)
  args.presets = args.presets or (['FSDP'] if small else PRESETS)
  args.devices = args.devices or ([8] if small else DEVICES)
  args.layers = args.layers or (2 if small else None)
  return args


def table(args: argparse.Namespace) -> Iterator[tuple[str, str, int, Cost]]:
  """Each row, once it is printed."""
  columns = 'size', 'preset', 'devices', 'mesh', 'state GiB', 'all GiB'
  columns += ('exchanged GB', *(f'{name} s' for name in HARDWARE))
  print('| ' + ' | '.join(columns) + ' |')
  print('|---' * len(columns) + '|', flush=True)
  for size in args.sizes:
    model = text_model(size, args.layers)
    for preset in args.presets:
      if preset == 'EXPERT' and model.config.experts is None:
        continue
      for count in args.devices:
        devices = jax.devices()[:count]
        if args.topology:
          devices = topology(args.topology)
        cost = cost_of(model, preset, devices, at_once=args.at_once)
        cells = [size, preset, f'{len(devices):,}', cost.mesh]
        cells += [f'{cost.state / GIB:.2f}', f'{cost.peak / GIB:.1f}']
        cells += [f'{cost.exchanged / 1e9:.1f}']
        cells += [f'{cost.predicted(hw):.2f}' for hw in HARDWARE.values()]
        print('| ' + ' | '.join(cells) + ' |', flush=True)
        yield size, preset, len(devices), cost


def text_model(
  size: str, layers: int | None = None, **fields: Any
) -> gm.nn.Transformer:
  """The model without its encoder, or the last layers of it."""
  model = gm.nn.PRESETS[size](**{'scan_layers': True, 'remat': 'full'} | fields)
  config = dataclasses.replace(model.config, vision_encoder=None)
  if layers is not None:
    kinds = config.attention_types[-layers:]
    config = dataclasses.replace(config, attention_types=kinds)
  return model.clone(config=config)


def topology(name: str) -> list[Any]:
  """TPUs that are not there, to compile for."""
  return list(topologies.get_topology_desc(name, platform='tpu').devices)


def cost_of(
  model: gm.nn.Transformer,
  preset: str,
  devices: list[Any],
  *,
  at_once: bool = False,
) -> Cost:
  """Compiles a step, and reads what it needs."""
  start = time.perf_counter()
  rules, lowered = lower(model, preset, devices, at_once=at_once)
  compiled = lowered.compile()
  seconds = time.perf_counter() - start
  memory = compiled.memory_analysis()
  on_cpu = devices[0].platform == 'cpu'
  exchanged = 0.0
  for one in gm.sharding.collectives(compiled):
    # An all-reduce is a reduce-scatter and an all-gather.
    both = 2 if one.kind == 'all-reduce' else 1
    exchanged += one.nbytes * one.times * both
  if on_cpu:  # All that is large is bfloat16, which a CPU sends as float32.
    exchanged /= 2
  peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes
  if not on_cpu:  # CPUs do not tell.
    peak = memory.peak_memory_in_bytes
  axes = ', '.join(f'{k}={n}' for k, n in rules.mesh.shape.items() if n > 1)
  return Cost(
    mesh=axes,
    state=memory.argument_size_in_bytes,
    peak=peak,
    exchanged=exchanged,
    flops=flops(model),
    seconds=seconds,
  )


def lower(
  model: gm.nn.Transformer,
  preset: str,
  devices: list[Any],
  *,
  at_once: bool = False,
) -> tuple[gm.sharding.Rules, Any]:
  """A step that is traced, with shapes in place of arrays."""
  shapes = shapes_of(model)
  rules = getattr(gm.sharding, preset).fit(shapes, devices=devices)
  optimizer = optax.adamw(1e-4)
  state = jax.eval_shape(
    lambda params: gm.training.init_state(params, optimizer), shapes
  )
  state = state.replace(
    params=placed(state.params, rules(state.params)),
    opt_state=placed(state.opt_state, rules(state.opt_state)),
    step=whole(state.step, rules.mesh),
    rng=whole(state.rng, rules.mesh),
  )
  rows = len(devices)
  accumulate = 1 if at_once else rows // rules.row_parts

  def batch_of(dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(
      (rows, LENGTH), dtype, sharding=rules.row_sharding
    )

  batch = {
    'input': batch_of(jnp.int32),
    'target': batch_of(jnp.int32),
    'loss_mask': batch_of(bool),
  }
  loss = gm.losses.NextToken(model)
  step = gm.training.make_step(loss, optimizer, accumulate=accumulate)
  return rules, step.lower(state, batch)


def shapes_of(model: gm.nn.Transformer) -> Any:
  """Those of the parameters."""
  tokens = jnp.zeros((1, 8), jnp.int32)
  return jax.eval_shape(model.init, jax.random.key(0), tokens)['params']


def placed(tree: Any, shardings: Any) -> Any:
  """Shapes with shardings."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    tree,
    shardings,
  )


def whole(x: Any, mesh: jax.sharding.Mesh) -> jax.ShapeDtypeStruct:
  """The shape of what all devices have."""
  sharding = NamedSharding(mesh, PartitionSpec())
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def flops(model: gm.nn.Transformer) -> float:
  """Operations for the 8,192 tokens of a device.

  Two for each weight and token in a forward pass, of which there are two, and
  four in the backward pass; and what attention does for each pair of tokens.
  """
  config = model.config
  shapes = shapes_of(model)
  weights = 0.0
  for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
    name, size = jax.tree_util.keystr(path), math.prod(leaf.shape)
    if 'per_layer_embeddings' in name:
      continue  # Looked up.
    experts = config.experts
    if experts is not None and experts.num_experts in leaf.shape[:-2]:
      size *= experts.top_k / experts.num_experts
    weights += size
  pairs = 0.0
  for layer in config.layers():
    window = getattr(layer.attention, 'window', LENGTH)
    pairs += min(window, LENGTH / 2) * layer.num_heads * layer.head_dim
  return LENGTH * (8 * weights + 16 * pairs)


def compare_compile_times(size: str) -> None:
  """Prints seconds to trace and compile a step, layers as one or one by one."""
  seconds = {}
  devices = jax.devices()[:8]
  for scan in (True, False):
    model = text_model(size, scan_layers=scan)
    seconds[scan] = cost_of(model, 'FSDP', devices).seconds
  print('| size | scanned s | one by one s | ratio |\n|---|---|---|---|')
  ratio = seconds[True] / seconds[False]
  cells = size, f'{seconds[True]:.1f}', f'{seconds[False]:.1f}', f'{ratio:.2f}'
  print('| ' + ' | '.join(cells) + ' |')


def draw(rows: list[tuple[str, str, int, Cost]], path: pathlib.Path) -> None:
  """Predicted tokens a second of each device of v5p, by the number of them."""
  from matplotlib import pyplot  # Not needed for the table.

  presets = list(dict.fromkeys(preset for _, preset, _, _ in rows))
  figure, charts = pyplot.subplots(
    1,
    len(presets),
    figsize=(3 * len(presets) + 2, 4),
    sharey=True,
    squeeze=False,
    layout='constrained',
  )
  for chart, preset in zip(charts[0], presets, strict=True):
    for size in dict.fromkeys(row[0] for row in rows):
      found = [row for row in rows if row[:2] == (size, preset)]
      speed = [LENGTH / x.predicted(HARDWARE['v5p']) for *_, x in found]
      chart.plot([row[2] for row in found], speed, marker='o', label=size)
    chart.set(title=preset, xlabel='devices', yscale='log')
    chart.set_xscale('log', base=2)
  charts[0][0].set_ylabel('tokens a second and device, v5p, predicted')
  lines, names = charts[0][0].get_legend_handles_labels()
  figure.legend(lines, names, loc='outside right')
  figure.savefig(path)


if __name__ == '__main__':
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', max(arguments().devices))
  main()
