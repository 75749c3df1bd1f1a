"""What a loop needs besides the step."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import itertools
import os
import pathlib
import time
from typing import Any
from typing import Protocol
from typing import runtime_checkable

import jax

from gemma.gm.ckpts import _run as _checkpoints
from gemma.gm.math import _numbers
from gemma.gm.training import _curves
from gemma.gm.training import _metrics
from gemma.gm.training import _preemption
from gemma.gm.training import _progress
from gemma.gm.training import _same_run
from gemma.gm.training import _state
from gemma.gm.training import _step

_METRICS, _CURVES = 'metrics.csv', 'curves.svg'


@runtime_checkable
class Seekable(Protocol):
  """Batches that can go on anywhere."""

  @property
  def position(self) -> Any:
    """Where the next batch is, in numbers and text."""

  def seek(self, position: Any, /) -> None:
    """Goes where `position` was."""


class Run:
  """A loop that goes on after any interruption, and shows how far it is.

  ```python
  >>> import tempfile
  >>> import jax.numpy as jnp, optax
  >>> from gemma import gm
  >>> def loss(params, batch, rng):
  ...   errors = (params['w'] - batch) ** 2
  ...   return gm.losses.Mean(errors.sum(), jnp.float32(errors.size))
  >>> optimizer = optax.sgd(0.1)
  >>> state = gm.training.init_state({'w': jnp.zeros(4)}, optimizer)
  >>> step = gm.training.make_step(loss, optimizer)
  >>> batches = [jnp.ones(4)] * 9
  >>> folder = tempfile.mkdtemp()
  >>> with gm.training.Run(
  ...   folder, state, batches, steps=8, save_every=4, progress=False
  ... ) as run:
  ...   for batch in run:
  ...     run.state, metrics = step(run.state, batch)
  ...     run.log(metrics)
  >>> run.step, [f'{row["loss"]:.2f}' for row in run.rows[:3]]
  (8, ['1.00', '0.90', '0.81'])

  ```

  In the folder are `checkpoints`, of all but the frozen parameters;
  `metrics.csv`, a row for each step; `curves.svg`, which shows the same; and
  `run.json`, which says what run it is. The same lines on the same folder go
  on at the newest checkpoint, bit for bit as if nothing had happened. Rows of
  steps that are done once more are taken out first.

  On SIGTERM, which machines get before they are taken away, the step that is
  under way is finished and saved, and the program ends with code 143, as if the
  signal had ended it. With several processes, one that gets it is enough.

  With several processes all make the same calls on one shared folder; the
  first one writes rows and pictures.

  Attributes:
    folder: The folder.
    state: The newest state. The loop assigns it.
    step: Number of the step that the loop is at, from 1; behind the loop, how
      many are done.
  """

  def __init__(
    self,
    folder: str | os.PathLike[str],
    state: _state.TrainState,
    batches: Iterable[Any],
    *,
    steps: int | None = None,
    save_every: int = 100,
    keep: int | None = 2,
    config: Mapping[str, Any] | None = None,
    progress: bool = True,
  ):
    """Touches nothing yet; `with` does.

    Args:
      folder: Of this run alone.
      state: That of a new run.
      batches: `gm.data.Batches`, or others with a `position` and `seek`. What
        has none is begun anew after an interruption, and led past the steps
        that are done: it must give the same once more.
      steps: Steps of the whole run; by default, until there are no batches.
      save_every: Steps between checkpoints. The last step has one too.
      keep: How many checkpoints stay; None for all.
      config: What makes this run what it is, such as rates and files, for
        JSON. A folder with another one is refused.
      progress: Whether to show a bar on a terminal, and lines elsewhere.

    Raises:
      ValueError: If a number is not positive, or not whole.
    """
    _numbers.whole(1, save_every=save_every, **_numbers.given(steps=steps))
    self.folder = pathlib.Path(folder).expanduser().absolute()
    self.state = state
    self.step = 0
    self._batches = batches
    self._steps = steps
    self._save_every = save_every
    self._config = dict(config or {})
    self._checkpoints = _checkpoints.RunCheckpoints(
      self.folder / 'checkpoints', keep=keep
    )
    self._metrics = _metrics.Metrics(self.folder / _METRICS)
    self._bar = _progress.Progress(steps, show=progress and _is_first())
    self._source: Iterator[Any] | None = None
    self._row: dict[str, Any] = {}
    self._late: tuple[int, dict[str, Any]] | None = None
    self._saved = 0
    self._preemption = _preemption.Preemption()

  @property
  def rows(self) -> list[dict[str, float]]:
    """What was logged, step by step: the rows of `metrics.csv`."""
    return self._metrics.rows

  def __enter__(self) -> 'Run':
    """Goes to where the run was interrupted, if it was."""
    _same_run.check(self.folder, self._config, self.state)
    resumed = self._checkpoints.resume(like=_saved(self.state))
    self._preemption.listen()
    try:
      self._go_to(resumed)
    except BaseException:
      self._leave()
      raise
    return self

  def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
    """Saves the last step, unless the loop failed."""
    try:
      if error is None and self._is_done():
        self._finish_row()
        self._save()
    finally:
      self._leave()

  def __iter__(self) -> Iterator[Any]:
    """The batches of the steps that are left; saves between them."""
    if self._source is None:
      raise ValueError('Use it as `with gm.training.Run(...) as run:`.')
    while self._steps is None or self.step < self._steps:
      try:
        batch = next(self._source)
      except StopIteration:
        self._end_of_data()
        return
      self.step += 1
      yield batch
      self._finish_row()
      preempted = self._preemption.reached(self.step)
      due = self.step % self._save_every == 0 or self.step == self._steps
      if due or preempted:
        self._save()
      if preempted and self.step != self._steps:
        raise SystemExit(_preemption.EXIT_CODE)

  def log(self, metrics: Mapping[str, Any]) -> None:
    """Adds numbers to the row of this step.

    They are read one step late, so that the device never waits for the host.

    Args:
      metrics: Numbers, or arrays without axes.

    Raises:
      ValueError: If one is no single number, or is called as the row's own.
    """
    for name, value in metrics.items():
      if jax.numpy.ndim(value):
        shape = jax.numpy.shape(value)
        raise ValueError(f'{name} has shape {shape}. Log single numbers.')
      if name in _metrics.OWN:
        raise ValueError(f'{name} is what a row says itself. Rename it.')
    self._row |= metrics

  def curves(self) -> _curves.Svg:
    """A picture of all that was logged."""
    return _curves.draw_curves(self.rows)

  def _go_to(self, resumed: _checkpoints.Resumed) -> None:
    if _is_first():
      _same_run.write(self.folder, self._config, self.state)
    self.state = self.state.replace(**resumed.state)
    self.step = self._saved = resumed.step
    self._source = self._batches_from(resumed.step, resumed.data)
    self._metrics.open(resumed.step, write=_is_first())
    self._bar.start(resumed.step)

  def _leave(self) -> None:
    self._source = None
    self._preemption.stop()
    self._metrics.close()
    self._bar.stop()
    with self._checkpoints:
      pass  # Leaves the folder to others.

  def _is_done(self) -> bool:
    """Whether the step that the loop is at was made, not only begun."""
    return self.step > self._saved and int(self.state.step) == self.step

  def _batches_from(self, step: int, position: Any) -> Iterator[Any]:
    """The batches behind the first `step` ones."""
    if isinstance(self._batches, Seekable):
      if step:
        self._batches.seek(position)
      return iter(self._batches)
    return itertools.islice(self._batches, step, None)

  def _end_of_data(self) -> None:
    if self._steps is not None:
      raise ValueError(
        f'The data ended after {self.step} of {self._steps} steps. Let it '
        'repeat, or leave out `steps`.'
      )

  def _finish_row(self) -> None:
    """Writes the row of the step before; that of this one waits."""
    if self._row:
      self._write_late()
      self._late, self._row = (self.step, self._row), {}

  def _write_late(self) -> None:
    late, self._late = self._late, None
    if late is None:
      return
    step, values = late
    if {'loss', 'grad_norm', 'update_norm', 'tokens'} <= values.keys():
      _step.check(step, values)
    row = self._metrics.add(step, values, time.monotonic())
    self._bar.update(row)

  def _save(self) -> None:
    done = int(self.state.step)
    if done != self.step:
      raise ValueError(
        f'run.state has done {done} steps, and the loop {self.step}. Assign '
        'each: run.state, metrics = step(run.state, batch).'
      )
    self._write_late()
    self._metrics.sync()
    data = None
    if isinstance(self._batches, Seekable):
      data = self._batches.position
    self._checkpoints.save(self.step, _saved(self.state), data=data)
    self._saved = self.step
    if _is_first():
      (self.folder / _CURVES).write_text(self.curves())


def _saved(state: _state.TrainState) -> dict[str, Any]:
  """All but the frozen parameters: those are what the run began with."""
  return {
    'step': state.step,
    'params': state.params,
    'opt_state': state.opt_state,
    'rng': state.rng,
  }


def _is_first() -> bool:
  return jax.process_index() == 0
