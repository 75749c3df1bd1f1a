"""The command line, as a user types it."""

import dataclasses
import io

import jax
import numpy as np
import pytest

import cases
from gemma import gm
from gemma import peft
from gemma.cli import main
import gemma4
import test_adapters


def run(capsys, *args):
  status = main(args)
  out = capsys.readouterr()
  return status, out.out, out.err


def test_summary(capsys, tmp_path):
  picture = tmp_path / 'm.svg'
  status, out, _ = run(
    capsys, 'summary', 'Gemma2_2B', '--picture', str(picture)
  )
  assert status == 0
  for text in ('589,824,000', '2,614,341,888', 'window 4,096', '4.87 GiB'):
    assert text in out
  assert picture.read_text().startswith('<svg')


def test_summary_of_a_folder(capsys, tiny):
  status, out, _ = run(capsys, 'summary', str(tiny.path))
  assert status == 0
  assert 'gemma3-tiny-it' in out


def test_sample(capsys):
  status, out, _ = run(
    capsys, 'sample', 'ROMEO:', '--max-new-tokens', '12', '--seed', '1',
    '--temperature', '0.7',
  )  # fmt: skip
  assert status == 0
  assert out.startswith('ROMEO:') and len(out) > 10


def test_chat(capsys, monkeypatch):
  lines = 'Hello\nWhat is 2 + 3?\n/new\nHello\n'
  monkeypatch.setattr('sys.stdin', io.StringIO(lines))
  status, out, _ = run(capsys, 'chat', '--max-new-tokens', '32')
  assert status == 0
  turns = [turn for turn in out.split('> ') if turn]
  assert [turn.split('\n')[0] for turn in turns] == [
    'Hello',
    'What is 2 + 3?',
    '/new',
    'Hello',
  ]
  # A new conversation begins like the first.
  assert turns[3] == turns[0]


def test_chat_goes_on_after_a_prompt_that_is_too_long(capsys, monkeypatch):
  lines = 'word ' * 600 + '\nHello\n'
  monkeypatch.setattr('sys.stdin', io.StringIO(lines))
  status, out, err = run(capsys, 'chat', '--cache-length', '512')
  assert status == 0
  assert 'but the cache holds 512' in err and '/new begins' in err
  assert len(out.split('> Hello\n')[1]) > 3


def test_answer_cut_short_says_so(capsys, monkeypatch):
  monkeypatch.setattr('sys.stdin', io.StringIO('Hello\n'))
  _, _, err = run(capsys, 'chat', '--max-new-tokens', '1')
  assert 'cut short: length' in err


@pytest.mark.slow
def test_chat_that_thinks(capsys, monkeypatch, tmp_path):
  """With a folder of Gemma 4; the bundled model does not know how."""
  case = next(c for c in cases.CASES if c.name == 'gemma4_per_layer')
  config = dataclasses.replace(case.config, num_embed=gemma4.TEXT)
  case = cases.Case(case.name, config)
  gm.ckpts.save_hf(
    tmp_path / 'm',
    model=case.model,
    params=case.params,
    tokenizer=gemma4.tokenizer(),
  )
  monkeypatch.setattr('sys.stdin', io.StringIO('Hi\n/think\nHi\n'))
  status, out, err = run(
    capsys, 'chat', str(tmp_path / 'm'), '--think', '--max-new-tokens', '4'
  )
  assert status == 0 and err.count('cut short: length') == 2
  assert out.startswith('> Hi\n') and 'Thinking is off.' in out
  monkeypatch.setattr('sys.stdin', io.StringIO('/think\nHi\n/think\nHi\n'))
  status, out, err = run(capsys, 'chat', '--max-new-tokens', '4')
  assert status == 0 and 'thinking=True, but models with a Gemma3Tiny' in err


@pytest.mark.parametrize(
  'args, message',
  [
    (['chat', '--think'], 'thinking=True, but models with a Gemma3Tiny'),
    (['chat', 'Gemma3_4B'], 'weights are not in the package'),
    (['sample', '/no/such', 'x'], 'No folder /no/such'),
    (['summary', 'Gemma9_1T'], 'No folder'),
    (['convert', '/no/such', 'new'], 'No folder /no/such'),
    (['convert', 'gs://a/b', 'new'], 'gs://a/b'),
    (['sample', 'x', '--temperature', '-1'], 'temperature=-1'),
  ],
)
def test_errors_are_one_line(capsys, args, message):
  status, _, err = run(capsys, *args)
  assert status == 2
  assert err.startswith('gemma: ') and message in err


