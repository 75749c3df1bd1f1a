"""What training makes small: of tokens, and of pairs of answers."""

from etils import epy as _epy

with _epy.lazy_api_imports(globals()):
  from gemma.gm.losses._anchors import (
    with_anchor_logprobs as with_anchor_logprobs,
  )
  from gemma.gm.losses._batch import NextToken as NextToken
  from gemma.gm.losses._batch import Preference as Preference
  from gemma.gm.losses._batch import WinRate as WinRate
  from gemma.gm.losses._logprobs import sequence_logprobs as sequence_logprobs
  from gemma.gm.losses._logprobs import token_logprobs as token_logprobs
  from gemma.gm.losses._loss import Loss as Loss
  from gemma.gm.losses._loss import key as key
  from gemma.gm.losses._mean import Mean as Mean
  from gemma.gm.losses._preference import dpo as dpo
  from gemma.gm.losses._preference import ipo as ipo
  from gemma.gm.losses._preference import kto as kto
  from gemma.gm.losses._preference import npo as npo
  from gemma.gm.losses._preference import simpo as simpo
  from gemma.gm.losses._preference_losses import DpoLoss as DpoLoss
  from gemma.gm.losses._preference_losses import IpoLoss as IpoLoss
  from gemma.gm.losses._preference_losses import NpoLoss as NpoLoss
  from gemma.gm.losses._preference_losses import SimpoLoss as SimpoLoss
  from gemma.gm.losses._token_losses import CrossEntropy as CrossEntropy
  from gemma.gm.losses._token_losses import (
    LinearCrossEntropy as LinearCrossEntropy,
  )
