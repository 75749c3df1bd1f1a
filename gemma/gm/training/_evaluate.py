"""The loss of data that is held out."""

from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

from gemma.gm.nn import _compiled
from gemma.gm.sharding import _mesh
from gemma.gm.training import _rows
from gemma.gm.training import _state
from gemma.gm.training import _step


def make_eval(
  loss: _step.BatchLoss,
) -> Callable[[_state.TrainState, Iterable[Any]], float]:
  """A compiled evaluation: `value = evaluate(state, batches)`.

  The value is the mean over all tokens of all batches, whatever their sizes.

  Args:
    loss: What `make_step` takes; it is given no random key.
  """

  @_compiled.jit
  def of_batch(state: Any, batch: Any) -> Any:
    return loss(_state.model_params(state), batch, None)

  def evaluate(state: _state.TrainState, batches: Iterable[Any]) -> float:
    total, count = 0.0, 0.0
    mesh = _step.mesh_of(state)
    for batch in batches:
      _step.check_batch(loss, batch)
      with _mesh.use_mesh(mesh):
        mean = of_batch(state.replace(opt_state=None), _rows.put(batch, mesh))
      total, count = total + float(mean.total), count + float(mean.count)
    if not count:
      raise ValueError(
        'No token to evaluate: there are no batches, or no `loss_mask` is True.'
      )
    return total / count

  return evaluate
