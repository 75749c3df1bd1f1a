"""Examples and benchmarks run, at a small size."""

from PIL import Image
import pytest

from gemma import gm
import images
import scripts

ROOT = scripts.ROOT
pytestmark = pytest.mark.slow


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
  script = 'examples/pretrain.py'
  whole = scripts.run(
    script, '--smoke', '--text', text, '--out', tmp_path / 'a'
  )
  _, params, tokenizer = gm.from_pretrained(tmp_path / 'a' / 'model')
  assert tokenizer.encode('<start_of_turn>') == [105]
  assert params['embedder']['input_embedding'].dtype == 'bfloat16'
  assert len(losses(whole)) >= 2

  # The same steps in two runs: the second reads what the first wrote.
  args = ('--smoke', '--text', text, '--out', tmp_path / 'b')
  scripts.run(script, *args, '--stop-at', 1)
  rest = scripts.run(script, *args, '--resume')
  assert losses(rest)[-1] == losses(whole)[-1]


def test_learning_to_see_goes_on_where_it_was_interrupted(text, tmp_path):
  args = ('--smoke', '--text', text, '--out', tmp_path)
  script = 'examples/pretrain_vision.py'
  first = scripts.run(script, *args, '--stop-at', 1)
  rest = scripts.run(script, *args, '--resume')
  assert 'encoder step' in first
  assert 'encoder step' not in rest
  assert '% right: colour' in rest
  model, params, tokenizer = gm.from_pretrained(tmp_path / 'model')
  pretrain = scripts.load('examples/pretrain.py')
  assert model.config == pretrain.config_of(smoke=True)
  kernel = params['vision_encoder']['siglip_encoder']['embedding']['kernel']
  assert kernel.dtype == 'bfloat16'
  assert tokenizer.encode('<start_of_image>') == [110]


def test_demo_chats_sees_and_writes():
  out = scripts.run('examples/demo.py')
  assert out.count('gemma > ') == 8
  assert 'ROMEO:' in out


def test_tiny_model_benchmark(text):
  out = scripts.run(
    'benchmarks/tiny_model.py', '--text', text, '--count', 12,
    '--batch-size', 1, '--tokens', 64,
  )  # fmt: skip
  assert '"bits_per_byte"' in out.splitlines()[-1]


def test_training_with_pictures(tmp_path):
  out = scripts.run('examples/colours.py', '--smoke', '--out', tmp_path / 'a')
  assert 'step 1 loss' in out
  assert 'after: ' in out
  lora = gm.ckpts.load_adapter(tmp_path / 'a', model=gm.nn.Gemma3_Tiny())
  assert {'layer_0', 'vision_encoder'} <= lora.keys()


def test_kv_cache_benchmark():
  out = scripts.run('benchmarks/kv_cache.py')
  assert '| Gemma3_4B | 32,768 | 0.738 | 4.250 | 5.8 |' in out
  assert '| Gemma4_E4B | 131,072 | 2.020 | 12.250 | 6.1 |' in out
  assert '| Gemma4_31B | 131,072 | 10.781 | 110.000 | 10.2 |' in out


@pytest.mark.parametrize(
  'script, args, expected',
  [
    ('prefill_memory', ('--smoke', '--lengths', 64), '| naive | 64 |'),
    ('import_time', ('--runs', 1), 'gemma '),
    ('many_prompts', ('--smoke',), 'in turns'),
    ('decode', ('--smoke', '--rounds', 1), '| float32, batch 1, cache 48 |'),
    ('prefill', ('--smoke', '--rounds', 1), '| float32, 128 tokens |'),
    ('cold_start', ('--smoke', '--rounds', 1), '| ours, warm |'),
    ('load', ('--smoke', '--rounds', 1), '| ours, int8 |'),
    ('train', ('--smoke',), '| LoRA, float32, 2 x 64 |'),
    ('long_rows', ('--smoke',), '| 1,024 | ring |'),
    ('scale', ('--smoke', '--devices', 4), '| FSDP | 4 | fsdp=4 | 0.25 |'),
  ],
)
def test_benchmark(script, args, expected):
  assert expected in scripts.run(f'benchmarks/{script}.py', *args)


@pytest.mark.parametrize('size', ['Gemma3_27B', 'Gemma4_31B'])
def test_large_models_train_on_devices_of_16_gib(size, cut_rows):
  """Two layers as compiled for 64 devices, and by the estimate all others."""
  state, peak = cut_rows[size]
  scale = scripts.load('benchmarks/scale.py')
  layers = gm.nn.PRESETS[size]().config.num_layers
  cut, more = (
    gm.nn.estimate_memory(
      scale.text_model(size, n), batch_size=1, length=scale.LENGTH
    )
    for n in (2, 4)
  )
  between_steps = (cut.weights + cut.optimizer) / 64 / scale.GIB
  assert state == pytest.approx(between_steps, rel=0.05)
  # Of another layer: its share of the state, and the whole residual stream.
  per_layer = (more.weights + more.optimizer - cut.weights - cut.optimizer) / 2
  whole_state = state + (layers - 2) * per_layer / 64 / scale.GIB
  per_layer = (more.gradients - cut.gradients) / 2 / 64
  per_layer += (more.activations - cut.activations) / 2
  whole = whole_state + peak - state + (layers - 2) * per_layer / scale.GIB
  assert 2 < whole_state < whole < 16


@pytest.fixture(scope='module')
def cut_rows(tmp_path_factory):
  """GiB of a device between steps and at the peak, of two layers of a size.

  In a process of its own, whose CPU pretends to be 64 devices.
  """
  picture = tmp_path_factory.mktemp('scale') / 'scale.svg'
  table = scripts.run_apart(
    'benchmarks/scale.py', '--presets', 'FSDP_TENSOR', '--devices', 64,
    '--layers', 2, '--sizes', 'Gemma3_27B', 'Gemma4_31B', '--picture', picture,
  )  # fmt: skip
  assert 'v5p, predicted' in picture.read_text()
  rows = [line.strip('| ').split(' | ') for line in table.splitlines()[2:]]
  return {row[0]: (float(row[4]), float(row[5])) for row in rows}


def test_images_benchmark(tmp_path):
  path = tmp_path / 'image.png'
  Image.fromarray(images.picture(9, 12)).save(path)
  out = scripts.run('benchmarks/images.py', path)
  assert '| 9 x 12 | preprocess | 0.' in out
