"""A policy that is trained, beside the model that it started from."""

from typing import Any

from flax import linen as nn
from flax import struct
import jax

from gemma.gm.nn import _config
from gemma.gm.nn import _info
from gemma.gm.nn import _lora
from gemma.gm.nn import _transformer


class AnchoredPolicyOutput(struct.PyTreeNode):
  """What an `AnchoredPolicy` returns.

  Attributes:
    policy: What the policy returned.
    anchor: What the anchor returned; it has no gradient.
  """

  policy: _transformer.Output
  anchor: _transformer.Output


class AnchoredPolicy(nn.Module):
  """Two models of the same inputs, for losses that compare them.

  ```python
  >>> import jax, jax.numpy as jnp
  >>> from gemma import gm
  >>> model = gm.nn.AnchoredPolicy(policy=gm.nn.Gemma3_Tiny())
  >>> tokens = jnp.array([[2, 300, 301]])
  >>> params = model.init(jax.random.key(0), tokens)['params']
  >>> sorted(params)
  ['anchor', 'policy']
  >>> out = model.apply({'params': params}, tokens)
  >>> out.policy.logits.shape == out.anchor.logits.shape
  True

  ```

  Each starts from parameters of its own: `gm.ckpts.AnchoredPolicyLoader` fills
  both. After training, `params['policy']` are parameters of the model itself:
  `gm.text.ChatSampler(model=policy, params=params['policy'])`.

  The anchor has no gradient, but an optimizer keeps its state of it unless it
  is told what to train: `kd.optim.partial_updates(optimizer,
  mask=kd.optim.select('policy'))`. Where a second model does not fit, compute
  its part before: `gm.losses.with_anchor_logprobs`.

  Attributes:
    policy: The model that is trained.
    anchor: The model that stays as it is; by default one like the policy.
  """

  policy: _lora.Model
  anchor: _lora.Model | None = None

  def setup(self):
    self._anchor: Any = self.anchor
    if self.anchor is None:
      self._anchor = self.policy.clone(
        parent=self, name='anchor', _deep_clone=True
      )

  @property
  def config(self) -> _config.TransformerConfig:
    """That of the policy."""
    return self.policy.config

  @property
  def INFO(self) -> _info.ModelInfo:
    """That of the policy."""
    return self.policy.INFO

  def __kontext_keys__(self) -> dict[str, str | None]:
    """Where Kauldron finds each argument of the call."""
    return self.policy.__kontext_keys__()

  def __call__(self, *args: Any, **kwargs: Any) -> AnchoredPolicyOutput:
    """What both return, see `Transformer`."""
    anchor = self._anchor(*args, **kwargs)
    return AnchoredPolicyOutput(
      policy=self.policy(*args, **kwargs),
      anchor=jax.lax.stop_gradient(anchor),
    )