def same(path, other):
  """Bit by bit."""
  a, b = gm.ckpts.load_params(path), gm.ckpts.load_params(other)
  jax.tree.map(np.testing.assert_array_equal, a, b)
  dtypes = [{x.dtype.name for x in jax.tree.leaves(tree)} for tree in (a, b)]
  assert dtypes[0] == dtypes[1]


@pytest.mark.slow
def test_convert_there_and_back(capsys, tiny, tmp_path):
  orbax, back = str(tmp_path / 'orbax'), str(tmp_path / 'back')
  source = str(tiny.path)
  assert run(capsys, 'convert', source, orbax, '--layout', 'nested')[0] == 0
  same(source, orbax)
  status, out, _ = run(capsys, 'convert', orbax, back, '--model', 'Gemma3_Tiny')
  assert status == 0 and out.strip() == back
  same(source, back)
  opened = gm.from_pretrained(back)
  assert opened.model.config == tiny.model.config
  # The tokenizer went along, and with it all that others need.
  assert opened.tokenizer.encode('king') == tiny.tokenizer.encode('king')
  for name in ('tokenizer.json', 'chat_template.jinja'):
    assert (tmp_path / 'back' / name).exists()
  name = 'tokenizer.model'
  assert (tiny.path / name).read_bytes() == (
    tmp_path / 'back' / name
  ).read_bytes()


@pytest.mark.slow
def test_convert_dtype(capsys, tmp_path):
  case = cases.GEMMA3
  paths = [str(tmp_path / name) for name in ('a', 'b', 'c', 'd')]
  rounded = jax.tree.map(lambda x: x.astype('bfloat16'), case.params)
  gm.ckpts.save_hf(paths[0], model=case.model, params=case.params)
  gm.ckpts.save_hf(paths[1], model=case.model, params=rounded)
  for source, target, dtype in (
    (paths[0], paths[2], 'bfloat16'),
    (paths[2], paths[3], 'float32'),
  ):
    assert run(capsys, 'convert', source, target, '--dtype', dtype)[0] == 0
  same(paths[1], paths[2])
  wide = gm.ckpts.load_params(paths[3])
  jax.tree.map(np.testing.assert_array_equal, wide, rounded)
  assert wide['final_norm']['scale'].dtype == 'float32'


@pytest.mark.slow
@pytest.mark.parametrize('layout', ['hf', 'flat', 'stacked'])
def test_convert_with_an_adapter(capsys, tiny, layout, tmp_path):
  lora = test_adapters.adapters(tiny.params)
  adapter, new = str(tmp_path / 'lora'), str(tmp_path / 'new')
  gm.ckpts.save_adapter(adapter, model=tiny.model, params=lora)
  status, *_ = run(
    capsys, 'convert', str(tiny.path), new, '--merge-lora', adapter,
    '--layout', layout,
  )  # fmt: skip
  assert status == 0
  fused = peft.fuse_params(peft.merge_params(tiny.params, lora))
  read = gm.ckpts.load_params(new)
  jax.tree.map(np.testing.assert_array_equal, read, fused)


@pytest.mark.slow
def test_sample_with_integers_and_an_adapter(capsys, tiny, tmp_path):
  lora = jax.tree.map(lambda x: 0 * x, test_adapters.adapters(tiny.params))
  adapter = str(tmp_path / 'lora')
  gm.ckpts.save_adapter(adapter, model=tiny.model, params=lora)
  prompt = 'What is 2 + 3?', '--max-new-tokens', '8'
  plain = run(capsys, 'sample', *prompt)
  assert run(capsys, 'sample', *prompt, '--adapter', adapter) == plain
  assert run(capsys, 'sample', *prompt, '--quantize', 'int8')[0] == 0


def test_convert_says_what_is_wrong_before_it_reads(capsys, tiny, tmp_path):
  status, _, err = run(capsys, 'convert', str(tiny.path), str(tmp_path))
  assert status == 2 and 'exists. Remove it' in err
  orbax, target = tmp_path / 'orbax', str(tmp_path / 'new')
  gm.ckpts.save_params({'final_norm': {'scale': np.ones(3, 'f')}}, orbax)
  status, _, err = run(capsys, 'convert', str(orbax), target)
  assert status == 2 and '--model Gemma3_1B' in err
  status, _, err = run(
    capsys, 'convert', str(orbax), target, '--model', 'Gemma3_Tiny'
  )
  assert status == 2 and 'params do not fit the model' in err
  assert not (tmp_path / 'new').exists()
