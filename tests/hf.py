"""Tiny models in `transformers`, the independent implementation."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from gemma import gm
from gemma.gm.ckpts import _hf_config

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def make_model(case, seed=0):
  """A `transformers` model of a case, with random weights of its own."""
  config = _hf_config.to_hf(case.config)
  config['max_position_embeddings'] = 512
  if 'vision_config' in config:
    config['text_config']['max_position_embeddings'] = 512
  model_type = config.pop('model_type')
  torch.manual_seed(seed)
  config = transformers.AutoConfig.for_model(model_type, **config)
  config._attn_implementation = 'eager'  # Soft caps are dropped by others.
  auto = transformers.AutoModelForCausalLM
  if case.config.vision_encoder is not None:
    auto = transformers.AutoModelForImageTextToText
  model = auto.from_config(config)
  for name, param in model.named_parameters():
    torch.nn.init.normal_(param, 0, 0.3 if 'norm' in name else 0.2)
  return model.eval()


def read_model(folder: pathlib.Path):
  """Any folder, as `transformers` reads it."""
  return transformers.AutoModelForCausalLM.from_pretrained(
    folder, attn_implementation='eager', dtype=torch.float32
  ).eval()


def logits(model, tokens: np.ndarray) -> np.ndarray:
  """Logits where there are tokens; padding may stand on the left."""
  tokens = torch.tensor(np.asarray(tokens), dtype=torch.long)
  real = tokens != 0
  positions = (real.cumsum(1) - 1).clamp(min=0)
  with torch.no_grad():
    out = model(tokens, attention_mask=real.long(), position_ids=positions)
  return out.logits.float().numpy()


def attention_maps(model, tokens: np.ndarray) -> list[np.ndarray]:
  """Of each layer, `[B, N, Q, K]`, for rows without padding."""
  with torch.no_grad():
    out = model(torch.tensor(tokens).long(), output_attentions=True)
  return [layer.float().numpy() for layer in out.attentions]


def read_picture_model(folder: pathlib.Path):
  """A folder with a vision encoder, as `transformers` reads it."""
  return transformers.AutoModelForImageTextToText.from_pretrained(
    folder, attn_implementation='eager', dtype=torch.float32
  ).eval()


def pixels(images: np.ndarray) -> torch.Tensor:
  """Images of the encoder's size, one after the other, as it takes them."""
  images = torch.tensor(np.asarray(images, np.float32))
  images = images.reshape(-1, *images.shape[-3:]).permute(0, 3, 1, 2)
  return (images / 255 - 0.5) / 0.5


def soft_tokens(model, images: np.ndarray) -> np.ndarray:
  with torch.no_grad():
    out = model.get_image_features(pixels(images))
  return getattr(out, 'pooler_output', out).numpy()


def picture_logits(model, tokens: np.ndarray, images: np.ndarray) -> np.ndarray:
  """Logits of tokens with room for images, each row with its first ones."""
  tokens, soft = torch.tensor(np.asarray(tokens)).long(), -2
  real, here = tokens != 0, tokens == soft
  positions = (real.cumsum(1) - 1).clamp(min=0)
  shown = [
    row[: int(count) // model.config.mm_tokens_per_image]
    for row, count in zip(images, here.sum(1), strict=True)
  ]
  with torch.no_grad():
    out = model(
      torch.where(here, model.config.image_token_id, tokens),
      pixel_values=pixels(np.concatenate(shown)),
      attention_mask=real.long(),
      position_ids=positions,
      token_type_ids=here.long(),
    )
  return out.logits.float().numpy()


def picture_greedy(
  model, tokens: list[int], images: np.ndarray, count: int, banned: list[int]
) -> list[int]:
  """The next tokens behind a row with room for images, by its own cache."""
  row = torch.tensor([tokens])
  here = row == -2
  its = {'pixel_values': pixels(images)} if len(images) else {}
  out = model.generate(
    torch.where(here, model.config.image_token_id, row),
    **its,
    attention_mask=torch.ones_like(row),
    token_type_ids=here.long(),
    do_sample=False,
    max_new_tokens=count,
    eos_token_id=None,
    suppress_tokens=banned,
  )
  return out[0, len(tokens) :].tolist()


def greedy(model, row: list[int], count: int) -> list[int]:
  """The next tokens, one full forward pass each; padding is never picked."""
  row = list(row)
  for _ in range(count):
    scores = logits(model, np.array([row]))[0, -1]
    scores[0] = -np.inf
    row.append(int(scores.argmax()))
  return row[-count:]


def folder_of(case, path: pathlib.Path, **kwargs):
  """Saves a random model; returns it and what `from_pretrained` reads.

  The weights are bound to no device, as those of cases are: both run the same
  compiled programs.
  """
  model = make_model(case)
  model.save_pretrained(path, **kwargs)
  read = gm.from_pretrained(path)
  unbound = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), read.params)
  return model, dataclasses.replace(read, params=unbound)


def image_levels(image, size: int) -> np.ndarray:
  """An image as the processor of Gemma 3 has it, as levels of 255."""
  from transformers.models.gemma3 import image_processing_pil_gemma3 as pil

  processor = pil.Gemma3ImageProcessorPil(
    size={'height': size, 'width': size},
    image_mean=[0.5] * 3,
    image_std=[0.5] * 3,
  )
  (values,) = processor(image)['pixel_values']
  levels = np.moveaxis(np.asarray(values), 0, -1) * 127.5 + 127.5
  return np.rint(levels).astype(np.uint8)
