"""Complex numbers of two real ones, which they give away, and these two of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from jsplit.jaxprs.proving.facts import Fact, giving

PARTS = {"complex", "imag", "real"}


def parts(name: str, facts: Sequence[Fact], result: Fact) -> Fact:
    """What is proven of the result of a primitive of `PARTS`.

    Args:
        name: of the primitive.
        facts: of its arguments.
        result: as `facts.plain` gives it.
    """
    if name == "complex":
        made = ("complex", tuple(facts))
        givers = [f for f in facts if f.gives]
        if len(givers) == 1:
            (x,) = givers
            found = giving(result, givers, x.ids, x.block)
        else:
            both = [f.given() for f in givers]
            block = np.unique(np.concatenate(both)) if both else None
            found = giving(result, givers, None, block)
        return replace(found, slope=0, made=made)
    made, at = facts[0].made, int(name == "imag")
    if made and made[0] == "complex" and len(made[1]) > at:
        x = made[1][at]
        return x if x.dtype == result.dtype else result
    return result
