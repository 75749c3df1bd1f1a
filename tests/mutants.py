"""One-line faults that the tests must catch: `python tests/mutants.py [NAME...]`.

Each mutant changes one line of a copy of the library, and the test files named
beside it run until the first failure. A mutant that survives them all is printed
as SURVIVED: the suite has lost a proof. Takes about half an hour; not a part of
CI. `--suite` runs all default tests on a survivor before it gives up.
"""

import argparse
import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]
_COPIED = 'gemma', 'tests', 'docs', 'examples', 'colabs', 'benchmarks', '.ci'


@dataclasses.dataclass(frozen=True)
class Mutant:
  """A one-line fault.

  Attributes:
    path: The file, below `gemma/`.
    old: Code that occurs once in it.
    new: The code in its place.
    tests: Arguments of pytest: the files that should catch it, dearest last.
  """

  path: str
  old: str
  new: str
  tests: str

  @property
  def name(self) -> str:
    return f'{self.path}: {self.old.strip()} > {self.new.strip()}'


_MODEL = 'test_math.py test_golden.py test_model.py'
_CACHE = 'test_cache.py test_model.py test_sampler.py'
_SAMPLING = 'test_sampling_methods.py test_sampler.py test_results.py'
_VISION = 'test_vision.py test_sampler_images.py test_golden.py'
_CHAT = 'test_text.py test_gemma4_text.py test_chat.py test_gemma4_chat.py'
_DATA = 'test_data.py test_data_batches.py test_data_tasks.py'
_CKPT = 'test_layouts.py test_ckpts.py test_load_hf.py test_load_params.py'
_PEFT = 'test_peft_modules.py test_peft_fuse.py test_adapters.py'
_LOSS = 'test_losses.py test_preference.py test_losses_by_path.py'

