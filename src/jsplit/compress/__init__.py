"""Links that make a crossing smaller, and the door for links of one's own, by name.

Every link here changes floating arrays alone, leaves integers, booleans and keys beside them
as they are, and keeps the structure of the value, so links can be chained:
`chain(cast(jnp.bfloat16), quantize(8))`. A trainer refuses one where nothing is floating, and
one that would send complex numbers as they are. A new one is a file of its own here, and
`register` lets agreements name it.
"""

from jsplit.compress.casting import cast
from jsplit.compress.feedback import error_feedback
from jsplit.compress.projecting import low_rank
from jsplit.compress.quantizing import quantize
from jsplit.compress.registry import register, registered
from jsplit.compress.sparsifying import randomized_top_k, top_k
from jsplit.compress.temporal import temporal_differences

__all__ = [
    "cast",
    "error_feedback",
    "low_rank",
    "quantize",
    "randomized_top_k",
    "register",
    "registered",
    "temporal_differences",
    "top_k",
]


def __dir__() -> list[str]:
    return [*__all__]
