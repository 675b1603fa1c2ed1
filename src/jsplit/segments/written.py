"""What a call of an nnx module leaves behind that no step keeps.

A step keeps what a call writes to statistics. What it leaves of a parameter is the
optimizer's, and a module's own attributes begin each call as they were: plain Flax would go
on from what was written, so it is found in a trace of the call, and said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import ClosedJaxpr, Literal

from jsplit.core.base import Params, PyTree, State
from jsplit.core.checks import warn_user
from jsplit.core.paths import Path, by_path, dotted
from jsplit.jaxprs.dependence import dependence
from jsplit.jaxprs.flat import flatten, shape_of
from jsplit.jaxprs.passed_on import passed_on

_Attributes = dict[tuple[Path, str], bool | int | float | str]


class Left:
    """What one call leaves of a module, noted while it is traced.

    Attributes:
        params: the parameters after the call.
        attributes: paths of attributes that are no arrays, and that it changed.
        kinds: of all variables after the call, by path.
    """

    def __init__(
        self,
        parameters: nnx.filterlib.Filter,
        had: Mapping[Path, nnx.Variable] | None = None,
    ):
        """Begin with nothing noted.

        Args:
            parameters: which variables are parameters.
            had: variables that the module is given before the call, by path.
        """
        self._parameters = parameters
        self._had = had or {}
        self.params: Params = {}
        self.attributes: list[str] = []
        self.kinds: dict[Path, type[nnx.Variable]] = {}

    @contextmanager
    def of(self, model: nnx.Module) -> Iterator[None]:
        """Note what is left of a module by the call that is made in this context."""
        modules: dict[Path, nnx.Module] = {**dict(nnx.iter_modules(model))}
        for path, variable in self._had.items():
            # What stands in a list or a dictionary cannot be given to it from here.
            if path[:-1] not in modules:
                raise _made_anew(path)
            setattr(modules[path[:-1]], str(path[-1]), variable)
        before = _plain_attributes(model)
        yield
        for path, node in nnx.iter_graph(model):
            if isinstance(node, nnx.Variable):
                self.kinds[path] = type(node)
        self.params = nnx.to_pure_dict(nnx.state(model, self._parameters))
        now = _plain_attributes(model)
        changed = [at for at, x in before.items() if now.get(at) != x]
        self.attributes = [dotted((*path, name)) for path, name in changed]


def noting(left: Left | None, model: nnx.Module) -> AbstractContextManager[None]:
    """A context in which a module is called, and in which `left` notes what is left."""
    return nullcontext() if left is None else left.of(model)


def _plain_attributes(model: nnx.Module) -> _Attributes:
    found: _Attributes = {}
    for path, child in nnx.iter_modules(model):
        for name, x in vars(child).items():
            # Those that begin so are how Flax itself, and its users, keep books.
            if not name.startswith("_") and isinstance(x, bool | int | float | str):
                found[path, name] = x
    return found


class _Run(Protocol):
    """One call of a module in training."""

    def __call__(
        self,
        params: Params,
        state: State,
        key: jax.Array,
        inputs: tuple[PyTree, ...],
        train: bool,
        left: Left,
    ) -> tuple[PyTree, State]: ...


class Looking:
    """A look at the first call of a module, which says once what is not kept of it."""

    def __init__(self, parameters: nnx.filterlib.Filter):
        """Look for writes to variables that are parameters.

        Args:
            parameters: which variables these are.
        """
        self._parameters = parameters
        self._warned = False

    def state_after(self, run: _Run, *given: PyTree) -> State:
        """The shapes of the state after a call.

        Args:
            run: the call.
            given: parameters, state, key and inputs, as they go in.

        Returns:
            The state as `jax.eval_shape` gives it.

        Raises:
            ValueError: if the call makes or removes a parameter, or writes to one that
                no optimizer trains.
        """
        left = Left(self._parameters)
        closed, (own, _, after) = _traced(run, left, *given)
        found = by_path(own)
        _refuse_others(by_path(given[0]).paths, found.paths)
        # Those come first of all arguments, and of all results, and in the same order.
        same = passed_on(closed)[: len(found.paths)]
        pairs = zip(found.paths, found.shapes, strict=True)
        written = {p: x for i, (p, x) in enumerate(pairs) if same[i] != i}
        _refuse_untrained(written)
        if not self._warned:
            self._warned = True
            _warn(written, left.attributes)
        return after

    def check_made(self, made: State, run: _Run, *given: PyTree) -> None:
        """Refuse state that a call makes, and that would not be made anew in plain Flax.

        There the next call finds it. So it is looked whether a call of a module that has
        it does the same, and reads nothing of it: then to make it in every call is right.

        Args:
            made: shapes of what a call makes, as part of the state.
            run: the call.
            given: parameters, state, key and inputs, as they go in.

        Raises:
            ValueError: naming what it makes.
        """
        left = Left(self._parameters)
        first, _ = _traced(run, left, *given)
        paths, shapes, _ = by_path(made)
        count = len(jax.tree.leaves(given))

        def again(values: list[jax.Array], *given: PyTree) -> PyTree:
            pairs = zip(paths, values, strict=True)
            had = {path: left.kinds[path](x) for path, x in pairs}
            return _program(run, Left(self._parameters, had))(*given)

        second = jax.make_jaxpr(again)(shapes, *given)
        reads = dependence(second.jaxpr, [1] * len(paths) + [0] * count)
        if any(reads) or _operations(first) != _operations(second):
            raise _made_anew(paths[0])


def _made_anew(path: Path) -> ValueError:
    return ValueError(
        f"the call makes `{dotted(path)}`, which would be made anew in every call, and a "
        "call that finds it may do something else: make it when the module is made, in "
        "`__init__`, or call the module once before."
    )


def _program(run: _Run, left: Left) -> Callable[..., tuple[Params, PyTree, State]]:
    """A call of which the parameters that it leaves are a result as well."""

    def program(*given: PyTree) -> tuple[Params, PyTree, State]:
        output, after = run(*given, train=True, left=left)
        return left.params, output, after

    return program


def _traced(
    run: _Run, left: Left, *given: PyTree
) -> tuple[ClosedJaxpr, tuple[Params, PyTree, State]]:
    trace: Callable[..., tuple[ClosedJaxpr, tuple[Params, PyTree, State]]]
    trace = jax.make_jaxpr(_program(run, left), return_shape=True)
    return trace(*given)


def _operations(closed: ClosedJaxpr) -> list[tuple[object, ...]]:
    """What a program does, one operation after the other, whatever its variables are called."""
    return [
        (
            str(x.eqn.primitive),
            *(str(v.val) for v in x.eqn.invars if isinstance(v, Literal)),
            *((y.shape, y.dtype) for y in map(shape_of, x.eqn.outvars)),
        )
        for x in flatten(closed, calls=True).equations
    ]


def _refuse_others(given: list[Path], found: list[Path]) -> None:
    """Refuse a call after which there are other parameters than before."""
    known, now = {*given}, {*found}
    for path in [*found, *given]:
        if path not in known:
            raise ValueError(
                f"the call makes the parameter `{dotted(path)}`, which would be made anew "
                "in every call and never trained: make it when the module is made, in "
                "`__init__`, or call the module once before."
            )
        if path not in now:
            raise ValueError(
                f"the call puts something else in the place of the parameter "
                f"`{dotted(path)}`, which no step would keep: write to a variable by "
                "`variable[...] = value`, of another kind than nnx.Param."
            )


def _refuse_untrained(written: dict[Path, PyTree]) -> None:
    """Refuse writes to what no optimizer trains."""
    for path, x in written.items():
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            raise ValueError(
                f"the call writes to the parameter `{dotted(path)}`, of {x.dtype}: no step "
                "would keep it, since parameters are the optimizer's. Make it another "
                "nnx.Variable than nnx.Param, as nnx.BatchStat, which is kept."
            )


def _warn(written: dict[Path, PyTree], attributes: list[str]) -> None:
    if written:
        first = dotted(next(iter(written)))
        more = f" and {len(written) - 1} more" if len(written) > 1 else ""
        warn_user(
            f"the call writes to the parameter `{first}`{more}, as nnx.WeightNorm and "
            "nnx.SpectralNorm do. What is written counts in the call, but steps go on from "
            "the weights as they were, where plain Flax goes on from those that were "
            "written. A layer that writes none, as linen.WeightNorm, trains as in plain "
            "Flax; what no optimizer trains is kept in another nnx.Variable than nnx.Param."
        )
    if attributes:
        warn_user(
            f"the call changes the attribute `{attributes[0]}`, which begins every call as "
            "it is now; in plain Flax the next call finds it changed. What shall be kept "
            "from call to call is an nnx.Variable, as nnx.BatchStat."
        )
