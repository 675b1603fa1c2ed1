"""Programs as data: a jaxpr as a flat list of equations, sliced, halved, counted, rewritten."""

from jsplit.jaxprs.compiling import (
    ConvolutionForm,
    convolution_forms,
    faster_convolutions,
    jit,
)
from jsplit.jaxprs.halves import split_early_late
from jsplit.jaxprs.macs import macs

__all__ = [
    "ConvolutionForm",
    "convolution_forms",
    "faster_convolutions",
    "jit",
    "macs",
    "split_early_late",
]
