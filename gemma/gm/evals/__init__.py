"""Evaluators: what a trainer runs beside its training."""

from etils import epy as _epy

with _epy.lazy_api_imports(globals()):
  from gemma.gm.evals._sampler_evaluator import (
    SamplerEvaluator as SamplerEvaluator,
  )