# fmt: off
MUTANTS = (
  # Masks.
  Mutant('gm/math/_mask.py', 'out &= k <= self._last', 'out &= k < self._last', _MODEL),
  Mutant('gm/math/_mask.py', '(q - k < self.window)', '(q - k <= self.window)', _MODEL),
  Mutant('gm/math/_mask.py', '& (k - q < self.window)', '& (k - q < 2 * self.window)', f'test_math.py {_VISION}'),
  Mutant('gm/math/_mask.py', 'k >= self.q_first[', 'k > self.q_first[', 'test_math.py test_segments.py'),
  Mutant('gm/math/_mask.py', 'out &= first_k <= jnp.max', 'out &= first_k < jnp.max', 'test_math.py test_model.py'),
  Mutant('gm/math/_mask.py', '- last_k < self.window', '- last_k < self.window - 1', 'test_math.py test_model.py'),
  Mutant('gm/math/_mask.py', 'jnp.broadcast_to(k >= 0,', 'jnp.broadcast_to(k >= -1,', _MODEL),
  Mutant('gm/math/_mask.py', 'else self.q_index - self.q_first', 'else self.q_index', 'test_segments.py test_math.py'),
  # RoPE.
  Mutant('gm/math/_rope.py', '/ self.scale_factor', '* self.scale_factor', _MODEL),
  Mutant('gm/math/_rope.py', 'b * cos + a * sin', 'b * cos - a * sin', _MODEL),
  Mutant('gm/math/_rope.py', 'int(self.proportion * head_dim // 2)', 'head_dim // 2', _MODEL),
  # Scores and blocks.
  Mutant('gm/math/_scores.py', 'out = softcap * jnp.tanh(out / softcap)', 'pass', _MODEL),
  Mutant('gm/math/_chunked_attention.py', 'decay = jnp.exp(peak - new_peak)', 'decay = jnp.ones_like(peak)', 'test_math.py test_model.py'),
  Mutant('gm/math/_chunked_attention.py', "dscores *= 1 - (", "dscores *= 1 + (", 'test_math.py test_training.py'),
  # Caches and rings.
  Mutant('gm/nn/_cache.py', 'slots < (self.window or 0) + tokens - 1', 'slots < (self.window or 0)', _CACHE),
  Mutant('gm/nn/_cache.py', '(index >= new_length[:, None] - slots)', '(index >= new_length[:, None] - slots + 1)', _CACHE),
  Mutant('gm/nn/_cache.py', 'return last - (last -', 'return last + 1 - (last -', _CACHE),
  Mutant('gm/nn/_cache.py', 'return min(window + lookahead, cache_length)', 'return min(window, cache_length)', f'test_cache.py test_speculative.py {_CACHE}'),
  # Norms.
  Mutant('gm/math/_norm.py', 'wide * jax.lax.rsqrt(mean_square + eps)', 'wide * jax.lax.rsqrt(mean_square + 1e3 * eps)', f'{_MODEL} test_parity.py'),
  Mutant('gm/math/_norm.py', 'wide = x.astype(jnp.float32)', 'wide = x', _MODEL),
  Mutant('gm/math/_norm.py', '* rms(like) /', '* rms(like) ** 2 /', _MODEL),
  Mutant('gm/nn/_block.py', 'v = _norm.rms_norm(v, eps=self.config.norm_eps)', 'pass', _MODEL),
  # Experts.
  Mutant('gm/math/_experts.py', 'jax.nn.softmax(top, axis=-1)', 'jax.nn.sigmoid(top)', 'test_experts.py test_golden.py'),
  Mutant('gm/math/_experts.py', 'few = _shapes.is_known(pairs) and pairs < weights[0].w.shape[0]', 'few = True', 'test_experts.py'),
  # Gemma 3n: streams and sparsity.
  Mutant('gm/nn/_altup.py', "self._route(active), coefs) + 1", "self._route(active), coefs)", 'test_per_layer.py test_golden.py'),
  Mutant('gm/nn/_altup.py', 'jnp.tanh(self.modality_router', '(self.modality_router', 'test_golden.py'),
  Mutant('gm/math/_sparsity.py', 'jax.nn.relu(wide - cutoff)', 'jnp.where(wide > cutoff, wide, 0)', _MODEL),
  Mutant('gm/nn/_block.py', '* jnp.asarray(2**-0.5, x.dtype)', '* jnp.asarray(0.5, x.dtype)', 'test_golden.py'),
  # Per-layer inputs.
  Mutant('gm/nn/_per_layer.py', 'rows *= jnp.sqrt(jnp.float32(width))', 'rows *= (jnp.float32(width))', 'test_per_layer.py test_golden.py'),
  Mutant('gm/nn/_per_layer.py', '(tokens >= 0) & (tokens < vocab), tokens, 0)', '(tokens >= 0) & (tokens < vocab), tokens, 1)', 'test_per_layer.py test_vision.py test_parity.py'),
  Mutant('gm/nn/_block.py', 'return x * scale.astype(x.dtype)[None, None]', 'return x', 'test_golden.py'),
  # Vision placement and pixels.
  Mutant('gm/vision/_expand.py', 'before = jnp.minimum(number, images) - is_start', 'before = number - is_start', _VISION),
  Mutant('gm/vision/_expand.py', 'order = jnp.cumsum(here, axis=1) - 1', 'order = jnp.cumsum(here, axis=1)', _VISION),
  Mutant('gm/vision/_patches.py', "'... (h p) (w q) c -> ... (h w) (p q c)'", "'... (h p) (w q) c -> ... (h w) (q p c)'", _VISION),
  Mutant('gm/math/_mask.py', 'goes_on = inside & jnp.pad(inside[:, 1:], [(0, 0), (0, 1)])', 'goes_on = inside', _VISION),
  # Chat templates.
  Mutant('gm/text/_formats.py', "    forgets=True,", "    forgets=False,", _CHAT),
  Mutant('gm/text/_formats.py', "f'response:{part.name}'", "f'response: {part.name}'", _CHAT),
  Mutant('gm/text/_formats.py', "f'thought\\n{part.text}')\n  yield special.END_OF_CHANNEL", "f'thought {part.text}')\n  yield special.END_OF_CHANNEL", _CHAT),
  # Sampling methods.
  Mutant('gm/math/_select.py', '>= k, k.shape)', '> k, k.shape)', _SAMPLING),
  Mutant('gm/math/_select.py', 'axis=-1) >= p', 'axis=-1) > 1.5 * p', _SAMPLING),
  Mutant('gm/math/_select.py', '+ jnp.log(p)', '+ p', _SAMPLING),
  Mutant('gm/text/_step.py', 'logits = jnp.where(rules.banned[None], -jnp.inf, logits)', 'pass', 'test_results.py test_sampler.py test_chat.py'),
  Mutant('gm/text/_step.py', 'return jax.vmap(jax.random.fold_in)(state.rng, state.count)', 'return state.rng', f'{_SAMPLING} test_queue.py'),
  # Speculative acceptance.
  Mutant('gm/text/_speculative.py', '* q_guess < p_guess)', '* q_guess < 2 * p_guess)', 'test_speculative.py'),
  Mutant('gm/text/_speculative.py', 'rest = jnp.maximum(p - q, 0)', 'rest = p', 'test_speculative.py'),
  Mutant('gm/text/_speculative.py', 'kept = length + state.count - before', 'kept = length + state.count - before + 1', 'test_speculative.py'),
  # Losses.
  Mutant('gm/math/_cross_entropy.py', '- spread + z_loss * logz**2', '+ spread + z_loss * logz**2', 'test_cross_entropy.py test_losses.py'),
  Mutant('gm/math/_cross_entropy.py', 'right = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]', 'right = logits[..., 0]', 'test_cross_entropy.py test_losses.py'),
  Mutant('gm/losses/_preference_losses.py', 'jnp.count_nonzero(mask, axis=-1),', 'jnp.count_nonzero(mask, axis=-1) + 1,', _LOSS),
  Mutant('gm/training/_step.py', 'jax.tree.map(lambda g: g / count, grads)', 'jax.tree.map(lambda g: g / (count + 1), grads)', 'test_training.py test_training_same_loss.py'),
  Mutant('gm/training/_step.py', 'key = jax.random.fold_in(rng, step)', 'key = rng', 'test_training.py test_lora_training.py'),
  # Packing and batches.
  Mutant('gm/data/_pack.py', 'if _used(row) + example.length <= self._length:', 'if _used(row) + example.length < self._length:', _DATA),
  Mutant('gm/data/_pack.py', 'np.full(e.length, i + 1, np.int32)', 'np.full(e.length, i, np.int32)', _DATA),
  Mutant('gm/data/_batches.py', 'smaller=not self._drop_remainder', 'smaller=self._drop_remainder', _DATA),
  # Adapters and integers.
  Mutant('peft/_factors.py', 'return total * gains(norms(w, lora, summed), lora[M], summed)', 'return total * gains(norms(w, lora, summed), lora[M] * 2, summed)', f'test_peft_dora.py {_PEFT}'),
  Mutant('peft/_factors.py', 'both = 2 * both + ', 'both = both + ', f'test_peft_dora.py {_PEFT}'),
  Mutant('peft/_factors.py', 'x / keep.astype(x.dtype)', 'x * keep.astype(x.dtype)', f'{_PEFT} test_lora_training.py'),
  Mutant('peft/_fuse.py', 'w.astype(jnp.float32) - _factors.change', 'w.astype(jnp.float32) + _factors.change', _PEFT),
  # Checkpoint layouts.
  Mutant('gm/ckpts/_hf_layout.py', "pattern = None if spec.ffw.gate_last else 'F D -> D F'", "pattern = 'F D -> D F'", _CKPT),
  Mutant('gm/ckpts/_hf_layout.py', "gates = 'mlp.gate_proj', 'mlp.up_proj'", "gates = 'mlp.up_proj', 'mlp.gate_proj'", f'test_golden.py {_CKPT} test_parity.py'),
  Mutant('gm/ckpts/_layouts.py', 'index * period + int(match[1])', 'index + period * int(match[1])', _CKPT),
  Mutant('gm/ckpts/_layouts.py', 'if bare and axes <= _AXES[rest[-2]]:', 'if bare:', f'{_CKPT} test_experts.py'),
  # Resume.
  Mutant('gm/data/_batches.py', 'self._reader.seek(at, **counts)', 'self._reader.seek(Ref(at.epoch, 0, 0), **counts)', f'{_DATA} test_runs.py'),
  Mutant('gm/data/_batches.py', 'self._assembler.restore([[found[ref] for ref in refs] for refs in lists])', 'pass', f'{_DATA} test_runs.py'),
  # Sharding rules, on eight devices.
  Mutant('gm/sharding/_rules.py', 'out[name] = math.gcd(out.get(name, 0), size)', 'out[name] = size', 'mesh:test_sharding.py'),
  Mutant('gm/sharding/_rules.py', 'elif size % sizes[name] and axis not in _OPTIONAL:', 'elif False:', 'mesh:test_sharding.py'),
)
# fmt: on


