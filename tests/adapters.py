"""Adapter folders of PEFT, generated and by hand; nothing is compiled."""

import json
import pathlib
import random
import tempfile

import numpy as np
import safetensors.numpy

from gemma import gm
from gemma.gm.ckpts import _adapter_rows

SHORT = 'q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj'
ENDS = (
  *SHORT,
  'down_proj',
  'self_attn.q_proj',
  'layers.1.self_attn.v_proj',
  'model.layers.0.mlp.down_proj',
  'model.layers.1.self_attn.o_proj',
  'proj',
)
EXPRESSIONS = (
  r'.*q_proj',
  r'model\.layers\.[01]\.(self_attn|mlp)\.(q|up)_proj',
  r'.*\.(self_attn\.k_proj|mlp\.down_proj)$',
  r'.*layers\.(1|10)\..*_proj',
  r'^model\.(language_model\.)?layers\.\d+\.mlp\..*',
  r'.*(?<!language_model\.layers\.0)\.self_attn\.v_proj',
  r'(?:.*?(?:self_attn|mlp).*?(?:q_proj|v_proj|gate_proj).*?)',
)
KEYS = (  # Of rank_pattern and alpha_pattern.
  'q_proj',
  '.*_proj',
  r'layers\.1\..*',
  'layers.0.self_attn.k_proj',
  'model.layers.0.self_attn.q_proj',
  '^model.layers.1.mlp.up_proj',
  r'self_attn\.(v|o)_proj',
  r'.*\.0\..*',
  'proj',
  'k_proj|v_proj',
  '^q_proj',
)
LAYERS = (None, 'layers', ['layers', 'h'], 'lay.*', ['experts', 'layers'], [])
_KINDS = 'self_attn', 'mlp', 'experts.3'


def modules() -> list[str]:
  """Full names of modules, of several kinds of models."""
  fronts = 'model', 'model.language_model', 'model.vision_tower.encoder'
  layers = [f'{front}.layers.{i}' for front in fronts for i in (0, 1, 10)]
  names = (*SHORT, 'down_proj')
  inside = [f'{x}.{kind}.{n}' for x in layers for kind in _KINDS for n in names]
  return [*inside, 'model.embed_tokens', 'lm_head', 'model.layers', 'proj']


def config(rng: random.Random) -> dict:
  """The fields of a `peft.LoraConfig` that choose modules and factors."""
  targets = rng.choice((_some(rng, ENDS, 4), rng.choice(EXPRESSIONS)))
  fields = {
    'r': rng.choice((1, 2, 3, 8)),
    'lora_alpha': rng.choice((1, 4, 6, 0.5)),
    'use_rslora': rng.random() < 0.3,
    'target_modules': targets,
  }
  if rng.random() < 0.4:
    exclude = rng.choice((_some(rng, ENDS, 2), rng.choice(EXPRESSIONS)))
    fields['exclude_modules'] = exclude
  if isinstance(targets, list) and rng.random() < 0.4:
    fields['layers_to_transform'] = rng.choice((0, 1, [1], [0, 10], [], [7]))
    fields['layers_pattern'] = rng.choice(LAYERS)
  for key, values in (('rank_pattern', (1, 2, 5)), ('alpha_pattern', (2, 9))):
    if rng.random() < 0.5:
      chosen = _some(rng, KEYS, 3)
      fields[key] = {name: rng.choice(values) for name in chosen}
  return fields


def _some(rng: random.Random, values: tuple[str, ...], most: int) -> list[str]:
  return rng.sample(values, rng.randint(1, most))


def tensors(case, ranks, front='model.', targets=SHORT) -> dict:
  """Random tensors of PEFT for some modules of a model.

  Args:
    case: The model.
    ranks: A rank, or a function from a full name.
    front: What full names begin with.
    targets: The ends of their names, or a function from a full name.
  """
  rng, out = np.random.RandomState(0), {}
  for name, (outputs, inputs) in _adapter_rows.sizes(case.config).items():
    full = front + name
    chosen = targets(full) if callable(targets) else full.endswith(targets)
    if not chosen:
      continue
    rank = ranks(full) if callable(ranks) else ranks
    for part, shape in (('A', (rank, inputs)), ('B', (outputs, rank))):
      x = rng.normal(0, 0.1, shape).astype(np.float32)
      out[f'base_model.model.{full}.lora_{part}.weight'] = x
  return out


def folder(path, arrays, **fields):
  """An adapter folder of PEFT, written by hand."""
  path.mkdir(parents=True, exist_ok=True)
  given = {'peft_type': 'LORA', 'r': 4, 'target_modules': [*SHORT]} | fields
  (path / 'adapter_config.json').write_text(json.dumps(given))
  safetensors.numpy.save_file(arrays, path / 'adapter_model.safetensors')
  return path


def products(arrays) -> dict:
  """`B A` of each module, by its full name."""
  end = '.lora_A.weight'
  modules = [name.removesuffix(end) for name in arrays if name.endswith(end)]
  return {
    m.removeprefix('base_model.model.'): arrays[f'{m}.lora_B.weight']
    @ arrays[f'{m}{end}']
    for m in modules
  }


def loaded_products(path, case, **options) -> dict:
  """`products` of what `load_adapter` makes of a folder."""
  lora = gm.ckpts.load_adapter(path, model=case.model, **options)
  with tempfile.TemporaryDirectory() as out:
    file = pathlib.Path(out) / 'again'
    gm.ckpts.save_adapter(file, model=case.model, params=lora)
    return products(
      safetensors.numpy.load_file(file / 'adapter_model.safetensors')
    )
