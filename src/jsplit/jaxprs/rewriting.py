"""A program with some of its equations replaced by others that compute the same.

What replaces an equation is a rule's choice; here is how it gets into the
program, also into the bodies of loops, calls and branches. Everything else
stays as it was traced: nothing is traced again, so a program is not slower
to build for having been looked through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import (
    ClosedJaxpr,
    DropVar,
    Jaxpr,
    JaxprEqn,
    Literal,
    Var,
    jaxpr_as_fun,
)
from jax.tree_util import DictKey, SequenceKey

from jsplit.core.base import PyTree
from jsplit.core.typed_jax import keystr, leaves_with_path
from jsplit.jaxprs.flat import Atom, shape_of

_DONE = "jsplit_form"
"""The name of the call that stands in an equation's place, by which it is known as done."""

Form = Callable[..., jax.Array]
"""A function of an equation's operands that computes its result."""

Rule = Callable[[JaxprEqn], Form | None]
"""From an equation to its new form; `None`: it stays."""


def run_replaced(
    function: Callable[..., PyTree],
    rule: Rule,
    args: tuple[PyTree, ...],
    kwargs: Mapping[str, PyTree],
) -> PyTree:
    """Run a function with the equations that a rule knows in another form.

    Args:
        function: of pytrees of arrays; whatever else is among its arguments is static.
        rule: what to replace, and by what.
        args: its arguments.
        kwargs: its arguments by name.

    Returns:
        Its result.

    Raises:
        ValueError: if it changes an argument in place, which would be lost.
    """
    leaves, structure = jax.tree.flatten((args, dict(kwargs)))
    traced = [isinstance(x, jax.Array | np.ndarray) for x in leaves]
    arrays = [x for x, t in zip(leaves, traced, strict=True) if t]

    def of_arrays(*arrays: jax.Array) -> PyTree:
        new = iter(arrays)
        given = [next(new) if t else x for x, t in zip(leaves, traced, strict=True)]
        args, kwargs = jax.tree.unflatten(structure, given)
        result = function(*args, **kwargs)
        _check_unchanged((args, kwargs), given, result)
        return result

    closed, shapes = jax.make_jaxpr(of_arrays, return_shape=True)(*arrays)
    found = jaxpr_as_fun(replaced(closed, rule))(*arrays)
    return jax.tree.unflatten(jax.tree.structure(shapes), found)


def _check_unchanged(args: PyTree, given: list[PyTree], result: PyTree) -> None:
    """Refuse a function that has changed an object in place, and does not return it."""
    found = leaves_with_path(args)
    returned = {id(x) for x in jax.tree.leaves(result)}
    for (path, now), before in zip(found, given, strict=False):
        # A dictionary or list is a copy to begin with, as it is under `jax.jit`, and may
        # be changed like one. An object, as a module, is meant to be.
        plain = all(isinstance(k, DictKey | SequenceKey) for k in path)
        if now is not before and not plain and id(now) not in returned:
            raise ValueError(
                f"the function changes {keystr(path)} of its arguments in place, which "
                "would be lost: return what is new (of an nnx module: nnx.split before, "
                "nnx.merge within, and return the new state)."
            )


def replaced(closed: ClosedJaxpr, rule: Rule) -> ClosedJaxpr:
    """A program with the equations that a rule knows in another form.

    Args:
        closed: the program.
        rule: what to replace, and by what.

    Returns:
        The new program; `closed` itself if the rule knows nothing in it.
    """
    return _Rewriter(rule).closed(closed)


class _Rewriter:
    """The bodies that have been rewritten so far, each once."""

    def __init__(self, rule: Rule):
        self.rule = rule
        # JAX compiles a body that is called several times once, as long as it is one
        # object. The old one is kept too, so that its `id` stays its own.
        self.known: dict[int, tuple[Jaxpr, Jaxpr]] = {}

    def closed(self, closed: ClosedJaxpr) -> ClosedJaxpr:
        new = self.jaxpr(closed.jaxpr)
        return closed if new is closed.jaxpr else ClosedJaxpr(new, closed.consts)

    def jaxpr(self, jaxpr: Jaxpr) -> Jaxpr:
        at = id(jaxpr)
        if at not in self.known:
            eqns = [e for old in jaxpr.eqns for e in self.equation(old)]
            same = len(eqns) == len(jaxpr.eqns) and all(
                new is old for new, old in zip(eqns, jaxpr.eqns, strict=True)
            )
            self.known[at] = (jaxpr, jaxpr if same else jaxpr.replace(eqns=eqns))
        return self.known[at][1]

    def equation(self, eqn: JaxprEqn) -> list[JaxprEqn]:
        """What stands in the place of an equation."""
        if eqn.params.get("name") == _DONE:
            return [eqn]
        form = self.rule(eqn)
        if form is not None:
            return _written_out(eqn, form)

        new = {k: self.parameter(v) for k, v in eqn.params.items()}
        if all(new[k] is v for k, v in eqn.params.items()):
            return [eqn]
        return [eqn.replace(params=new)]

    def parameter(self, value: object) -> object:
        """A parameter of an equation, which may be a body or a tuple of branches."""
        if isinstance(value, ClosedJaxpr):
            return self.closed(value)
        if isinstance(value, Jaxpr):
            return self.jaxpr(value)
        if isinstance(value, tuple) and any(
            isinstance(v, ClosedJaxpr | Jaxpr) for v in value
        ):
            new = tuple(self.parameter(v) for v in value)
            if all(a is b for a, b in zip(new, value, strict=True)):
                return value
            # Of a named tuple the names are read.
            make = getattr(type(value), "_make", tuple)
            return make(new)
        return value


def _written_out(eqn: JaxprEqn, form: Form) -> list[JaxprEqn]:
    """The equations of a form, reading and writing what the one they replace does."""

    def done(*operands: jax.Array) -> jax.Array:
        return form(*operands)

    done.__name__ = _DONE
    shapes = [shape_of(v) for v in eqn.invars]
    wide = any(s.dtype.itemsize > 4 for s in shapes)
    # Whatever the user has set was for the user's own code, or was set within it.
    with jax.numpy_rank_promotion("allow"), jax.enable_x64(wide or _x64_is_on()):
        traced = jax.make_jaxpr(jax.jit(done))(*shapes)
    # A program has no place for the constants of one equation: a form makes what it needs.
    assert not traced.consts, f"{eqn.primitive.name}: a form holds constants"
    names: dict[Var, Atom] = dict(zip(traced.jaxpr.invars, eqn.invars, strict=True))
    given = dict(zip(traced.jaxpr.outvars, eqn.outvars, strict=True))

    found: list[JaxprEqn] = []
    for e in traced.jaxpr.eqns:
        # As many names as places: one form may stand in a program many times.
        fresh = [v if isinstance(v, DropVar) else Var(v.aval) for v in e.outvars]
        outvars = [given.get(v, new) for v, new in zip(e.outvars, fresh, strict=True)]
        invars = [v if isinstance(v, Literal) else names[v] for v in e.invars]
        names.update(zip(e.outvars, outvars, strict=True))
        # In a trace of the profiler it stands where the one that it replaces would.
        told = eqn.source_info
        found.append(e.replace(invars=invars, outvars=outvars, source_info=told))
    return found


def _x64_is_on() -> bool:
    return jnp.result_type(float) == np.float64
