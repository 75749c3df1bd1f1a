"""From one format of weights to another."""

import argparse
import dataclasses
import pathlib
from typing import Any

from gemma import gm
from gemma import peft
from gemma.cli import _progress
from gemma.gm.ckpts import _paths

# What belongs to the tokenizer, besides what `Tokenizer.hf_files` makes.
_TOKENIZER_FILES = (
  'tokenizer.model',
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'chat_template.jinja',
  'chat_template.json',
  'generation_config.json',
)


def convert(args: argparse.Namespace) -> None:
  """Reads a checkpoint, and writes it in another layout or dtype."""
  target = pathlib.Path(args.target).expanduser()
  if target.exists():  # Said before the weights are read, not after.
    raise FileExistsError(f'{target} exists. Remove it or choose another name.')
  folder = _paths.existing_folder(args.source)
  is_hf, lora = args.layout == 'hf', {}
  if is_hf or args.merge_lora:
    model = _model(folder, args.model)
  if args.merge_lora:
    lora = gm.ckpts.load_adapter(args.merge_lora, model=model)
  with _progress.bar() as on_progress:
    params = gm.ckpts.load_params(
      folder,
      dtype=args.dtype,
      text_only=args.text_only,
      on_progress=on_progress,
    )
  params = peft.fuse_params(peft.merge_params(params, lora))
  files = _tokenizer_files(folder)
  if is_hf:
    gm.ckpts.save_hf(
      target, model=model, params=params, tokenizer=_Files(files)
    )
  else:
    layout = args.layout.upper()
    gm.ckpts.save_params(
      params, target, layout=layout, wait_until_finished=True
    )
    for name, content in files.items():
      (target / name).write_bytes(content)
  print(target)


@dataclasses.dataclass(frozen=True)
class _Files:
  """A tokenizer as the files that it is stored in."""

  files: dict[str, bytes]

  def hf_files(self, config: Any = None) -> dict[str, bytes]:
    del config  # As they are.
    return self.files


def _model(folder: pathlib.Path, name: str | None) -> gm.nn.Transformer:
  """The architecture: by name, or that of the folder."""
  if name is not None:
    return gm.nn.PRESETS[name]()
  if not (folder / 'config.json').exists():
    raise ValueError(
      f'{folder} has no config.json, so its architecture is not known. Name '
      'it, such as --model Gemma3_1B.'
    )
  return gm.model_from_folder(folder)


def _tokenizer_files(folder: pathlib.Path) -> dict[str, bytes]:
  """Those of the folder as they are, and those that can be made from them."""
  present = [folder / name for name in _TOKENIZER_FILES]
  own = {file.name: file.read_bytes() for file in present if file.is_file()}
  if not own.keys() & {'tokenizer.model', 'tokenizer.json'}:
    return own
  try:
    made = gm.text.Tokenizer.from_path(folder).hf_files()
  except ValueError:  # Not a vocabulary that we know: its files will do.
    made = {}
  return made | own
