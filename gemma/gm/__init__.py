"""The library's front door: `from gemma import gm`.

Every name below is imported on first use, so that the import is quick and a
name that is never touched costs nothing.
"""

from etils import epy as _epy

with _epy.lazy_api_imports(globals()):
  from gemma import peft as peft
  from gemma.gm import ckpts as ckpts
  from gemma.gm import data as data
  from gemma.gm import evals as evals
  from gemma.gm import losses as losses
  from gemma.gm import math as math
  from gemma.gm import nn as nn
  from gemma.gm import sharding as sharding
  from gemma.gm import text as text
  from gemma.gm import training as training
  from gemma.gm import typing as typing
  from gemma.gm import vision as vision
  from gemma.gm._pretrained import Pretrained as Pretrained
  from gemma.gm._pretrained import from_pretrained as from_pretrained
  from gemma.gm._pretrained import model_from_folder as model_from_folder
