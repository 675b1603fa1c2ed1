"""Where in a traced model a name points, and where one value separates input from output.

A value separates if and only if (paths from the inputs to it) x (paths from
it to the outputs) is the number of all paths; counted exactly, in integers,
in two passes over the equations.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher, get_close_matches
from typing import NamedTuple

from jax.extend.core import Var

from jsplit.jaxprs.flat import Atom, Equation, Flat, bodies
from jsplit.jaxprs.tags import CUT, MODULE, tags_in_bodies, untagged


def _tagged(flat: Flat, prefix: str) -> dict[str, list[dict[str, Var]]]:
    """Find the values that were named under a prefix.

    Args:
        flat: the program.
        prefix: `CUT` or `MODULE`.

    Returns:
        By name, each time that name was given: the variables by their paths
        in the pytree that was named.
    """
    found: dict[str, list[dict[str, Var]]] = {}
    for equation in flat.equations:
        eqn = equation.eqn
        if eqn.primitive.name != "name" or not eqn.params["name"].startswith(prefix):
            continue
        name, end = untagged(eqn.params["name"].removeprefix(prefix))
        calls = found.setdefault(name, [{}])
        # A path that is there already begins the next call: a pytree has
        # each path once.
        if end in calls[-1]:
            calls.append({})
        calls[-1][end] = equation.writes[0]
    return found


class _Separator(NamedTuple):
    """A separating value.

    Attributes:
        variable: the value.
        origin: the variable that it was before it was given further names.
        family: its name without the number that tells apart several of one
            name.
    """

    variable: Var
    origin: Var
    family: str


class _Paths(NamedTuple):
    """How many paths: from inputs to each variable, from each to outputs, and in all."""

    into: dict[Var, int]
    out_of: dict[Var, int]
    total: int

    def separates(self, v: Var) -> bool:
        """Whether all paths from the inputs to the outputs lead through a variable."""
        return bool(self.total) and self.into[v] * self.out_of[v] == self.total


def _count_paths(flat: Flat, fields: Sequence[Var], outs: Iterable[Atom]) -> _Paths:
    # Python's integers, which have no end: the number of paths doubles with
    # every residual block, and a rounded one would find separators that are
    # none.
    into: dict[Var, int] = defaultdict(int, dict.fromkeys(fields, 1))
    for equation in flat.equations:
        paths = sum(into[v] for v in equation.reads if v in into)
        for v in equation.writes if paths else ():
            into[v] = paths

    ends = Counter(v for v in outs if isinstance(v, Var))
    out_of: dict[Var, int] = defaultdict(int, ends)
    for equation in reversed(flat.equations):
        paths = sum(out_of[v] for v in equation.writes if v in out_of)
        for v in equation.reads if paths else ():
            out_of[v] += paths
    return _Paths(into, out_of, sum(into[v] * out_of[v] for v in fields))


def separating(
    flat: Flat, fields: Sequence[Var], outs: Iterable[Atom]
) -> dict[str, _Separator]:
    """Find every single value that separates inputs from outputs.

    A value that a submodule returns has that submodule's path as its name:
    `block`, or `block#2` at its second of several calls, or `block/key`
    where the submodule returns several. Others are named after the last
    submodule before them and the operation that makes them, as
    `encoder.conv/relu`; the second of that name ends in `#2`.

    Args:
        flat: the program.
        fields: the inputs.
        outs: the outputs.

    Returns:
        The values by all their readable names, in order.
    """
    paths = _count_paths(flat, fields, outs)
    label = labels(flat)
    found: dict[str, _Separator] = {}
    # The last submodule on the way to a variable.
    where: dict[Var, str] = dict.fromkeys(fields, "")
    # Of a value that only got another name, the variable that it was first.
    origin: dict[Var, Var] = {}
    for equation in flat.equations:
        # What depends on parameters alone lies on no way from an input.
        reached = [v for v in equation.reads if v in paths.into]
        if not reached:
            continue
        if equation.eqn.primitive.name == "name":
            origin[equation.writes[0]] = origin.get(reached[0], reached[0])

        here = max((where[v] for v in reached), key=len)
        for v in equation.writes:
            where[v] = label.get(v, here)
            if paths.separates(v):
                parts = (here, _operation(equation))
                family = label.get(v) or "/".join(filter(None, parts))
                name = _unused(family, found)
                found[name] = _Separator(v, origin.get(v, v), family)
    return found


def names_of_values(flat: Flat, fields: Iterable[Var]) -> dict[Var, str]:
    """The readable names of all values, as `separating` makes them, not all different.

    Args:
        flat: the program.
        fields: the inputs.
    """
    label = labels(flat)
    where: dict[Var, str] = dict.fromkeys(fields, "")
    found: dict[Var, str] = {}
    for equation in flat.equations:
        here = max((where.get(v, "") for v in equation.reads), key=len, default="")
        for v in equation.writes:
            where[v] = label.get(v, here)
            parts = (here, _operation(equation))
            found[v] = label.get(v) or "/".join(filter(None, parts))
    return found


def labels(flat: Flat) -> dict[Var, str]:
    """The names that users know: those of submodules' outputs and of marked values."""
    label: dict[Var, str] = {}
    # Cuts last: where a marked value is a submodule's output, its own name
    # counts.
    for prefix in (MODULE, CUT):
        for name, calls in _tagged(flat, prefix).items():
            for i, call in enumerate(calls, start=1):
                full = f"{name}#{i}" if len(calls) > 1 else name
                for end, v in call.items():
                    label[v] = f"{full}/{end}" if end else full
    return label


