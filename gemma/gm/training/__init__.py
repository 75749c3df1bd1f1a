"""Training: the state, the step, the loop, and what is left of a run."""

from etils import epy as _epy

with _epy.lazy_api_imports(globals()):
  from gemma.gm.training._answers import Answers as Answers
  from gemma.gm.training._answers import exact_answers as exact_answers
  from gemma.gm.training._curves import draw_curves as draw_curves
  from gemma.gm.training._evaluate import make_eval as make_eval
  from gemma.gm.training._optimizer import adamw as adamw
  from gemma.gm.training._run import Run as Run
  from gemma.gm.training._state import TEXT_PARAMS as TEXT_PARAMS
  from gemma.gm.training._state import TrainState as TrainState
  from gemma.gm.training._state import init_state as init_state
  from gemma.gm.training._state import model_params as model_params
  from gemma.gm.training._step import make_step as make_step
