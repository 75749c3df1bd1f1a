"""The optimizer that most fine-tuning uses."""

import jax.numpy as jnp
import optax

from gemma.gm.math import _numbers


def adamw(
  learning_rate: float,
  *,
  steps: int,
  warmup: float = 0.05,
  weight_decay: float = 0.0,
  clip: float = 1.0,
) -> optax.GradientTransformation:
  """AdamW whose rate rises in a line, then falls along a cosine to 0.

  Gradients are clipped together to a norm. The state tells the rate, so that
  `gm.training.make_step` reports it. Any other optimizer of Optax will do too.

  ```python
  >>> from gemma import gm
  >>> optimizer = gm.training.adamw(1e-4, steps=1000)

  ```

  Args:
    learning_rate: The highest.
    steps: Steps of the run.
    warmup: Share of the steps in which the rate rises.
    weight_decay: How much weights shrink, per step and rate.
    clip: Highest norm of all gradients together.

  Raises:
    TypeError: If one is not a number.
    ValueError: If one is not finite, or out of its range.
  """
  _numbers.whole(1, steps=steps)
  _numbers.share(warmup=warmup)
  _numbers.at_least(0, learning_rate=learning_rate, weight_decay=weight_decay)
  _numbers.above(0, clip=clip)
  rise = max(round(warmup * steps), 1)
  schedule = optax.warmup_cosine_decay_schedule(
    learning_rate / rise, learning_rate, rise, max(steps, rise + 1)
  )

  def with_rate(learning_rate):
    return optax.chain(
      optax.clip_by_global_norm(clip),
      optax.adamw(learning_rate, b2=0.99, weight_decay=weight_decay),
    )

  # In float32 even where the weights have fewer bits.
  inject = optax.inject_hyperparams(with_rate, hyperparam_dtype=jnp.float32)
  return inject(learning_rate=schedule)
