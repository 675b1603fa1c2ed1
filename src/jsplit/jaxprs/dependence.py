"""What each result of a program depends on: within calls, branches and loops, one by one.

Where `slices` takes a loop or a branch as one operation, here each of its results has
its own reads. Sets are the bits of an integer, so programs of thousands of leaves are
cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from jsplit.jaxprs.flat import bodies

# Whose one body has the operands of the call itself.
_CALLS = frozenset(
    "jit pjit closed_call core_call checkpoint remat remat2 custom_jvp_call "
    "custom_vjp_call".split()
)


def dependence(jaxpr: Jaxpr, given: Sequence[int]) -> list[int]:
    """What the results of a program depend on.

    Args:
        jaxpr: the program.
        given: for each of its inputs what that stands for, a set as bits.

    Returns:
        For each result the union over the inputs that it is computed from. An operation
        without a rule here reads all its operands, so it is rather too much than too
        little.
    """
    known: dict[Var, int] = dict(zip(jaxpr.invars, given, strict=True))
    for eqn in jaxpr.eqns:
        reads = [0 if isinstance(v, Literal) else known.get(v, 0) for v in eqn.invars]
        known.update(zip(eqn.outvars, _of_equation(eqn, reads), strict=True))
    return [0 if isinstance(v, Literal) else known.get(v, 0) for v in jaxpr.outvars]


def _of_equation(eqn: JaxprEqn, reads: list[int]) -> list[int]:
    kind, inner = eqn.primitive.name, list(bodies(eqn))
    if kind in _CALLS and inner and len(inner[0].invars) == len(reads):
        return dependence(inner[0], reads)
    if kind == "cond":
        found = [dependence(body, reads[1:]) for body in inner]
        return [_union((reads[0], *each)) for each in zip(*found, strict=True)]
    if kind == "scan":
        return _of_scan(eqn, reads)
    if kind == "while":
        return _of_while(eqn, reads)
    return [_union(reads)] * len(eqn.outvars)


def _of_scan(eqn: JaxprEqn, reads: list[int]) -> list[int]:
    first, count = eqn.params["num_consts"], eqn.params["num_carry"]
    body: ClosedJaxpr = eqn.params["jaxpr"]
    while True:
        found = dependence(body.jaxpr, reads)
        carry = reads[first : first + count]
        after = [a | b for a, b in zip(carry, found[:count], strict=True)]
        if after == carry:
            return [*carry, *found[count:]]
        reads = [*reads[:first], *after, *reads[first + count :]]


def _of_while(eqn: JaxprEqn, reads: list[int]) -> list[int]:
    asked, run = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    test: ClosedJaxpr = eqn.params["cond_jaxpr"]
    body: ClosedJaxpr = eqn.params["body_jaxpr"]
    carry = reads[asked + run :]
    while True:
        # How often it runs is in every result.
        often = _union(dependence(test.jaxpr, [*reads[:asked], *carry]))
        found = dependence(body.jaxpr, [*reads[asked : asked + run], *carry])
        after = [a | b | often for a, b in zip(carry, found, strict=True)]
        if after == carry:
            return carry
        carry = after


def _union(sets: Sequence[int]) -> int:
    return reduce(or_, sets, 0)
