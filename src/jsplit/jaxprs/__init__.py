"""Programs as data: a jaxpr as a flat list of equations, sliced, halved and counted."""

from jsplit.jaxprs.convolutions import convolves_on_cpu, in_parts
from jsplit.jaxprs.halves import split_early_late
from jsplit.jaxprs.macs import macs

__all__ = ["convolves_on_cpu", "in_parts", "macs", "split_early_late"]
