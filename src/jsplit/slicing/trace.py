"""One trace of a whole model: its equations, and what its variables are.

A trace is of one mode at one batch size; `traced_model.py` makes them.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Var

from jsplit.core.base import PyTree
from jsplit.core.typed_jax import TreeDef
from jsplit.jaxprs.flat import Atom, Flat, shape_of


class SourceKind(StrEnum):
    """What a slice can read from outside."""

    PARAMS = "params"
    STATE = "state"
    KEY = "key"
    FIELD = "field"
    CUT = "cut"

    # Sources are in sets all over this room, and Enum's own hash is a
    # Python function.
    __hash__ = str.__hash__


class Source(NamedTuple):
    """What an input variable of a model is.

    Attributes:
        kind: what sort of thing.
        leaf: the number of the leaf, for parameters and state.
        name: the name, for fields and cuts.
    """

    kind: SourceKind
    leaf: int = 0
    name: str = ""


class Value(NamedTuple):
    """A value of a model: the pytree that it forms, and the variables of its leaves."""

    structure: TreeDef
    atoms: Sequence[Atom]


# The settings of JAX under which a trace comes out otherwise.
_CONFIGURED = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
)

LEAF = jax.tree.structure(0)


Ways = Mapping[str, tuple[tuple[str, str], ...]]
"""By key, the cuts that held a value before, and where in each."""


class Traced(NamedTuple):
    """A whole model in one mode at one batch size.

    Attributes:
        flat: its equations.
        batch: the batch size.
        sources: what each input variable is.
        variables: the other way round.
        new_state: the atom of each state leaf after the call.
        outputs: the outputs to compute, by name.
        cuts: the cuts to compute, by name.
        raw: by variable that holds entries of a field that is not public, that field.
        steady: variables whose leading axis is known not to be the batch.
        example: by variable, the one in its place where the model was first traced in
            this mode, at the sizes of its example.
        handed: by cut, what is carried with it and was handed on: by its key, the cuts
            that held it before, the nearest first, and where in each.
    """

    flat: Flat
    batch: int
    sources: dict[Var, Source]
    variables: dict[Source, list[Var]]
    new_state: list[Atom]
    outputs: dict[str, Value]
    cuts: dict[str, Value]
    raw: dict[Var, str]
    steady: frozenset[Var] = frozenset()
    example: Mapping[Var, Var] = MappingProxyType({})
    handed: Mapping[str, Ways] = MappingProxyType({})

    @property
    def values(self) -> dict[str, Value]:
        """Cuts and outputs by name."""
        return {**self.cuts, **self.outputs}

    @property
    def weights(self) -> list[Var]:
        """The variables of all parameters that can be trained."""
        found: list[Var] = []
        for v, source in self.sources.items():
            # Integers (of a quantised layer, say) have no gradient.
            inexact = jnp.issubdtype(shape_of(v).dtype, jnp.inexact)
            if source.kind == SourceKind.PARAMS and inexact:
                found.append(v)
        return found

    def sizes_of(self, v: Var) -> tuple[int, ...]:
        """The sizes of one example of a value, at those of the model's example if known."""
        return shape_of(self.example.get(v, v)).shape[1:]

    def ends(self, public: Collection[str] = ()) -> tuple[list[Var], list[Atom]]:
        """The variables of all inputs that are not public, and those of all outputs."""
        ends = [v for output in self.outputs.values() for v in output.atoms]
        return [*self.secret(public)], ends

    def secret(self, public: Collection[str]) -> dict[Var, str]:
        """The variables of all inputs that are not public, with the names of these."""
        return {
            v: source.name
            for v, source in self.sources.items()
            if source.kind == SourceKind.FIELD and source.name not in public
        }

    @property
    def cuts_in_order(self) -> list[str]:
        """Cuts in the order in which the model computes them."""
        position: dict[Atom, int] = {}
        for i, equation in enumerate(self.flat.equations):
            position.update(dict.fromkeys(equation.writes, i))

        def last(name: str) -> int:
            # A cut is there when all its values are. Literals are no keys, and
            # there from the start.
            atoms = [v for v in self.cuts[name].atoms if isinstance(v, Var)]
            return max((position.get(v, -1) for v in atoms), default=-1)

        return sorted(self.cuts, key=last)

    def stops(self, name: str) -> list[Var]:
        """Where a slice that computes the value `name` stops: at the other cuts."""
        own = self.values[name].atoms if name in self.cuts else ()
        stops: list[Var] = []
        for other, value in self.cuts.items():
            for v in value.atoms if other != name else ():
                # By identity: literals, which may be among them, cannot be
                # compared.
                if isinstance(v, Var) and all(v is not o for o in own):
                    stops.append(v)
        return stops


def name_outputs(names: Sequence[str], output: PyTree) -> dict[str, Value]:
    """Give the outputs of a trace their names.

    Args:
        names: what the outputs shall be called.
        output: what the model returned, with atoms in the place of arrays.

    Returns:
        The outputs by name.

    Raises:
        ValueError: if the names do not fit what the model returns.
    """
    is_tuple = isinstance(output, tuple | list)
    if isinstance(output, Mapping) and set(names) <= set(output):
        found = {name: output[name] for name in names}
    elif is_tuple and len(names) == len(output) > 1:
        found = dict(zip(names, output, strict=True))
    # One name is for all of it, also for a tuple of one.
    elif len(names) == 1:
        found = {names[0]: output}
    else:
        what = _in_words(output)
        raise ValueError(f"`outputs` names {names}, but the model returns {what}.")

    values: dict[str, Value] = {}
    for name, value in found.items():
        values[name] = Value(jax.tree.structure(value), jax.tree.leaves(value))
    return values


def of_ends(keyed: Sequence[tuple[str, Atom]], count: int) -> Value:
    """The value of a cut, from what it holds.

    Args:
        keyed: what was found, each with its key, or "".
        count: at how many ends it was found.

    Returns:
        An array where there is one, else a dictionary by their keys or order.
    """
    if len(keyed) == 1 and count == 1 and not keyed[0][0]:
        return Value(LEAF, [keyed[0][1]])
    keys = [key for key, _ in keyed]
    named: dict[str, Atom] = {}
    for i, (key, v) in enumerate(keyed):
        # Values that were marked one by one have no key, or the same.
        unique = key and keys.count(key) == 1
        named[key if unique else str(i)] = v
    return Value(jax.tree.structure(named), jax.tree.leaves(named))


def at_batch(example: Sequence[PyTree], batch: int) -> list[PyTree]:
    """The shapes of an example at another batch size."""

    def with_batch(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)

    return [jax.tree.map(with_batch, e) for e in example]


def _in_words(output: PyTree) -> str:
    """What a model returns, for an error."""
    if isinstance(output, tuple | list):
        return f"{len(output)} values"
    if isinstance(output, Var):
        return "one array"
    if isinstance(output, Mapping):
        return f"the keys {list(output)}"
    return f"a {type(output).__name__}"


def trace_key(batch: int, train: bool, key: np.dtype) -> tuple[Hashable, ...]:
    """What the jaxpr of a model depends on, beside the model."""
    return batch, train, key, *(getattr(jax.config, name) for name in _CONFIGURED)
