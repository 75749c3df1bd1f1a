"""Examples and benchmarks run, at a small size."""

import pathlib
import subprocess
import sys

from PIL import Image
import pytest

from gemma import gm
import images

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def run(script, *args):
  """Output of a script in a process of its own."""
  command = [sys.executable, str(ROOT / script), *map(str, args)]
  out = subprocess.run(command, capture_output=True, text=True, check=False)
  assert out.returncode == 0, out.stdout + out.stderr
  return out.stdout


@pytest.fixture(scope='module')
def text(tmp_path_factory):
  """Some English; any text will do."""
  file = tmp_path_factory.mktemp('text') / 'text.txt'
  pages = [*ROOT.glob('*.md'), *ROOT.glob('docs/*.md'), ROOT / 'LICENSE']
  file.write_text('\n'.join(page.read_text() for page in pages))
  return file


def losses(log):
  """Step and losses of each line; not the seconds."""
  return [line.rsplit(' ', 2)[0] for line in log.splitlines()]


def test_pretraining_goes_on_where_it_was_interrupted(text, tmp_path):
  whole = run(
    'examples/pretrain.py', '--smoke', '--text', text, '--out', tmp_path / 'a'
  )
  _, params, tokenizer = gm.from_pretrained(tmp_path / 'a' / 'model')
  assert tokenizer.encode('<start_of_turn>') == [105]
  assert params['embedder']['input_embedding'].dtype == 'bfloat16'
  assert len(losses(whole)) >= 2

  # The same steps in two runs: the second reads what the first wrote.
  out = tmp_path / 'b'
  args = ('--smoke', '--text', text, '--out', out)
  run('examples/pretrain.py', *args, '--stop-at', 3)
  rest = run('examples/pretrain.py', *args, '--resume')
  assert losses(rest)[-1] == losses(whole)[-1]


def test_learning_to_see_goes_on_where_it_was_interrupted(text, tmp_path):
  args = ('--smoke', '--text', text, '--out', tmp_path)
  script = 'examples/pretrain_vision.py'
  first = run(script, *args, '--stop-at', 3)
  rest = run(script, *args, '--resume')
  assert 'encoder step' in first
  assert 'encoder step' not in rest
  assert '% right: colour' in rest
  model, params, tokenizer = gm.from_pretrained(tmp_path / 'model')
  assert model.config == gm.nn.Gemma3_Tiny().config
  kernel = params['vision_encoder']['siglip_encoder']['embedding']['kernel']
  assert kernel.dtype == 'bfloat16'
  assert tokenizer.encode('<start_of_image>') == [110]


def test_demo_chats_sees_and_writes():
  out = run('examples/demo.py')
  assert out.count('gemma > ') == 8
  assert 'ROMEO:' in out


def test_tiny_model_benchmark(text):
  out = run('benchmarks/tiny_model.py', '--text', text, '--count', 12)
  assert '"bits_per_byte"' in out.splitlines()[-1]


def test_training_with_pictures(tmp_path):
  out = run('examples/colours.py', '--smoke', '--out', tmp_path / 'a')
  assert 'step 1 loss' in out
  assert 'after: ' in out
  lora = gm.ckpts.load_adapter(tmp_path / 'a', model=gm.nn.Gemma3_Tiny())
  assert {'layer_0', 'vision_encoder'} <= lora.keys()


@pytest.mark.parametrize(
  'script, args, expected',
  [
    ('kv_cache', (), '| Gemma3_4B | 32,768 | 0.738 | 4.250 | 5.8 |'),
    ('kv_cache', (), '| Gemma4_E4B | 131,072 | 2.020 | 12.250 | 6.1 |'),
    ('kv_cache', (), '| Gemma4_31B | 131,072 | 10.781 | 110.000 | 10.2 |'),
    ('prefill_memory', ('--lengths', 64), '| naive | 64 |'),
    ('import_time', (), 'gemma '),
    ('many_prompts', ('--smoke',), 'in turns'),
    ('decode', ('--smoke', '--rounds', 1), '| float32, batch 1, cache 128 |'),
    ('prefill', ('--smoke', '--rounds', 1), '| float32, 128 tokens |'),
    ('cold_start', ('--smoke', '--rounds', 1), '| ours, warm |'),
    ('load', ('--smoke', '--rounds', 1), '| ours, int8 |'),
    ('train', ('--smoke',), '| LoRA, float32, 2 x 64 |'),
    ('long_rows', ('--smoke',), '| 1,024 | ring |'),
    ('scale', ('--smoke',), '| Gemma3_270M | FSDP | 8 | fsdp=8 | 0.19 |'),
  ],
)
def test_benchmark(script, args, expected):
  assert expected in run(f'benchmarks/{script}.py', *args)


def test_large_models_train_on_devices_of_16_gib(tmp_path):
  """8,192 tokens for each of 64 devices, a row at a time."""
  sizes = 'Gemma3_27B', 'Gemma4_31B'
  table = run(
    'benchmarks/scale.py', '--presets', 'FSDP_TENSOR', '--devices', 64,
    '--sizes', *sizes, '--picture', tmp_path / 'scale.svg',
  )  # fmt: skip
  rows = [line.split(' | ') for line in table.splitlines()[2:]]
  assert [row[0] for row in rows] == [f'| {size}' for size in sizes]
  assert all(2 < float(row[4]) < float(row[5]) < 16 for row in rows), table
  assert 'v5p, predicted' in (tmp_path / 'scale.svg').read_text()


def test_images_benchmark(tmp_path):
  path = tmp_path / 'image.png'
  Image.fromarray(images.picture(9, 12)).save(path)
  assert '| 9 x 12 | preprocess | 0.' in run('benchmarks/images.py', path)
