"""Against stored facts: no torch needed. `make_golden.py` writes the files."""

import pathlib

import numpy as np
import pytest

import cases
from gemma import gm
from gemma.gm.ckpts import _hf_config
from gemma.gm.ckpts import _targets

GOLDEN = pathlib.Path(__file__).parent / 'golden'

# Totals of the technical reports' models: as in the released Orbax files, and
# with the rows that Hugging Face files have.
COUNTS = {
  'Gemma1_2B': (2_506_434_560, 2_506_172_416),
  'Gemma1_7B': (8_538_074_112, 8_537_680_896),
  'Gemma2_2B': (2_614_636_800, 2_614_341_888),
  'Gemma2_9B': (9_242_164_736, 9_241_705_984),
  'Gemma2_27B': (27_227_718_144, 27_227_128_320),
  'Gemma3_270M': (268_098_176, 268_098_176),
  'Gemma3_1B': (999_885_952, 999_885_952),
  'Gemma3_4B': (4_299_915_632, 4_300_079_472),
  'Gemma3_12B': (12_187_079_280, 12_187_325_040),
  'Gemma3_27B': (27_432_062_576, 27_432_406_640),
  'Gemma3n_E2B': (4_434_658_400, 4_435_182_688),
  'Gemma3n_E4B': (6_834_711_280, 6_835_235_568),
  # Hugging Face counts no scalars of layers: they are buffers there.
  'Gemma4_E2B': (4_628_569_379, 4_628_569_344 + 35),
  'Gemma4_E4B': (7_463_013_418, 7_463_013_376 + 42),
  'Gemma4_12B': (11_907_350_320, 11_907_350_272 + 48),
  'Gemma4_26B_A4B': (25_233_141_790, 25_233_141_760 + 30),
  'Gemma4_31B': (30_697_345_340, 30_697_345_280 + 60),
}
# With keys and values in layers that read those of another.
COUNTS_WITH_UNUSED = {
  'Gemma3n_E2B': 4_434_658_400 + 10 * 2_097_408,
  'Gemma3n_E4B': 6_834_711_280 + 15 * 2_097_408,
  'Gemma4_E2B': 4_647_449_891,
  'Gemma4_E4B': 7_518_069_034,
}
TEXT_COUNTS = {
  'Gemma3_4B': 3_880_099_328,
  'Gemma3_12B': 11_765_788_416,
  'Gemma3_27B': 27_009_002_240,
}


@pytest.mark.parametrize('case', cases.CASES, ids=str)
def test_logits_are_those_of_transformers(case):
  golden = np.load(GOLDEN / 'logits' / f'{case}.npz')['logits']
  out = case.apply(case.tokens()).logits
  assert np.abs(out - golden).max() < case.tolerance


@pytest.mark.parametrize('name', gm.nn.PRESETS)
def test_parameter_tree(name):
  golden = (GOLDEN / 'trees' / f'{name}.txt').read_text()
  assert cases.tree_of(gm.nn.PRESETS[name]()) == golden


@pytest.mark.parametrize('name', COUNTS)
def test_parameter_count(name):
  summary = gm.nn.summarize(gm.nn.PRESETS[name]())
  orbax, hugging_face = COUNTS[name]
  assert summary.size == orbax
  config = summary.config
  rows = config.vocab_size or config.num_embed
  more = _hf_config.padding_rows(config) + rows - config.num_embed
  assert summary.size + more * config.embed_dim == hugging_face


@pytest.mark.parametrize('name', COUNTS_WITH_UNUSED)
def test_parameter_count_of_files_with_unused_keys(name):
  summary = gm.nn.summarize(gm.nn.PRESETS[name]())
  config = summary.config
  unused = sum(
    2 * spec.num_kv_heads * config.embed_dim * spec.head_dim + spec.head_dim
    for spec in config.layers()
    if spec.kv_source is not None
  )
  assert summary.size + unused == COUNTS_WITH_UNUSED[name]


@pytest.mark.parametrize('name', TEXT_COUNTS)
def test_parameter_count_of_the_text_only(name):
  model = gm.nn.PRESETS[name](text_only=True)
  assert gm.nn.summarize(model).size == TEXT_COUNTS[name]
  assert not any(map(_is_multimodal, cases.tree_of(model).splitlines()))


def _is_multimodal(line):
  return _targets.is_multimodal(tuple(line.split()[0].split('/')))


def test_summary_of_gemma2_2b():
  text = str(gm.nn.summarize(gm.nn.Gemma2_2B()))
  for number in ('589,824,000', '2,614,341,888', '2,304'):
    assert number in text


def test_picture_is_svg_of_every_layer():
  import xml.etree.ElementTree as ET

  for model in gm.nn.PRESETS.values():
    summary = gm.nn.summarize(model())
    root = ET.fromstring(gm.nn.picture(summary))
    boxes = root.findall('{http://www.w3.org/2000/svg}rect')
    assert len(boxes) > summary.config.num_layers
