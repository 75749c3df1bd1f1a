"""Checkpoints: weights in, weights out."""

from etils import epy as _epy

with _epy.lazy_api_imports(globals()):
  from gemma.gm.ckpts._adapters import load_adapter as load_adapter
  from gemma.gm.ckpts._adapters import save_adapter as save_adapter
  from gemma.gm.ckpts._load import load_params as load_params
  from gemma.gm.ckpts._matformer import slice_matformer as slice_matformer
  from gemma.gm.ckpts._orbax import save_params as save_params
  from gemma.gm.ckpts._paths import CheckpointPath as CheckpointPath
  from gemma.gm.ckpts._run import Resumed as Resumed
  from gemma.gm.ckpts._run import RunCheckpoints as RunCheckpoints
  from gemma.gm.ckpts._save_hf import save_hf as save_hf
  from gemma.gm.ckpts._transforms import (
    AnchoredPolicyLoader as AnchoredPolicyLoader,
  )
  from gemma.gm.ckpts._transforms import LoadCheckpoint as LoadCheckpoint
  from gemma.gm.ckpts._transforms import SkipLoRA as SkipLoRA
  from gemma.gm.ckpts._vocab import resize_vocab as resize_vocab
