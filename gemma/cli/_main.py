"""Verbs and flags of the command line."""

import argparse
from collections.abc import Sequence
import sys

import gemma
from gemma import gm
from gemma.cli import _convert
from gemma.cli import _finetune
from gemma.cli import _verbs


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command.

  Args:
    argv: Arguments; by default those of the process.

  Returns:
    The exit status.
  """
  args = _parser().parse_args(argv)
  try:
    args.run(args)
  except (ValueError, KeyError, OSError, ImportError) as e:
    print(_verbs.told(e), file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print(file=sys.stderr)
    return 130
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='gemma', description="Google's Gemma open models, in JAX."
  )
  parser.add_argument('--version', action='version', version=gemma.__version__)
  verbs = parser.add_subparsers(required=True, metavar='VERB')

  chat = verbs.add_parser('chat', help='talk with a model')
  _model_arguments(chat)
  chat.add_argument(
    '--text-only', action='store_true', help='leave out a vision encoder'
  )
  chat.add_argument(
    '--think',
    action='store_true',
    help='have the model think before it answers, as Gemma 4 can',
  )
  _image_argument(chat, 'an image for the first prompt')
  chat.set_defaults(run=_verbs.chat)

  sample = verbs.add_parser('sample', help='let a model continue a text')
  _model_arguments(sample)
  sample.add_argument('prompt', help='the text to continue')
  _image_argument(sample, 'an image, for a <start_of_image> in the prompt')
  sample.set_defaults(run=_verbs.sample)

  summary = verbs.add_parser('summary', help='show what a model is made of')
  summary.add_argument(
    'model', metavar='NAME', help='a size, a folder, or hf://org/name'
  )
  summary.add_argument(
    '--picture', metavar='FILE.svg', help='draw the architecture too'
  )
  summary.set_defaults(run=_verbs.summary)
  _convert_arguments(
    verbs.add_parser(
      'convert',
      help='write weights in another layout or dtype',
      description='Writes weights in another layout or dtype; the files of '
      'the tokenizer go with them.',
    )
  )
  _finetune_arguments(
    verbs.add_parser(
      'finetune',
      help='train a model on conversations',
      description='Trains adapters, or the whole model. The same command goes '
      'on after any interruption.',
    )
  )
  return parser


def _model_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    'model',
    nargs='?',
    default=_verbs.BUNDLED,
    metavar='MODEL',
    help='a Hugging Face folder, or hf://org/name to download it; by default '
    'the bundled Gemma3_Tiny',
  )
  parser.add_argument('--dtype', help='of the weights; by default as stored')
  parser.add_argument(
    '--quantize',
    choices=('int8', 'int4'),
    help='round the weights while they are read: half or a quarter of the '
    'memory',
  )
  parser.add_argument(
    '--adapter', metavar='FOLDER', help='a LoRA adapter of PEFT to use as well'
  )
  parser.add_argument(
    '--temperature', type=float, default=0.0, help='0: greedy'
  )
  parser.add_argument('--top-p', type=float, default=1.0)
  parser.add_argument('--max-new-tokens', type=int, default=512, metavar='N')
  parser.add_argument('--cache-length', type=int, default=4096, metavar='N')
  parser.add_argument('--seed', type=int, help='for a repeatable answer')


def _image_argument(parser: argparse.ArgumentParser, what: str) -> None:
  parser.add_argument(
    '--image',
    action='append',
    default=[],
    metavar='FILE',
    help=f'{what}; may be given several times',
  )


def _convert_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    'source',
    metavar='SRC',
    help='a Hugging Face folder, hf://org/name, or an Orbax checkpoint',
  )
  parser.add_argument('target', metavar='DST', help='the folder to make')
  parser.add_argument(
    '--dtype',
    choices=('bfloat16', 'float32'),
    help='of the weights; by default as stored',
  )
  parser.add_argument(
    '--layout',
    choices=('hf', 'nested', 'flat', 'stacked'),
    default='hf',
    help='hf: a folder for transformers, vLLM and this library (the default); '
    'the others: an Orbax checkpoint',
  )
  parser.add_argument(
    '--merge-lora',
    metavar='FOLDER',
    help='a LoRA adapter of PEFT to add to the weights',
  )
  parser.add_argument(
    '--model',
    choices=gm.nn.PRESETS,
    metavar='NAME',
    help='the architecture, such as Gemma3_1B, where SRC does not say it',
  )
  parser.add_argument(
    '--text-only', action='store_true', help='leave out a vision encoder'
  )
  parser.set_defaults(run=_convert.convert)


def _finetune_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    'model',
    metavar='MODEL',
    help='a Hugging Face folder, hf://org/name, or Gemma3_Tiny',
  )
  parser.add_argument(
    'data',
    metavar='DATA',
    help='conversations, such as lines of {"messages": [{"role": "user", '
    '"content": ...}, {"role": "assistant", "content": ...}]}',
  )
  parser.add_argument(
    '--out',
    required=True,
    metavar='DIR',
    help='the folder of the run: checkpoints, metrics.csv, curves.svg, and in '
    'the end adapter or model',
  )
  parser.add_argument(
    '--full', action='store_true', help='train all weights, not adapters'
  )
  _numbers(
    parser,
    ('rank', 8, 'of the adapters'),
    ('steps', 300, 'batches to learn from'),
    ('batch-size', 8, 'rows of a batch'),
    ('length', 512, 'most tokens of a row'),
    ('accumulate', 1, 'parts that a batch is taken in, to save memory'),
    ('save-every', 100, 'steps between checkpoints'),
    ('seed', 0, 'of the order and of new adapters'),
  )
  parser.add_argument(
    '--learning-rate',
    type=float,
    metavar='X',
    help='the highest; default: 5e-4, with --full 2e-5',
  )
  parser.add_argument(
    '--eval-data',
    metavar='FILE',
    help='held-out examples: their loss at each checkpoint, and how many of '
    'the first 100 are answered exactly right in the end',
  )
  parser.add_argument(
    '--pack',
    action='store_true',
    help='put several examples into a row, side by side',
  )
  parser.add_argument(
    '--quantize',
    choices=('int8', 'int4'),
    help='round the weights under the adapters, to save memory',
  )
  parser.add_argument(
    '--remat',
    choices=('none', 'dots', 'full'),
    default='dots',
    help='how much is computed again to save memory; default: %(default)s',
  )
  parser.set_defaults(run=_finetune.finetune)


def _numbers(
  parser: argparse.ArgumentParser, *numbers: tuple[str, int, str]
) -> None:
  for name, default, about in numbers:
    parser.add_argument(
      f'--{name}',
      type=int,
      default=default,
      metavar='N',
      help=f'{about}; default: %(default)s',
    )
