"""A whole model cut into segments: traced, divided at its cuts, and put together again."""

from jsplit.slicing.cut_candidates import cut_points
from jsplit.slicing.cut_point import CutPoint, CutPoints
from jsplit.slicing.joining import join
from jsplit.slicing.loading import load_variables, restore_weights
from jsplit.slicing.mark import cut
from jsplit.slicing.merging import merge, variables
from jsplit.slicing.pretrained import load
from jsplit.slicing.splitting import split
from jsplit.slicing.weight_saving import save_safetensors

__all__ = [
    "CutPoint",
    "CutPoints",
    "cut",
    "cut_points",
    "join",
    "load",
    "load_variables",
    "merge",
    "restore_weights",
    "save_safetensors",
    "split",
    "variables",
]
