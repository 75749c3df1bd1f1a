"""The vision encoder in a Hugging Face `config.json`, and back."""

from collections.abc import Mapping
from typing import Any

from gemma.gm.ckpts import _hf_keys
from gemma.gm.nn import _config
from gemma.gm.vision import _expand
from gemma.gm.vision import _siglip

# Ids around an image; of two spellings the last is written. The newlines are a
# key of ours: others add them as text.
_IDS = {
  'start': ('boi_token_id', 'boi_token_index'),
  'end': ('eoi_token_id', 'eoi_token_index'),
  'soft': ('image_token_id', 'image_token_index'),
  'newlines': ('newlines_token_index',),
}
# The keys that a file may leave out, with the values of the published ones:
# those of the Hugging Face class are of another size.
_PUBLISHED = {
  'hidden_size': 1152,
  'intermediate_size': 4304,
  'num_hidden_layers': 27,
  'num_attention_heads': 16,
  'image_size': 896,
  'patch_size': 14,
}
_FIXED = {
  'num_channels': 3,
  'layer_norm_eps': 1e-6,
  'hidden_act': 'gelu_pytorch_tanh',
  'vision_use_head': False,
}
_SOFT_TOKENS = 'mm_tokens_per_image'


def from_hf(config: Mapping[str, Any]) -> dict[str, Any]:
  """Fields of a `TransformerConfig` from a whole `config.json`.

  Args:
    config: The parsed file; without a `vision_config`, there is no encoder.

  Raises:
    ValueError: If the file asks for an encoder that Gemma 3 does not have.
  """
  given = config.get('vision_config')
  if given is None:
    return {}
  file = _PUBLISHED | _hf_keys.VISION.check(given)
  encoder = _siglip.siglip(
    image_size=file['image_size'],
    patch_size=file['patch_size'],
    soft_tokens=config.get(_SOFT_TOKENS, 256),
    width=file['hidden_size'],
    depth=file['num_hidden_layers'],
    mlp_dim=file['intermediate_size'],
    num_heads=file['num_attention_heads'],
  )
  ids = {
    field: config[key]
    for field, names in _IDS.items()
    for key in names
    if key in config
  }
  return {
    'vision_encoder': encoder,
    'image_tokens': _expand.ImageTokens(**ids),
  }


def to_hf(
  config: _config.TransformerConfig, text: Mapping[str, Any]
) -> dict[str, Any]:
  """The whole file of a model with a vision encoder.

  Args:
    config: Its config.
    text: The file of its text model.

  Raises:
    ValueError: If no Hugging Face Gemma class can hold the encoder.
  """
  encoder = config.vision_encoder
  if encoder is None or text['model_type'] != 'gemma3_text':
    raise ValueError(
      f'No Hugging Face class has a vision encoder in a {text["model_type"]} '
      'model: take one with use_qk_norm, which is Gemma 3.'
    )
  vit, ids = encoder.siglip_encoder, config.image_tokens
  out = {
    'architectures': ['Gemma3ForConditionalGeneration'],
    'model_type': 'gemma3',
    'text_config': {k: v for k, v in text.items() if k != 'architectures'},
    'vision_config': {
      'model_type': 'siglip_vision_model',
      'hidden_size': vit.width,
      'intermediate_size': vit.mlp_dim,
      'num_hidden_layers': vit.depth,
      'num_attention_heads': vit.num_heads,
      'image_size': encoder.image_height,
      'patch_size': vit.patch_size[0],
      **_FIXED,
    },
    _SOFT_TOKENS: encoder.num_mm_tokens_per_image,
    **{names[-1]: getattr(ids, field) for field, names in _IDS.items()},
    'tie_word_embeddings': True,
  }
  for key in ('pad_token_id', 'eos_token_id', 'bos_token_id'):
    out[key] = text[key]
  _check_inverse(encoder, from_hf(out)['vision_encoder'])
  return out


def preprocessor(encoder: _siglip.SigLiPFromPatches) -> dict[str, Any]:
  """The `preprocessor_config.json` that says what we do inside the model."""
  return {
    'image_processor_type': 'Gemma3ImageProcessor',
    'processor_class': 'Gemma3Processor',
    'image_seq_length': encoder.num_mm_tokens_per_image,
    'do_resize': True,
    'size': {'height': encoder.image_height, 'width': encoder.image_width},
    'resample': 2,  # Bilinear.
    'do_rescale': True,
    'rescale_factor': 1 / 255,
    'do_normalize': True,
    'image_mean': [0.5] * 3,
    'image_std': [0.5] * 3,
    'do_convert_rgb': None,
    'do_pan_and_scan': None,
  }


def _check_inverse(
  mine: _siglip.SigLiPFromPatches, theirs: _siglip.SigLiPFromPatches
) -> None:
  """Raises if reading the file would not give the same encoder back."""
  fields = ('image_height', 'image_width', 'image_channels')
  pairs = [
    (name, getattr(mine, name), getattr(theirs, name)) for name in fields
  ]
  vits = mine.siglip_encoder.patch_size, theirs.siglip_encoder.patch_size
  for name, ours, read in (*pairs, ('patch_size', *vits)):
    if ours != read:
      raise ValueError(
        f'{name}={ours!r} of the vision encoder has no place in a Hugging Face '
        'config: images and patches are squares of 3 channels there.'
      )
