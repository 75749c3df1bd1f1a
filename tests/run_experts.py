"""Runs a model with the experts of each layer spread over the devices."""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import numpy as np

import cases


def main() -> None:
  """Compares logits and gradients with those of one device."""
  case = cases.NAMED['gemma4_experts']
  mesh = jax.sharding.Mesh(np.array(jax.devices()), ('expert',))

  def place(path, x):
    experts = path[1].key == 'mlp' and path[-1].key == 'w' and x.ndim > 2
    spec = jax.sharding.PartitionSpec('expert' if experts else None)
    return jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))

  params = jax.tree_util.tree_map_with_path(place, case.params)
  gating = params['layer_0']['mlp']['gating_einsum']['w']
  assert gating.sharding.shard_shape(gating.shape)[0] == 1
  for tokens in (case.tokens(), case.tokens(rows=1, length=1)):

    def loss(params, tokens=tokens):
      logits = case.model.apply({'params': params}, tokens).logits
      return (logits**2).mean(), logits

    run = jax.jit(jax.grad(loss, has_aux=True))
    one, whole = run(case.params)
    many, parts = run(params)
    np.testing.assert_allclose(parts, whole, atol=case.noise, rtol=0)
    largest = max(np.abs(x).max() for x in jax.tree.leaves(one))
    for a, b in zip(jax.tree.leaves(many), jax.tree.leaves(one), strict=True):
      np.testing.assert_allclose(a, b, atol=1e-5 * largest)


if __name__ == '__main__':
  main()
