"""Results of a traced function that a few of its arguments alone give, to be computed again.

What costs little to compute anew from arrays that are there anyway need not be kept: a
matrix of 8-bit numbers scaled back, a weight cast to bfloat16, a causal mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
from jax.core import Tracer
from jax.extend.core import Var

from jsplit.jaxprs.flat import Atom, Equation, Flat
from jsplit.jaxprs.slices import backward_slice, evaluate

# Each entry of a result is computed of few entries of what is read, or is one of them. No
# product of matrices, which costs; and nothing that XLA approximates, as a cosine: fused
# with other operations it rounds otherwise, and the numbers would not be those that were.
_CHEAP = frozenset(
    # numbers, one by one
    "abs add and bitcast_convert_type ceil clamp convert_element_type div eq floor ge gt "
    "is_finite le lt max min mul ne neg not or rem round select_n shift_left "
    "shift_right_arithmetic shift_right_logical sign square sub xor "
    # numbers in other places
    "broadcast_in_dim concatenate copy dynamic_slice expand_dims gather iota pad reshape "
    "rev slice split squeeze transpose".split()
)


# Compared and hashed by what it is and not by what it holds: a part of the structure of
# what is compiled, and one trace has one.
@dataclass(frozen=True, eq=False)
class ComputedAgain:
    """Some results of a function, from some of its arguments alone.

    Attributes:
        numbers: which results, in order.
        flat: the equations that give them.
        outs: the results, as variables of `flat`.
        reads: the variable of each argument that is read, by its place among those that
            `computed_again` was given.
    """

    numbers: tuple[int, ...]
    flat: Flat
    outs: Sequence[Var]
    reads: Mapping[int, Var]

    def __call__(self, given: Sequence[jax.Array]) -> list[jax.Array]:
        """The results.

        Args:
            given: the arguments, in the order of `computed_again`.
        """
        # Within one program, as `fused` is, XLA finds that it has computed the same before
        # and decides itself what to hold on to; a barrier against that changes how it
        # divides products, and so their last bits.
        values = {v: given[k] for k, v in self.reads.items()}
        return evaluate(self.flat, self.flat.equations, self.outs, values)


def computed_again(
    flat: Flat, outs: Sequence[Atom], given: Sequence[Var | None]
) -> ComputedAgain | None:
    """Find the results that some arguments alone give, at little cost.

    Args:
        flat: a traced function.
        outs: its results, or some of them.
        given: the variables of arguments that will be there again; `None` in the place
            of one that may not be read.

    Returns:
        What computes them, or `None` if there are none. What is an argument or a
        constant itself is none of them.
    """
    known = {v for v in given if v is not None}
    # A value of a trace around this one is no constant: there is another in each call.
    known |= {v for v, x in flat.consts.items() if not isinstance(x, Tracer)}
    found: set[Var] = set()
    for e in flat.equations:
        if _is_cheap(e) and all(v in known for v in e.reads):
            known.update(e.writes)
            found.update(e.writes)
    numbers = tuple(k for k, v in enumerate(outs) if isinstance(v, Var) and v in found)
    if not numbers:
        return None
    wanted = [v for k in numbers if isinstance(v := outs[k], Var)]
    needed = backward_slice(flat, wanted)
    # A function is kept for as long as what is compiled of it: only these equations,
    # and no value of the trace that they were found in.
    read = {v for e in needed.equations for v in e.reads}
    consts = {v: x for v, x in flat.consts.items() if v in read}
    small = flat._replace(
        invars=(), outvars=(), consts=consts, equations=needed.equations
    )
    reads = {k: v for k, v in enumerate(given) if v is not None and v in needed.reads}
    return ComputedAgain(numbers, small, wanted, reads)


def _is_cheap(e: Equation) -> bool:
    return not e.eqn.effects and e.eqn.primitive.name in _CHEAP
