"""The command line, as a user types it."""

import io

import pytest

from gemma.cli import main


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
  lines = 'word ' * 90 + '\nHello\n'
  monkeypatch.setattr('sys.stdin', io.StringIO(lines))
  status, out, err = run(capsys, 'chat', '--cache-length', '64')
  assert status == 0
  assert 'but the cache holds 64' in err and '/new begins' in err
  assert len(out.split('> Hello\n')[1]) > 3


def test_answer_cut_short_says_so(capsys, monkeypatch):
  monkeypatch.setattr('sys.stdin', io.StringIO('Hello\n'))
  _, _, err = run(capsys, 'chat', '--max-new-tokens', '1')
  assert 'cut short: length' in err


@pytest.mark.parametrize(
  'args, message',
  [
    (['chat', 'Gemma3_4B'], 'weights are not in the package'),
    (['sample', '/no/such', 'x'], 'No folder /no/such'),
    (['summary', 'Gemma9_1T'], 'No folder'),
    (['sample', 'x', '--temperature', '-1'], 'temperature=-1'),
  ],
)
def test_errors_are_one_line(capsys, args, message):
  status, _, err = run(capsys, *args)
  assert status == 2
  assert err.startswith('gemma: ') and message in err
