"""Adapters and quantized weights, as trees of parameters."""

from etils import epy as _epy

with _epy.lazy_api_imports(globals()):
  from gemma.peft._fuse import fuse_params as fuse_params
  from gemma.peft._fuse import unfuse_params as unfuse_params
  from gemma.peft._interceptors import Interceptor as Interceptor
  from gemma.peft._interceptors import ModuleInterceptor as ModuleInterceptor
  from gemma.peft._lora import init_lora as init_lora
  from gemma.peft._lora import set_magnitudes as set_magnitudes
  from gemma.peft._loss import drop_lora as drop_lora
  from gemma.peft._loss import scale_lora as scale_lora
  from gemma.peft._modules import LoRADense as LoRADense
  from gemma.peft._modules import LoRADenseAdapter as LoRADenseAdapter
  from gemma.peft._modules import LoRADenseGeneral as LoRADenseGeneral
  from gemma.peft._modules import (
    LoRADenseGeneralAdapter as LoRADenseGeneralAdapter,
  )
  from gemma.peft._modules import LoRAEinsum as LoRAEinsum
  from gemma.peft._modules import LoRAEinsumAdapter as LoRAEinsumAdapter
  from gemma.peft._quantization import QuantizationMethod as QuantizationMethod
  from gemma.peft._quantization import quantize as quantize
  from gemma.peft._tree import SplitParams as SplitParams
  from gemma.peft._tree import merge_params as merge_params
  from gemma.peft._tree import split_params as split_params
