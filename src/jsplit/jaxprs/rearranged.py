"""Which values of a program hold entries of its inputs as they are: moved, never changed.

A proof by rules, equation by equation, without any number: what it names is raw for
certain. What it does not name may be raw all the same, as behind a loop of unknown length
or an operation that nobody here has a rule for. `jsplit.privacy.views` proves more, entry by
entry, of a whole topology.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from jsplit.jaxprs.flat import Atom, Flat, bodies, flatten, shape_of
from jsplit.jaxprs.macs import carried
from jsplit.jaxprs.no_zero import LARGEST, is_not_zero, made_of
from jsplit.jaxprs.wrapping import is_borne

# What moves entries of its first argument, or leaves some out; padding adds constants.
_MOVES = {
    "bitcast_convert_type",
    "broadcast_in_dim",
    "copy",
    "copy_p",
    "device_put",
    "dynamic_slice",
    "expand_dims",
    "gather",
    "name",
    "not",
    "optimization_barrier",
    "pad",
    "reduce_precision",
    "reshape",
    "rev",
    "sharding_constraint",
    "slice",
    "split",
    "squeeze",
    "stop_gradient",
    "tile",
    "transpose",
    "unstack",
}
# Raw if any argument is: its entries stand beside the others.
_JOINS = {"concatenate", "stack", "dynamic_update_slice"}
_SHIFTS = {"add", "add_any", "sub", "xor"}
_SCALES = {"mul", "div"}


def rearranged(
    flat: Flat,
    fields: Mapping[Var, str],
    constants: Collection[Var] = (),
    not_zero: Collection[Var] = (),
) -> dict[Var, str]:
    """The variables that hold entries of an input, at most moved, shifted or scaled.

    Shifted and scaled is meant by constants of the code, as a picture divided by 255 is;
    rounded to fewer bits counts too. A one-hot of class numbers gives these away, and so
    does a number of a class or a row of which some are replaced by constants, as padding.
    A sorted array holds its entries too, and so does one in which what is not finite is
    replaced, as by `nan_to_num`.

    Args:
        flat: the program.
        fields: the names of the inputs, by their variables.
        constants: further inputs that are known to everybody.
        not_zero: those of them without a zero.

    Returns:
        By variable, the name of the input; the inputs themselves are among them.
    """
    proof = _Proof(dict(fields), flat, constants, not_zero)
    for equation in flat.equations:
        proof.look_at(equation.eqn)
    return proof.raw


class _Proof:
    """What is known after the equations so far: which variables are raw, which constant."""

    def __init__(
        self,
        raw: dict[Var, str],
        flat: Flat,
        constants: Collection[Var],
        not_zero: Collection[Var],
    ):
        self.raw = raw
        self.values = flat.consts
        self.constants: set[Var] = {*flat.consts, *constants}
        # Those of them without a zero, by which a product can be undone.
        self.not_zero: set[Var] = {*not_zero}
        # And those that count up, with which class numbers are compared.
        self.counted: set[Var] = set()
        # Masks of raw entries that are not finite, or of those that are.
        self.finite: set[Var] = set()
        for v, value in flat.consts.items():
            if is_not_zero(value):
                self.not_zero.add(v)

    def look_at(self, eqn: JaxprEqn) -> None:
        """Take one equation in."""
        name = eqn.primitive.name
        held = [self.raw.get(v) if isinstance(v, Var) else None for v in eqn.invars]
        found = self._fields(eqn, held) if any(held) else []
        if any(held) and _asks_whether_finite(eqn):
            self.finite.update(eqn.outvars)
        if any(found):
            pairs = zip(eqn.outvars, found, strict=True)
            self.raw.update((v, field) for v, field in pairs if field is not None)
        elif all(self._is_constant(v) for v in eqn.invars):
            self.constants.update(eqn.outvars)
            moved = [eqn.invars[0]] if name in _MOVES - {"pad"} else []
            kept = moved or made_of(eqn)
            if kept is not None and all(map(self._has_no_zero, kept)):
                self.not_zero.update(eqn.outvars)
            if name == "iota" or any(v in self.counted for v in _variables(eqn)):
                self.counted.update(eqn.outvars)

    def _fields(self, eqn: JaxprEqn, held: list[str | None]) -> Sequence[str | None]:
        """The input whose entries each result of an equation holds."""
        name = eqn.primitive.name
        if name == "sort":
            # Each of several arrays in the order of the first.
            return held
        if name == "top_k":
            # And the largest of an array beside their places.
            return [held[0], None]
        if name in ("scan", "cond") or name.startswith("custom_"):
            return self._called(eqn, held)
        return [self._field(eqn, held)] * len(eqn.outvars)

    def _field(self, eqn: JaxprEqn, held: list[str | None]) -> str | None:
        """The input whose entries the results of an equation without a body are."""
        name, given = eqn.primitive.name, eqn.invars
        first = next(f for f in held if f is not None)
        if name in _JOINS:
            return first
        if name == "scatter":
            # Over an array at some places; where these are tells nothing of an entry.
            return held[0] or held[2]
        if name in _MOVES or name == "neg":
            return held[0]
        if name == "convert_element_type":
            return held[0] if _keeps(given[0], eqn.outvars[0]) else None
        if name == "clamp":
            # Row numbers, which lie in their table.
            return held[1] if _is_whole(given[1]) else None
        if name in ("max", "min"):
            at = 0 if held[0] is not None else 1
            bounded = _is_whole(given[at]) and self._is_constant(given[1 - at])
            return first if bounded else None
        if name == "select_n" and given[0] in self.finite:
            return first
        if name == "select_n":
            return self._selected(given[1:], held[1:])
        if name == "integer_pow":
            return first if eqn.params["y"] == 1 else None
        if name == "eq":
            return first if any(v in self.counted for v in _variables(eqn)) else None
        if name in _SHIFTS | _SCALES:
            return first if self._is_undone(name, given, held) else None
        return None

    def _selected(self, cases: list[Atom], held: list[str | None]) -> str | None:
        """The input of a choice between its entries, or between them and constants."""
        first = next((f for f in held if f is not None), None)
        for v, field in zip(cases, held, strict=True):
            # A number may be wrapped where it is negative, or replaced where it is
            # padding; a float that is replaced may be cut off, as by a rectifier.
            replaced = _is_whole(v) and self._is_constant(v)
            if field != first and not replaced:
                return None
        return first

    def _is_undone(self, name: str, given: list[Atom], held: list[str | None]) -> bool:
        """Whether a sum or product is of raw entries and a constant that takes it back."""
        at = 0 if held[0] is not None else 1
        other = given[1 - at]
        if name in ("add", "add_any") and other is given[at]:
            return True  # twice the same
        if not self._is_constant(other) or not self._is_borne(name, other):
            return False
        if name in _SHIFTS:
            return True
        whole = shape_of(given[at]).dtype.kind in "iub"
        # 5 // 2 is 2, and 1 / x is no scale.
        fits = name == "mul" or (at == 0 and not whole)
        return fits and self._has_no_zero(other)

    def _is_borne(self, name: str, other: Atom) -> bool:
        """Whether a number that is known does not wash out what it meets."""
        value = other.val if isinstance(other, Literal) else self.values.get(other)
        small = value is not None and np.size(value) <= LARGEST
        return not small or is_borne(np.asarray(value), name in _SHIFTS)

    def _called(self, eqn: JaxprEqn, held: list[str | None]) -> Sequence[str | None]:
        """The inputs of which results of a loop, a branch or a custom derivative are."""
        name, given = eqn.primitive.name, eqn.invars
        nothing = [None] * len(eqn.outvars)
        if name == "scan":
            body = next(bodies(eqn))
            return self._of_turns(body, given, held, *carried(eqn, body))
        if name == "cond":
            # The first tells which branch is taken.
            branches = [self._of_body(b, given[1:], held[1:]) for b in bodies(eqn)]
            rows = zip(*branches, strict=True)
            return [row[0] if len({*row}) == 1 else None for row in rows]
        body = next((b for b in bodies(eqn) if len(b.invars) == len(held)), None)
        if body is None or len(body.outvars) != len(nothing):
            return nothing
        return self._of_body(body, given, held)

    def _of_turns(
        self,
        body: Jaxpr,
        given: Sequence[Atom],
        held: Sequence[str | None],
        first: int,
        last: int,
    ) -> list[str | None]:
        """The same of a scan, whose inputs from `first` to `last` go from turn to turn."""
        known = [None if first <= i < last else v for i, v in enumerate(given)]
        before = [*held]
        while True:
            after = self._of_body(body, known, before)
            carried = zip(before[first:last], after, strict=False)
            kept = [f if f == g else None for f, g in carried]
            # What stays raw from turn to turn, and what follows from it.
            if kept == before[first:last]:
                return after
            before[first:last] = kept

    def _of_body(
        self, body: Jaxpr, given: Sequence[Atom | None], held: Sequence[str | None]
    ) -> list[str | None]:
        """Which results of a body are entries of which input."""
        flat = flatten(ClosedJaxpr(body, [0] * len(body.constvars)))
        pairs = [*zip(body.invars, given, held, strict=True)]
        raw = rearranged(
            flat,
            {v: f for v, _, f in pairs if f is not None},
            [v for v, outer, _ in pairs if outer and self._is_constant(outer)],
            [v for v, outer, _ in pairs if outer and self._has_no_zero(outer)],
        )
        return [raw.get(v) if isinstance(v, Var) else None for v in flat.outvars]

    def _is_constant(self, v: Atom) -> bool:
        return isinstance(v, Literal) or v in self.constants

    def _has_no_zero(self, v: Atom) -> bool:
        if isinstance(v, Literal):
            return is_not_zero(v.val)
        return v in self.not_zero


def _variables(eqn: JaxprEqn) -> list[Var]:
    return [v for v in eqn.invars if isinstance(v, Var)]


def _asks_whether_finite(eqn: JaxprEqn) -> bool:
    """Whether numbers are compared with infinity, or with themselves, as only NaN differs."""
    name, given = eqn.primitive.name, eqn.invars
    if name not in ("eq", "ne"):
        return name == "is_finite"
    ends = [v.val for v in given if isinstance(v, Literal)]
    return given[0] is given[1] or any(np.isinf(x).all() for x in ends)


def _is_whole(v: Atom) -> bool:
    """Whether it is of whole numbers."""
    return shape_of(v).dtype.kind in "iu"


def _keeps(before: Atom, after: Atom) -> bool:
    """Whether a conversion keeps the numbers, up to rounding of floats."""
    old, new = shape_of(before).dtype, shape_of(after).dtype
    if old.kind == "b":
        return True
    # A mask of what is not 0 is no number any more, nor is 0 of 0.3.
    return new.kind != "b" and (new.kind not in "iu" or old.kind in "iu")
