"""A whole model cut into segments: traced, divided at its cuts, and put together again."""

from jsplit.slicing.cut_points import CutPoint, cut_points
from jsplit.slicing.join import join
from jsplit.slicing.mark import cut
from jsplit.slicing.merge import merge, variables
from jsplit.slicing.split import split

__all__ = ["CutPoint", "cut", "cut_points", "join", "merge", "split", "variables"]
