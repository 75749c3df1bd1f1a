"""Writes `golden/checkpoints`: tiny checkpoints that others have written.

Run with the published package (`pip install gemma==3.3.0`, Python 3.12), then
with the newest trainer (`pip install kauldron==1.4.4`):

```sh
python tests/make_golden_checkpoints.py gemma
python tests/make_golden_checkpoints.py kauldron
```

The weights need no file, so `test_load_params.py` knows what must come out.
"""

import pathlib
import shutil
import sys
import zlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent / 'golden' / 'checkpoints'
_D, _F, _N, _K, _H, _V, _W = 4, 6, 2, 1, 2, 8, 3


def params():
  """A make-believe Gemma 3 of 8 layers with a vision encoder, in float32."""
  shapes = {
    'embedder/input_embedding': (_V, _D),
    'embedder/mm_input_projection/w': (_W, _D),
    'embedder/mm_soft_embedding_norm/scale': (_W,),
    'final_norm/scale': (_D,),
    'vision_encoder/siglip_encoder/pos_embedding': (1, 4, _W),
    'vision_encoder/siglip_encoder/embedding/kernel': (1, 1, 3, _W),
    'vision_encoder/siglip_encoder/Transformer/encoderblock_0/MlpBlock_0/'
    'Dense_0/kernel': (_W, _W),
  }
  for i in range(8):
    shapes |= {
      f'layer_{i}/attn/q_einsum/w': (_N, _D, _H),
      f'layer_{i}/attn/kv_einsum/w': (2, _K, _D, _H),
      f'layer_{i}/attn/attn_vec_einsum/w': (_N, _H, _D),
      f'layer_{i}/attn/_query_norm/scale': (_H,),
      f'layer_{i}/mlp/gating_einsum': (2, _F, _D),
      f'layer_{i}/mlp/linear': (_F, _D),
      f'layer_{i}/post_attention_norm/scale': (_D,),
    }
  out = {}
  for path, shape in shapes.items():
    *keys, last = path.split('/')
    inner = out
    for key in keys:
      inner = inner.setdefault(key, {})
    rng = np.random.RandomState(zlib.crc32(path.encode()))
    inner[last] = rng.normal(size=shape).astype(np.float32)
  return out


def _folder(name):
  shutil.rmtree(FOLDER / name, ignore_errors=True)
  FOLDER.mkdir(parents=True, exist_ok=True)
  return FOLDER / name


def _by_gemma():
  import jax

  from gemma.gm.ckpts import _checkpoint

  nested = jax.tree.map(jax.numpy.asarray, params())
  trees = {
    'flat': _checkpoint._nested_to_flat(nested),
    'stacked': _checkpoint._nested_to_stacked(nested, 6),
  }
  for name, tree in trees.items():
    _checkpoint.save_params(tree, _folder(name), wait_until_finished=True)


def _by_kauldron(folder=None):
  import jax
  from kauldron import kd
  import optax

  folder = folder or _folder('trainer')
  nested = jax.tree.map(jax.numpy.asarray, params())
  state = kd.train.TrainState(
    step=jax.numpy.asarray(3),
    params=nested,
    opt_state=optax.sgd(1e-3, momentum=0.9).init(nested),
    collections={},
  )
  checkpointer = kd.ckpts.Checkpointer(workdir=folder, save_interval_steps=1)
  checkpointer.save(state, step=3, force=True)
  checkpointer.wait_until_finished()


if __name__ == '__main__':
  {'gemma': _by_gemma, 'kauldron': _by_kauldron}[sys.argv[1]]()
