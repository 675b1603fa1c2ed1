"""Which values of a program hold entries of its inputs as they are: moved, never changed.

A proof by rules, equation by equation, without any number: what it names is raw for
certain. What it does not name may be raw all the same, as behind a loop, a branch or a
function that nobody here has a rule for. `jsplit.privacy.views` proves more, entry by
entry, of a whole topology.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from jsplit.jaxprs.flat import Atom, Flat, bodies, flatten, shape_of

# What moves entries of its first argument, or leaves some out; padding adds constants.
_MOVES = {
    "broadcast_in_dim",
    "copy",
    "copy_p",
    "device_put",
    "dynamic_slice",
    "expand_dims",
    "gather",
    "name",
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
_SHIFTS = {"add", "add_any", "sub"}
_SCALES = {"mul", "div"}
_LARGEST = 1 << 20  # entries of a constant that is looked at


def rearranged(flat: Flat, fields: Mapping[Var, str]) -> dict[Var, str]:
    """The variables that hold entries of an input, at most moved, shifted or scaled.

    Shifted and scaled is meant by constants of the code, as a picture divided by 255 is;
    rounded to fewer bits counts too. A one-hot of class numbers gives these away, and the
    number of a row that wraps around where it is negative is that number.

    Args:
        flat: the program.
        fields: the names of the inputs, by their variables.

    Returns:
        By variable, the name of the input; the inputs themselves are among them.
    """
    proof = _Proof(dict(fields), flat)
    for equation in flat.equations:
        proof.look_at(equation.eqn)
    return proof.raw


class _Proof:
    """What is known after the equations so far: which variables are raw, which constant."""

    def __init__(self, raw: dict[Var, str], flat: Flat):
        self.raw = raw
        self.constants: set[Var] = {*flat.consts}
        # Those of them without a zero, by which a product can be undone.
        self.not_zero: set[Var] = set()
        # And those that count up, with which class numbers are compared.
        self.counted: set[Var] = set()
        for v, value in flat.consts.items():
            if _is_not_zero(value):
                self.not_zero.add(v)

    def look_at(self, eqn: JaxprEqn) -> None:
        """Take one equation in."""
        name = eqn.primitive.name
        field = self._field(eqn)
        if field is not None:
            self.raw.update((v, field) for v in eqn.outvars)
        elif all(self._is_constant(v) for v in eqn.invars):
            self.constants.update(eqn.outvars)
            keeps = name in _MOVES - {"pad"} or name == "convert_element_type"
            if keeps and eqn.invars and self._has_no_zero(eqn.invars[0]):
                self.not_zero.update(eqn.outvars)
            if name == "iota" or any(v in self.counted for v in _variables(eqn)):
                self.counted.update(eqn.outvars)

    def _field(self, eqn: JaxprEqn) -> str | None:
        """The input whose entries the results of an equation are."""
        name, given = eqn.primitive.name, eqn.invars
        held = [self.raw.get(v) if isinstance(v, Var) else None for v in given]
        first = next((f for f in held if f is not None), None)
        if first is None:
            return None
        if name in _JOINS:
            return first
        if name in _MOVES or name == "neg":
            return held[0]
        if name == "convert_element_type":
            return held[0] if _keeps(given[0], eqn.outvars[0]) else None
        if name == "clamp":
            # Row numbers, which lie in their table.
            return held[1] if shape_of(given[1]).dtype.kind in "iu" else None
        if name == "select_n":
            # Of a number and the same number, wrapped where it is negative.
            cases = held[1:]
            return first if all(f == first for f in cases) else None
        if name == "eq":
            return first if any(v in self.counted for v in _variables(eqn)) else None
        if name in _SHIFTS | _SCALES:
            return first if self._is_undone(name, given, held) else None
        return self._called(eqn, held)

    def _is_undone(self, name: str, given: list[Atom], held: list[str | None]) -> bool:
        """Whether a sum or product is of raw entries and a constant that takes it back."""
        at = 0 if held[0] is not None else 1
        other = given[1 - at]
        if not self._is_constant(other):
            return False
        if name in _SHIFTS:
            return True
        whole = shape_of(given[at]).dtype.kind in "iub"
        # 5 // 2 is 2, and 1 / x is no scale.
        fits = name == "mul" or (at == 0 and not whole)
        return fits and self._has_no_zero(other)

    def _called(self, eqn: JaxprEqn, held: list[str | None]) -> str | None:
        """The same of a function that is called as it is, with a derivative of its own."""
        if not eqn.primitive.name.startswith("custom_"):
            return None
        body = next((b for b in bodies(eqn) if len(b.invars) == len(held)), None)
        if body is None or len(body.outvars) != 1:
            return None
        found = _of_body(body, held)
        return found[0]

    def _is_constant(self, v: Atom) -> bool:
        return isinstance(v, Literal) or v in self.constants

    def _has_no_zero(self, v: Atom) -> bool:
        if isinstance(v, Literal):
            return _is_not_zero(v.val)
        return v in self.not_zero


def _variables(eqn: JaxprEqn) -> list[Var]:
    return [v for v in eqn.invars if isinstance(v, Var)]


def _of_body(body: Jaxpr, held: list[str | None]) -> list[str | None]:
    """Which results of a body without constants are entries of which input."""
    flat = flatten(ClosedJaxpr(body, [0] * len(body.constvars)))
    known = zip(body.invars, held, strict=True)
    raw = rearranged(flat, {v: f for v, f in known if f is not None})
    return [raw.get(v) if isinstance(v, Var) else None for v in flat.outvars]


def _keeps(before: Atom, after: Atom) -> bool:
    """Whether a conversion keeps the numbers, up to rounding of floats."""
    old, new = shape_of(before).dtype, shape_of(after).dtype
    if old.kind == "b":
        return True
    # A mask of what is not 0 is no number any more, nor is 0 of 0.3.
    return new.kind != "b" and (new.kind not in "iu" or old.kind in "iu")


def _is_not_zero(value: object) -> bool:
    """Whether a constant has no zero; of a large one, or a key, it is not known."""
    if np.size(value) > _LARGEST:  # type: ignore[arg-type]
        return False
    try:
        return bool(np.all(np.asarray(value) != 0))
    except TypeError:
        return False
