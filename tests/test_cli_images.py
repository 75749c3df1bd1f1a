"""Images on the command line."""

import io

from PIL import Image
import pytest

import cases
from gemma import gm
import images
from test_cli import run


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A model that sees, and two photographs."""
  path = tmp_path_factory.mktemp('cli')
  case = cases.SPEAKING
  gm.ckpts.save_hf(
    path / 'model',
    model=case.model,
    params=case.params,
    tokenizer=gm.text.Gemma3TinyTokenizer(),
  )
  for name, size in (('cat', (20, 30)), ('my dog', (41, 9))):
    Image.fromarray(images.picture(*size)).save(path / f'{name}.png')
  (path / 'broken.png').write_bytes(b'\x89PNG\r\n')
  return path


def chat_of(folder):
  model, params, tokenizer = gm.from_pretrained(folder / 'model')
  return gm.text.ChatSampler(
    model=model, params=params, tokenizer=tokenizer, multi_turn=True
  )


@pytest.mark.slow
def test_chat(capsys, monkeypatch, folder):
  """Images go with the first prompt, or with the next one."""
  cat, dog = folder / 'cat.png', folder / 'my dog.png'
  lines = f'Who?\n/image {dog}\n/image {folder}/no.png\nAnd <|image|>?\nHm\n'
  monkeypatch.setattr('sys.stdin', io.StringIO(lines))
  status, out, err = run(
    capsys, 'chat', str(folder / 'model'), '--image', str(cat),
    '--image', str(dog), '--max-new-tokens', '4',
  )  # fmt: skip
  assert status == 0
  assert 'There is no image at' in err and 'no.png' in err
  chat, fields = chat_of(folder), {'max_new_tokens': 4}
  answers = [
    chat.chat('Who?', images=[cat, dog], **fields),
    chat.chat('And <|image|>?', images=dog, **fields),
    chat.chat('Hm', **fields),
  ]
  said = [turn.split('\n', 1)[1].strip() for turn in out.split('> ')[1:]]
  assert [text for text in said if text] == [text.strip() for text in answers]


@pytest.mark.slow
def test_chat_without_its_eyes(capsys, monkeypatch, folder):
  lines = f'/image {folder}/cat.png\nWho?\nAnd?\n'
  monkeypatch.setattr('sys.stdin', io.StringIO(lines))
  status, out, err = run(
    capsys, 'chat', str(folder / 'model'), '--text-only',
    '--max-new-tokens', '3',
  )  # fmt: skip
  assert status == 0
  assert 'does not support vision' in err
  assert len(out.split('> And?\n')[1]) > 1


def test_sample(capsys, folder):
  args = 'sample', str(folder / 'model'), 'A <start_of_image> is'
  image = '--image', str(folder / 'cat.png')
  status, out, _ = run(capsys, *args, *image, '--max-new-tokens', '4')
  chat = chat_of(folder)
  text = chat.sampler.sample(
    args[-1], images=folder / 'cat.png', max_new_tokens=4
  )
  assert status == 0 and out == f'{args[-1]}{text}\n'


@pytest.mark.parametrize(
  'args, message',
  [
    (['sample', 'x', '--image', 'no.png'], 'There is no image at'),
    (['chat', '--image', 'broken.png'], 'broken.png'),
    (['sample', 'x', '--image', 'cat.png'], '1 image but 0 <start_of_image>'),
  ],
)
def test_errors_are_one_line(capsys, monkeypatch, folder, args, message):
  monkeypatch.chdir(folder)
  verb, *rest = args
  status, _, err = run(capsys, verb, str(folder / 'model'), *rest)
  assert status == 2
  assert err.startswith('gemma: ') and message in err
  assert err.count('\n') == 1
