"""The bundled model with two of its layers: it compiles in a third of the time.

Trainers find `model` by its name, as they find the models of the library.
"""

import dataclasses
import json

from gemma import gm

TINY_IT = gm.ckpts.CheckpointPath.GEMMA3_TINY_IT
_TINY = 'gemma.gm:nn.Gemma3_Tiny'


def model(**fields):
  """`gm.nn.Gemma3_Tiny` with its last two layers, a local and a global one."""
  whole = gm.nn.Gemma3_Tiny(**fields)
  kinds = whole.config.attention_types[-2:]
  config = dataclasses.replace(whole.config, attention_types=kinds)
  return whole.clone(config=config)


def save(folder):
  """Saves its weights, for a trainer to begin with."""
  params = gm.ckpts.load_params(TINY_IT)
  layers = {'layer_0': params['layer_4'], 'layer_1': params['layer_5']}
  others = {k: v for k, v in params.items() if not k.startswith('layer_')}
  gm.ckpts.save_params(others | layers, folder)


def cut(config, folder):
  """A config that trains this model in place of the bundled one.

  Args:
    config: A config of Kauldron.
    folder: Where the weights are.
  """
  from kauldron import konfig

  text = json.dumps(json.loads(config.to_json()))
  text = text.replace(_TINY, f'{__name__}:model')
  weights = json.dumps(
    {'__const__': 'gemma.gm:ckpts.CheckpointPath.GEMMA3_TINY_IT'}
  )
  text = text.replace(weights, json.dumps(str(folder)))
  return konfig.ConfigDict(json.loads(text))
