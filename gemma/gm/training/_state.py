"""The state of a run: what is trained, what stands still, and the rest."""

from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
import optax

from gemma import peft
from gemma.gm.ckpts import _tree
from gemma.gm.sharding import _mesh
from gemma.peft import _select

# For `trainable`: all but encoders, and what leads from them to the text.
TEXT_PARAMS = r'^(?!vision_encoder/|audio_encoder/|embedder/(mm|audio)_)'


class TrainState(struct.PyTreeNode):
  """Everything that a step of training reads and writes.

  Attributes:
    step: Steps done, `int32[]`.
    params: What is trained, in the dtype that the optimizer works in.
    frozen: The other parameters, which have neither gradients nor a place in
      the optimizer.
    opt_state: State of the optimizer, for `params` alone.
    rng: Random key of the run. That of a step follows from it and `step`.
    dtypes: Dtypes that the model has `params` in, leaf by leaf, if they differ
      from those here.
  """

  step: Any
  params: Any
  frozen: Any
  opt_state: Any
  rng: Any
  dtypes: tuple[str, ...] | None = struct.field(pytree_node=False, default=None)


def init_state(
  params: Mapping[str, Any],
  optimizer: optax.GradientTransformation,
  *,
  trainable: str | Iterable[str] | None = None,
  master_dtype: DTypeLike | None = None,
  rng: int | jax.Array = 0,
) -> TrainState:
  """The state of a new run.

  ```python
  >>> import jax, optax
  >>> from gemma import gm, peft
  >>> tiny = gm.from_pretrained(gm.ckpts.CheckpointPath.GEMMA3_TINY_IT)
  >>> lora = peft.init_lora(tiny.params, rank=4, rng=jax.random.key(0))
  >>> params = peft.merge_params(tiny.params, lora)
  >>> state = gm.training.init_state(
  ...   params, optax.adam(1e-3), trainable='lora'
  ... )
  >>> 'final_norm' in state.frozen, 'final_norm' in state.params
  (True, False)

  ```

  What the optimizer keeps of a parameter lies where the parameter does. No
  parameter is copied, unless `master_dtype` changes it. The arrays that are
  trained belong to the state from here on: the first step gives their memory
  away. Those that are frozen stay yours.

  Args:
    params: Parameters of a model, nested dicts.
    optimizer: It is given what is trained, and nothing else.
    trainable: Regular expressions; a parameter is trained if its path, as
      `layer_0/attn/q_einsum/w`, has a match of one. `'lora'` is all adapters.
      By default, everything is trained.
    master_dtype: Dtype to keep `params` in, such as `'float32'`, where the
      model has fewer bits: small updates are lost in bfloat16. The model still
      computes in the dtypes that it has now.
    rng: Random key of the run, or a seed.

  Raises:
    ValueError: If a pattern matches nothing, or integers would be trained.
  """
  flat = _tree.leaves(params)
  chosen = _select.select(dict(params), trainable)
  trained = _tree.nest({path: flat[path] for path in chosen})
  frozen = {path: x for path, x in flat.items() if path not in chosen}
  dtypes = None
  if master_dtype is not None:
    dtypes = tuple(str(x.dtype) for x in jax.tree.leaves(trained))
    trained = jax.tree.map(lambda x: x.astype(master_dtype), trained)
  mesh = _mesh.mesh_of(params)
  return TrainState(
    step=_mesh.on_mesh(jnp.zeros((), jnp.int32), mesh),
    params=trained,
    frozen=_tree.nest(frozen),
    opt_state=_mesh.on_mesh(optimizer.init(trained), mesh),
    rng=_mesh.on_mesh(
      jax.random.key(rng) if isinstance(rng, int) else rng, mesh
    ),
    dtypes=dtypes,
  )


def model_params(state: TrainState) -> dict[str, Any]:
  """The parameters as the model takes them.

  What is trained and what is frozen are one tree again, and master weights are
  rounded to the dtypes of the model.

  ```python
  >>> import jax.numpy as jnp, optax
  >>> from gemma import gm
  >>> params = {'norm': {'scale': jnp.ones(2, 'bfloat16')}}
  >>> state = gm.training.init_state(
  ...   params, optax.sgd(1.0), master_dtype='float32'
  ... )
  >>> state.params['norm']['scale'].dtype.name
  'float32'
  >>> gm.training.model_params(state)['norm']['scale'].dtype.name
  'bfloat16'

  ```

  Args:
    state: The state of a run.
  """
  return join(state.params, state.frozen, state.dtypes)


def join(
  trained: Any, frozen: Any, dtypes: tuple[str, ...] | None
) -> dict[str, Any]:
  """Parameters of the model from the parts of a state; differentiable."""
  if dtypes is not None:
    leaves, structure = jax.tree.flatten(trained)
    cast = [x.astype(d) for x, d in zip(leaves, dtypes, strict=True)]
    trained = jax.tree.unflatten(structure, cast)
  return peft.merge_params(frozen, trained)