def main() -> int:
  """Runs mutants; returns how many survived."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('name', nargs='*', help='part of a name; default: all')
  parser.add_argument('--suite', action='store_true')
  parser.add_argument('--check', action='store_true', help='check rows only')
  args = parser.parse_args()
  chosen = [
    mutant
    for mutant in MUTANTS
    if not args.name or any(part in mutant.name for part in args.name)
  ]
  for mutant in chosen:
    _mutated(mutant)
  if args.check:
    return 0
  survivors = 0
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    for name in _COPIED:
      shutil.copytree(ROOT / name, root / name)
    for path in ROOT.glob('[!.]*.*'):
      shutil.copy(path, root)
    for mutant in chosen:
      survivors += not _caught(mutant, root, whole_suite=args.suite)
  print(f'{len(chosen) - survivors} of {len(chosen)} caught')
  return survivors


def _mutated(mutant: Mutant) -> str:
  """The changed file."""
  text = (ROOT / 'gemma' / mutant.path).read_text(encoding='utf-8')
  if (count := text.count(mutant.old)) != 1:
    raise ValueError(
      f'{mutant.path} has {mutant.old!r} {count} times, not once. Mend the row.'
    )
  return text.replace(mutant.old, mutant.new)


def _caught(mutant: Mutant, root: pathlib.Path, *, whole_suite: bool) -> bool:
  """Whether a test fails on the mutant."""
  changed = root / 'gemma' / mutant.path
  changed.write_text(_mutated(mutant), encoding='utf-8')
  begin = time.monotonic()
  caught = _fails(root, mutant.tests)
  if not caught and whole_suite:
    caught = _fails(root, '')
  shutil.copy(ROOT / 'gemma' / mutant.path, changed)
  word = 'caught' if caught else 'SURVIVED'
  print(f'{word} {time.monotonic() - begin:.0f} s: {mutant.name}', flush=True)
  return caught


def _fails(root: pathlib.Path, tests: str) -> bool:
  """Whether a test of these files fails; with `mesh:` before, on 8 devices."""
  kind, _, files = tests.rpartition(':')
  marks = 'mesh' if kind else 'not mesh'
  flags = '--xla_force_host_platform_device_count=8' if kind else ''
  run = subprocess.run(
    [
      *(sys.executable, '-m', 'pytest', '-q', '-x', '-m'),
      f'{marks} and not exhaustive and not kauldron',
      *(f'tests/{name}' for name in files.split()),
    ],
    cwd=root,
    env={**os.environ, 'XLA_FLAGS': flags},
    capture_output=True,
    text=True,
    check=False,
  )
  if run.returncode not in (0, 1):
    raise RuntimeError(f'pytest gave {run.returncode}:\n{run.stdout[-2000:]}')
  return run.returncode == 1


if __name__ == '__main__':
  sys.exit(main())
