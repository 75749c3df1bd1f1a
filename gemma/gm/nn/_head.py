"""The last product of a model, apart from it: for losses without logits.

Axes: *B any batch dims, V vocab, D model.
"""

from collections.abc import Mapping
from typing import Any

from flax import struct
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Float32
from jaxtyping import Int
from jaxtyping import Num

from gemma.gm.math import _cross_entropy
from gemma.gm.nn import _config


class Head(struct.PyTreeNode):
  """What makes logits of hidden states.

  Attributes:
    table: The embedding table, or the integers that stand for it.
    scale: The table is `table / scale`, if it is of integers.
    softcap: Bound of the logits, if they have one.
  """

  table: Num[Array, 'V D']
  scale: Float[Array, 'V 1'] | None = None
  softcap: float | None = struct.field(pytree_node=False, default=None)

  def losses(
    self,
    hidden: Float[Array, '*B D'],
    targets: Int[ArrayLike, '*B'],
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
  ) -> Float32[Array, '*B']:
    """See `gm.math.linear_cross_entropy`."""
    return _cross_entropy.linear_cross_entropy(
      hidden,
      self.table,
      targets,
      scale=self.scale,
      softcap=self.softcap,
      z_loss=z_loss,
      label_smoothing=label_smoothing,
    )


def head_of(
  params: Mapping[str, Any], config: _config.TransformerConfig
) -> Head:
  """The head of a model, for losses that never hold all logits.

  ```python
  >>> import jax, jax.numpy as jnp
  >>> from gemma import gm
  >>> tiny = gm.from_pretrained(gm.ckpts.CheckpointPath.GEMMA3_TINY_IT)
  >>> tokens = jnp.array([[2, 300, 301, 302]])
  >>> @jax.jit
  ... def losses(params):
  ...   out = tiny.model.apply(
  ...     {'params': params}, tokens[:, :-1], return_hidden_states=True
  ...   )
  ...   head = gm.nn.head_of(params, tiny.model.config)
  ...   return head.losses(out.hidden_states, tokens[:, 1:])
  >>> losses(tiny.params).shape
  (1, 3)

  ```

  Args:
    params: The model's parameters, or those of its `embedder` alone.
    config: The model's config.
  """
  embedder = params.get('embedder', params)
  return head_of_embedder(embedder, softcap=config.final_logit_softcap)


def head_of_embedder(
  embedder: Mapping[str, Any], *, softcap: float | None
) -> Head:
  """The head of a model, from the parameters of its embedder alone."""
  if '_IntEmbedder_0' in embedder:
    ints = embedder['_IntEmbedder_0']
    return Head(ints['kernel'], ints['scale'], softcap=softcap)
  return Head(jnp.asarray(embedder['input_embedding']), softcap=softcap)