def _operation(equation: Equation) -> str:
    """What an equation does, by the name that a user knows."""
    operation = equation.eqn.primitive.name
    # `relu` and the like are functions with a derivative of their own: the
    # primitive says only that, and the function's name is in its body.
    if operation.startswith("custom_"):
        for body in bodies(equation.eqn):
            return body.debug_info.func_name
    return operation


def _unused(family: str, found: dict[str, _Separator]) -> str:
    """The first of `family`, `family#2`, `family#3`, ... that is not there yet."""
    name, i = family, 1
    while name in found:
        i += 1
        name = f"{family}#{i}"
    return name


def find(
    flat: Flat, fields: Sequence[Var], outs: Iterable[Atom], name: str
) -> list[tuple[str, Var]]:
    """Find the values that a name points at.

    A name is looked for among marked values, then submodules' outputs, then
    separating values.

    Args:
        flat: the program.
        fields: its inputs.
        outs: its outputs.
        name: what a user wrote.

    Returns:
        The variables, each with its path in the pytree that was named; none
        if there is no such name.

    Raises:
        ValueError: if the name is in the body of a loop or branch, or means
            several calls.
    """
    cuts, modules = _tagged(flat, CUT), _tagged(flat, MODULE)
    separators = separating(flat, fields, outs)
    path, number = _numbered(name)
    calls = modules.get(path, [])

    within = _names_in_bodies(flat)
    body = within.get(CUT + name)
    # A submodule may run in a loop and outside of it: only where it is
    # nowhere else is the loop the reason.
    if body is None and not (calls or name in cuts or name in separators):
        body = within.get(MODULE + path)
    if body:
        raise ValueError(
            f"cut `{name}` lies inside the body of a `{body}`, which runs as one operation "
            "and cannot be divided between parties; cut before or after it."
        )

    if name in cuts:
        return [pair for call in cuts[name] for pair in call.items()]
    if len(calls) > 1 and not number:
        raise ValueError(
            f"cut `{name}`: the submodule is called {len(calls)} times; say `{name}#1` to "
            f"`{name}#{len(calls)}`."
        )
    if calls and 1 <= int(number or 1) <= len(calls):
        return list(calls[int(number or 1) - 1].items())
    if name in separators:
        return [("", separators[name].variable)]
    return []


def _numbered(name: str) -> tuple[str, str]:
    """A name without the number of a call, and that number: `block#2`."""
    path, sign, number = name.rpartition("#")
    return (path, number) if sign and number.isdigit() else (name, "")


def _names_in_bodies(flat: Flat) -> dict[str, str]:
    """The names that lie in bodies, with the primitive whose body it is."""
    tags = tags_in_bodies(e.eqn for e in flat.equations)
    return {untagged(tag)[0]: primitive for tag, primitive in tags}


def nearest(
    flat: Flat,
    fields: Sequence[Var],
    outs: Iterable[Atom],
    name: str,
    layers: Iterable[str] = (),
) -> str:
    """The names that could have been meant by one that does not exist, as a text.

    Args:
        flat: the program.
        fields: its inputs.
        outs: its outputs.
        name: what a user wrote.
        layers: the places between layers of a stack.
    """
    known = _tagged(flat, CUT).keys() | _tagged(flat, MODULE).keys()
    known |= separating(flat, fields, outs).keys() | set(layers)
    close = get_close_matches(name, known, len(known) or 1)

    def is_like(other: str) -> float:
        return SequenceMatcher(None, other, name).ratio()

    # As near as each other are all layers: these in their order.
    close.sort(key=lambda other: (-is_like(other), _in_order(other)))
    meant = close[:3] or sorted(known, key=_in_order)[:8]
    return ", ".join(map(repr, meant)) or "none"


def _in_order(name: str) -> list[tuple[int, str]]:
    """By its numbers: `layer.2` is before `layer.10`."""
    parts = re.split(r"(\d+)", name)
    return [(int(x), "") if x.isdecimal() else (-1, x) for x in parts]


def marked(flat: Flat) -> list[str]:
    """The names of all `jsplit.cut`s, also of those in bodies, where `find` refuses them."""
    found = dict.fromkeys(_tagged(flat, CUT))
    for tag in _names_in_bodies(flat):
        if tag.startswith(CUT):
            found[tag.removeprefix(CUT)] = None
    return list(found)
