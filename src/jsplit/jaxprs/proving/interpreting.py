"""What is proven of the results of a traced function, from what is of its arguments.

It goes over the jaxpr equation by equation. A primitive that no rule knows makes a result of
which nothing is claimed but what it depends on; so do long loops and unknown branches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var
from jax.typing import ArrayLike

from jsplit.jaxprs.flat import Atom as Variable
from jsplit.jaxprs.flat import Flat, flatten, shape_of
from jsplit.jaxprs.proving.affine import carried
from jsplit.jaxprs.proving.arithmetic import ENTRYWISE, entrywise
from jsplit.jaxprs.proving.bits import kept
from jsplit.jaxprs.proving.choosing import CHOOSES, chosen
from jsplit.jaxprs.proving.curves import curved
from jsplit.jaxprs.proving.facts import Fact, as_numpy, constant, giving, plain
from jsplit.jaxprs.proving.looping import LONGEST, branch, unrolled
from jsplit.jaxprs.proving.mixing import MIXES, mixed
from jsplit.jaxprs.proving.moving import ALL_MOVED, MOVES, divide, keeps_all, move
from jsplit.jaxprs.proving.unordered import UNORDERED, either, unordered

_SIGNED = {
    "broadcast_in_dim",
    "copy",
    "reshape",
    "squeeze",
    "transpose",
    "stop_gradient",
}


def interpret(closed: ClosedJaxpr, facts: Sequence[Fact]) -> list[Fact]:
    """What is proven of each result of a traced function.

    Args:
        closed: the function, as `jax.make_jaxpr` gives it.
        facts: of its arguments, leaf by leaf.
    """
    flat = flatten(closed, calls=True)
    known = followed(flat, facts)
    return [fact_of(v, known) for v in flat.outvars]


def followed(flat: Flat, facts: Sequence[Fact]) -> dict[Var, Fact]:
    """What is proven of each variable of a program.

    Args:
        flat: the program, with all calls inlined.
        facts: of its inputs, leaf by leaf.
    """
    known = {v: constant(x) for v, x in flat.consts.items()}
    known.update(zip(flat.invars, facts, strict=True))
    for equation in flat.equations:
        eqn = equation.eqn
        results = _equation(eqn, [fact_of(v, known) for v in eqn.invars])
        known.update(zip(eqn.outvars, results, strict=True))
    return known


def fact_of(v: Variable, known: Mapping[Var, Fact]) -> Fact:
    """What is proven of a variable or literal."""
    return constant(v.val) if isinstance(v, Literal) else known[v]


def _equation(eqn: JaxprEqn, facts: list[Fact]) -> list[Fact]:
    name = eqn.primitive.name
    shapes = [shape_of(v) for v in eqn.outvars]
    results = [plain(s.shape, s.dtype, facts) for s in shapes]
    if not any(f.gives for f in facts) and all(f.const for f in facts):
        return _constants(eqn, facts, results)
    if name == "optimization_barrier":
        return facts
    program = _within(eqn, facts)
    if program is not None:
        known = followed(
            program, facts[-len(program.invars) :] if program.invars else []
        )
        return [fact_of(v, known) for v in program.outvars]

    if name == "cond":
        return _branches(eqn, facts, results)
    if name == "while":
        return _turns(eqn, facts, results)

    def rule(facts: Sequence[Fact]) -> list[Fact]:
        return _results(eqn, [*facts], results)

    found = carried(eqn, facts, rule(facts), rule)
    if len(found) == 1:
        found = [curved(name, facts, found[0])]
    return kept(name, eqn.params, facts, found, results)


def _within(eqn: JaxprEqn, facts: Sequence[Fact]) -> Flat | None:
    """What an equation runs, where that is known: turns of a loop, a branch."""
    if eqn.primitive.name == "scan":
        return unrolled(eqn)
    # The first tells which branch is taken.
    index = facts[0].value() if eqn.primitive.name == "cond" else None
    return None if index is None else branch(eqn, int(index))


def _branches(
    eqn: JaxprEqn, facts: Sequence[Fact], results: Sequence[Fact]
) -> list[Fact]:
    """What is proven of results of which it depends on records which branch made them."""
    each: list[list[Fact]] = []
    for i in range(len(eqn.params["branches"])):
        program = branch(eqn, i)
        known = followed(program, facts[1:])
        each.append([fact_of(v, known) for v in program.outvars])
    rows = zip(*each, strict=True)
    return [either(row, r) for row, r in zip(rows, results, strict=True)]


def _turns(eqn: JaxprEqn, facts: Sequence[Fact], results: list[Fact]) -> list[Fact]:
    """What is proven of a loop whose end hangs on numbers of the code alone."""
    first = eqn.params["cond_nconsts"]
    last = first + eqn.params["body_nconsts"]
    test, body = (
        flatten(eqn.params[f"{p}_jaxpr"], calls=True) for p in ("cond", "body")
    )
    carry = [*facts[last:]]
    for _ in range(LONGEST // max(1, len(body.equations))):
        known = followed(test, [*facts[:first], *carry])
        more = fact_of(test.outvars[0], known).value()
        if more is None:
            break
        if not more:
            return carry
        known = followed(body, [*facts[first:last], *carry])
        carry = [fact_of(v, known) for v in body.outvars]
    return results


def _results(eqn: JaxprEqn, facts: list[Fact], results: list[Fact]) -> list[Fact]:
    """What is proven of the results entry by entry."""
    name = eqn.primitive.name
    if name in ("split", "unstack"):
        return _divided(name, eqn.params, facts[0], results)
    if name in UNORDERED:
        return unordered(name, facts, results)
    if len(results) != 1:
        return results
    return [_rule(name, eqn.params, facts, results[0])]


def _rule(
    name: str, params: Mapping[str, object], facts: list[Fact], result: Fact
) -> Fact:
    if name in ENTRYWISE:
        return entrywise(name, params, facts, result)
    if name in CHOOSES:
        return chosen(name, params, facts, result)
    if name in MIXES:
        return mixed(name, params, facts, result)
    if name not in MOVES:
        return result
    found = _moved(name, params, facts, result)
    made = facts[0].made
    if made and made[0] == "index" and name not in ALL_MOVED:
        # An index is looked for behind what moves it.
        index = _moved(name, params, [made[1][0], *facts[1:]], result)
        return replace(found, made=("index", (index, made[1][1])))
    return found


def _moved(
    name: str, params: Mapping[str, object], facts: Sequence[Fact], result: Fact
) -> Fact:
    moved = facts if name in ALL_MOVED else facts[:1]
    if not any(f.gives for f in moved):
        signed = name in _SIGNED
        generic = all(f.generic for f in moved) and name != "pad"
        # What repeats entries makes equal ones.
        once = np.prod(result.shape) <= np.prod(moved[0].shape)
        return replace(
            result,
            sign=moved[0].sign if signed else 0,
            generic=generic,
            distinct=generic and moved[0].distinct and bool(once),
            even=name == "broadcast_in_dim" and _even(params, moved[0], result),
        )
    bearing = [f for f in moved if f.gives]
    whole = keeps_all(name, params)
    # Of some entries that are somewhere a part has some, too.
    blocks = [f.block for f in bearing if f.block is not None and (whole or f.some)]
    block = np.unique(np.concatenate(blocks)) if blocks else None
    found = giving(result, bearing, move(name, params, facts, result.shape), block)
    # A one-hot along another axis is one for no rule.
    last = name == "broadcast_in_dim" and facts[0].shape[-1:] == result.shape[-1:]
    classes = facts[0].classes and last
    even = classes and facts[0].even
    most = facts[0].most if len(moved) == 1 else None
    return replace(found, classes=classes, even=even, most=most)


def _even(params: Mapping[str, object], x: Fact, result: Fact) -> bool:
    """Whether what is broadcast is equal along the last axis."""
    axes = params["broadcast_dimensions"]
    assert isinstance(axes, tuple)
    last = len(result.shape) - 1
    return last not in axes or x.even or x.shape[-1:] == (1,)


def _divided(
    name: str, params: Mapping[str, object], x: Fact, results: Sequence[Fact]
) -> list[Fact]:
    """The results of `split` or `unstack`."""
    results = [replace(r, generic=x.generic, distinct=x.distinct) for r in results]
    if x.ids is None:
        return results
    parts = divide(name, params, x.ids, [r.shape for r in results])
    return [giving(r, [x], part) for r, part in zip(results, parts, strict=True)]


def _constants(
    eqn: JaxprEqn, facts: Sequence[Fact], results: Sequence[Fact]
) -> list[Fact]:
    """Results of constants are constants, computed if a rule asks for them."""
    all_of = cache(lambda: _evaluated(eqn, facts, len(results)))

    def const(i: int) -> np.ndarray | None:
        found = all_of()[i]
        return None if found is None else as_numpy(found)

    return [
        replace(r, const=partial(const, i), held=lambda i=i: all_of()[i])
        for i, r in enumerate(results)
    ]


def _evaluated(
    eqn: JaxprEqn, facts: Sequence[Fact], count: int
) -> list[ArrayLike | None]:
    # What is drawn from a key of the code is drawn by everybody.
    values = [f.held() if f.held and _is_key(f) else f.value() for f in facts]
    nothing: list[ArrayLike | None] = [None] * count
    if any(v is None for v in values):
        return nothing
    try:
        found = eqn.primitive.bind(*values, **eqn.params)
        return [*found] if eqn.primitive.multiple_results else [found]
    except Exception:
        # A call or loop that cannot be run by itself: then it is no constant that
        # anything is proven by.
        return nothing


def _is_key(fact: Fact) -> bool:
    return jnp.issubdtype(fact.dtype, jax.dtypes.prng_key)
