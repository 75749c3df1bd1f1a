"""What each verb does."""

import argparse
import pathlib
import sys
from typing import Any

from gemma import gm
from gemma import peft
from gemma.cli import _progress

BUNDLED = 'Gemma3_Tiny'


def chat(args: argparse.Namespace) -> None:
  """Reads a line, prints the answer, and so on; `/new` begins again.

  What the model thinks is printed with its answer, in its tags.
  """
  images = [*map(_read_image, args.image)]
  fields = _sampler_fields(args, text_only=args.text_only)
  sampler = gm.text.ChatSampler(
    **fields, multi_turn=True, thinking=args.think, show_thoughts=True
  )
  if sys.stdin.isatty():
    print(
      'Say something. /image FILE goes with what you say next, /think turns '
      'thinking on or off, /new begins a new conversation, /exit leaves.'
    )
  while (line := _read_line()) not in (None, '/exit'):
    if line == '/new':
      sampler.new_conversation()
    elif line == '/think':
      sampler.thinking = not sampler.thinking
      print(f'Thinking is {"on" if sampler.thinking else "off"}.')
    elif line.split()[:1] == ['/image']:
      images += _opened(line.removeprefix('/image').strip())
    elif line:
      _answer(sampler, line, images, args)
      images = []


def sample(args: argparse.Namespace) -> None:
  """Prints the prompt and what the model makes of it."""
  images = [*map(_read_image, args.image)]
  fields = _sampler_fields(args, text_only=not images)
  pieces = gm.text.Sampler(**fields).sample(
    args.prompt,
    images=images or None,
    max_new_tokens=args.max_new_tokens,
    rng=args.seed,
    stream=True,
  )
  print(args.prompt, end='', flush=True)
  for piece in pieces:
    print(piece, end='', flush=True)
  print()


def summary(args: argparse.Namespace) -> None:
  """Prints the table of a model; no weights are needed."""
  if args.model in gm.nn.PRESETS:
    model, name = gm.nn.PRESETS[args.model](), args.model
  else:
    model, name = (
      gm.model_from_folder(args.model),
      pathlib.Path(args.model).name,
    )
  table = gm.nn.summarize(model, name)
  print(table)
  if args.picture:
    file = pathlib.Path(args.picture)
    file.write_text(gm.nn.picture(table))
    print(f'\nPicture: {file}')


def open_model(path: str, **options: Any) -> gm.Pretrained:
  """The model of a folder, or the bundled one; shows how far loading is.

  Args:
    path: A folder, `hf://org/name`, or the name of the bundled model.
    **options: Those of `gm.from_pretrained`.

  Raises:
    ValueError: If it is the name of a size whose weights are elsewhere.
  """
  if path == BUNDLED:
    path = gm.ckpts.CheckpointPath.GEMMA3_TINY_IT
  elif path in gm.nn.PRESETS:
    raise ValueError(
      f'{path} names an architecture; its weights are not in the package. '
      'Download them, and give the folder.'
    )
  with _progress.bar() as on_progress:
    return gm.from_pretrained(path, on_progress=on_progress, **options)


def told(error: Exception) -> str:
  """An error as one who types it wants to read it, with its notes."""
  notes = getattr(error, '__notes__', [])
  text = error.args[0] if isinstance(error, KeyError) else error
  return ' '.join([f'gemma: {text}', *notes])


def _opened(file: str) -> list[Any]:
  """The image of a file, or none; the conversation goes on without it."""
  try:
    return [_read_image(file)]
  except (ValueError, OSError) as e:
    print(told(e), file=sys.stderr)
    return []


def _read_image(file: str) -> Any:
  try:
    return gm.vision.read_image(file)
  except TypeError as e:  # Pixels of a kind that no model takes.
    raise ValueError(f'{file}: {e}') from e


def _answer(
  sampler: gm.text.ChatSampler,
  line: str,
  images: list[Any],
  args: argparse.Namespace,
) -> None:
  """Prints the answer; the conversation survives a prompt that fails."""
  try:
    sampler.chat(
      line,
      images=images or None,
      max_new_tokens=args.max_new_tokens,
      rng=args.seed,
      print_stream=True,
    )
  except ValueError as e:
    print(f'{told(e)} /new begins a new conversation.', file=sys.stderr)
    return
  if sampler.finish_reason not in ('stop', 'eos'):
    print(f'gemma: cut short: {sampler.finish_reason}', file=sys.stderr)


def _read_line() -> str | None:
  """The next line; None at the end. A piped line is shown as if typed."""
  try:
    line = input('> ' if sys.stdin.isatty() else '').strip()
  except EOFError:
    return None
  if not sys.stdin.isatty():
    print(f'> {line}')
  return line


def _sampler_fields(
  args: argparse.Namespace, *, text_only: bool
) -> dict[str, Any]:
  """Model, weights and settings, as keywords of a sampler."""
  model, params, tokenizer = open_model(
    args.model,
    dtype=args.dtype,
    text_only=text_only,
    quantize=args.quantize or False,
  )
  if args.adapter:
    lora = gm.ckpts.load_adapter(args.adapter, model=model)
    params = peft.merge_params(params, lora)
  return {
    'model': model,
    'params': params,
    'tokenizer': tokenizer,
    'sampling': gm.text.TopPSampling(
      p=args.top_p, temperature=args.temperature
    ),
    'cache_length': args.cache_length,
    'max_out_length': args.max_new_tokens,
  }
