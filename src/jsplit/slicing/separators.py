"""Where in a traced model a name points, and where one value separates input from output.

A value separates if and only if (paths from the inputs to it) x (paths from it to the outputs)
is the number of all paths; counted exactly, in integers, in two passes over the equations.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from jax.extend.core import Var

from jsplit.jaxprs.flat import CUT, MODULE, Atom, Flat, bodies, inside, untagged


def _tagged(flat: Flat, prefix: str) -> dict[str, list[dict[str, Var]]]:
    """By name, each time that name was given: the variables by their paths in the pytree that was named."""
    found: dict[str, list[dict[str, Var]]] = {}
    for equation in flat.equations:
        if equation.eqn.primitive.name == "name" and equation.eqn.params[
            "name"
        ].startswith(prefix):
            name, end = untagged(equation.eqn.params["name"].removeprefix(prefix))
            calls = found.setdefault(name, [{}])
            if end in calls[-1]:
                calls.append({})
            calls[-1][end] = equation.writes[0]
    return found


class _Separator(NamedTuple):
    """A separating value: its variable, and the one it was before it was given further names.

    `family` is its name without the number that tells apart several of one name.
    """

    variable: Var
    origin: Var
    family: str


def separating(
    flat: Flat, fields: Sequence[Var], outs: Iterable[Atom]
) -> dict[str, _Separator]:
    """Every single value that separates `fields` from `outs`, by all its readable names, in order.

    A value that a submodule returns has that submodule's path as its name: `block`, or `block#2` at its
    second of several calls, or `block/key` where the submodule returns several. Others are named after the
    last submodule before them and the operation that makes them, as `encoder.conv/relu`; the second
    of that name ends in `#2`.
    """
    into: dict[Var, int] = defaultdict(int, dict.fromkeys(fields, 1))
    for equation in flat.equations:
        if paths := sum(into[v] for v in equation.reads if v in into):
            for v in equation.writes:
                into[v] = paths
    out_of: dict[Var, int] = defaultdict(
        int, Counter(v for v in outs if isinstance(v, Var))
    )
    for equation in reversed(flat.equations):
        paths = sum(out_of[v] for v in equation.writes if v in out_of)
        for v in equation.reads if paths else ():
            out_of[v] += paths
    total = sum(into[v] * out_of[v] for v in fields)

    label: dict[Var, str] = {}
    for prefix in (MODULE, CUT):
        for name, calls in _tagged(flat, prefix).items():
            for i, call in enumerate(calls):
                full = f"{name}#{i + 1}" if len(calls) > 1 else name
                label.update(
                    {v: f"{full}/{end}" if end else full for end, v in call.items()}
                )
    found: dict[str, _Separator] = {}
    where: dict[Var, str] = dict.fromkeys(
        fields, ""
    )  # the last submodule on the way to a variable
    origin: dict[
        Var, Var
    ] = {}  # a value that only got another name: the variable it was first
    for equation in flat.equations:
        tainted = [v for v in equation.reads if v in into]
        if not tainted:
            continue
        here = max((where[v] for v in tainted), key=len)
        operation = equation.eqn.primitive.name
        if operation == "name":
            origin[equation.writes[0]] = origin.get(tainted[0], tainted[0])
        elif operation.startswith("custom_"):
            operation = next(
                (b.debug_info.func_name for b in bodies(equation.eqn)), operation
            )
        for v in equation.writes:
            where[v] = label.get(v, here)
            if total and into[v] * out_of[v] == total:
                family = label.get(v) or "/".join(filter(None, (here, operation)))
                names = (
                    f"{family}#{i}" if i > 1 else family
                    for i in range(1, len(found) + 2)
                )
                found[next(n for n in names if n not in found)] = _Separator(
                    v, origin.get(v, v), family
                )
    return found


def find(
    flat: Flat, fields: Sequence[Var], outs: Iterable[Atom], name: str
) -> list[tuple[str, Var]]:
    """What a name points at, by keys: a marked value, a submodule's output, or one separating value; or nothing."""
    cuts, modules, points = (
        _tagged(flat, CUT),
        _tagged(flat, MODULE),
        separating(flat, fields, outs),
    )
    path, _, number = (
        name.rpartition("#")
        if name.rpartition("#")[2].isdigit() and "#" in name
        else (name, "", "")
    )
    calls = modules.get(path, [])
    within = {
        untagged(tag)[0]: primitive
        for tag, primitive in inside(e.eqn for e in flat.equations)
    }
    if body := within.get(CUT + name) or (
        None if calls or name in cuts or name in points else within.get(MODULE + path)
    ):
        raise ValueError(
            f"cut `{name}` lies inside the body of a `{body}`, which runs as one operation and "
            "cannot be divided between parties; cut before or after it."
        )
    if name in cuts:
        return [pair for call in cuts[name] for pair in call.items()]
    if len(calls) > 1 and not number:
        raise ValueError(
            f"cut `{name}`: the submodule is called {len(calls)} times; say `{name}#1` to `{name}#{len(calls)}`."
        )
    if calls and 1 <= int(number or 1) <= len(calls):
        return list(calls[int(number or 1) - 1].items())
    if name in points:
        return [("", points[name].variable)]
    return []


def nearest(
    flat: Flat, fields: Sequence[Var], outs: Iterable[Atom], name: str
) -> list[str]:
    """The names that could have been meant by one that does not exist."""
    known = (
        _tagged(flat, CUT).keys()
        | _tagged(flat, MODULE).keys()
        | separating(flat, fields, outs).keys()
    )
    return get_close_matches(name, known, 3) or sorted(known)[:8]


def marked(flat: Flat) -> list[str]:
    """The names of all `jsplit.cut`s, also of those in the body of a loop, where `find` refuses them."""
    within = (
        tag for tag, _ in inside(e.eqn for e in flat.equations) if tag.startswith(CUT)
    )
    return list(
        dict.fromkeys(
            [
                *_tagged(flat, CUT),
                *(untagged(tag.removeprefix(CUT))[0] for tag in within),
            ]
        )
    )
