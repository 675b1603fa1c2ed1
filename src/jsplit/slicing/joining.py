"""Segments, walked one after the other, as one: the inverse of `split`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax

from jsplit.core.base import Params, PyTree, Segment, State
from jsplit.core.checks import names_of, topological_order
from jsplit.core.frozen import Within
from jsplit.core.keys import node_key
from jsplit.core.loans import loans_of, params_for


def join(
    segments: Mapping[str, Segment], inputs: Sequence[str] | None = None
) -> Segment:
    """Make one segment that computes what several compute, one after the other.

    It is the inverse of `split`. Parameters and state are `{name: those of
    the segment}`. The output is the value that no segment reads, or a
    dictionary of them if there are several.

    Args:
        segments: by the names of what they produce.
        inputs: the names of what no segment produces, in the order in which
            the joined segment takes it; by default in the order in which
            the segments read it.

    Returns:
        A `Segment`.

    Raises:
        ValueError: if a segment does not name its inputs, two read each
            other's output, `inputs` names others, or a tied weight is
            read without the segment that owns it.

    Example:
        >>> import jsplit
        >>> double = jsplit.segment(lambda x: 2 * x, inputs=["x"])
        >>> total = jsplit.segment(lambda h: h.sum(-1), inputs=["h"])
        >>> joined = jsplit.join({"h": double, "total": total})
        >>> joined
        Segment(x -> ...)
    """
    _check_segments(segments)
    reads = {name: made.inputs or () for name, made in segments.items()}
    loans = loans_of(segments)
    # Whoever lends a weight comes before who borrows it.
    first = {n: [*reads[n], *(x.owner for x in loans.get(n, ()))] for n in segments}
    order = topological_order(first, "the segments")
    names = _input_names(order, reads, inputs)
    plan = _Plan(names, order, reads)

    def init(key: jax.Array, /, *values: PyTree) -> tuple[Params, State]:
        params: dict[str, Params] = {}
        state: dict[str, State] = {}

        def run(n: str, args: list[PyTree]) -> PyTree:
            # The key that the node has in a topology, so that joining changes
            # no number.
            own = node_key(key, n, segments[n])
            params[n], state[n] = segments[n].init(own, *args)
            # Shapes are enough for the next: nothing is computed twice, or at
            # all.
            given = params_for(loans, n, params), state[n], own
            return jax.eval_shape(lambda *a: segments[n].apply(*a)[0], *given, *args)

        plan.walk(run, values)
        return params, state

    def apply(
        params: Params,
        state: State,
        key: jax.Array | None,
        /,
        *values: PyTree,
        train: bool = True,
    ) -> tuple[PyTree, State]:
        new: dict[str, State] = {}

        def run(n: str, args: list[PyTree]) -> PyTree:
            own = None if key is None else node_key(key, n, segments[n])
            given = params_for(loans, n, params)
            output, new[n] = segments[n].apply(given, state[n], own, *args, train=train)
            return output

        return plan.output(plan.walk(run, values)), new

    # It hands on the step's key and folds it for those that want their own.
    trainable = any(made.trainable for made in segments.values())
    trains = None
    if any(made.trains is not None for made in segments.values()):
        trains = Within(tuple((n, made.trains) for n, made in segments.items()))
    return Segment(
        init, apply, names, trainable=trainable, shares_key=True, trains=trains
    )


def _refuse_noise(segments: Mapping[str, Segment]) -> None:
    """Refuse private segments: of what is joined only some of the gradient would have noise."""
    for name, made in segments.items():
        if made.noise is not None:
            raise ValueError(
                f"`segments` has `{name}`, which adds noise to its gradient (`private`): "
                "join first, and make what is joined private."
            )


class _Plan(NamedTuple):
    """In which order segments run, and what each reads.

    Attributes:
        inputs: the names of what no segment produces.
        order: the segments, each after those that it reads.
        reads: by segment, the names of its inputs.
    """

    inputs: tuple[str, ...]
    order: Sequence[str]
    reads: Mapping[str, Sequence[str]]

    def walk(
        self, run: Callable[[str, list[PyTree]], PyTree], values: tuple[PyTree, ...]
    ) -> dict[str, PyTree]:
        """All values, as `run` makes each from those that it reads."""
        if len(values) != len(self.inputs):
            raise ValueError(
                f"the joined segments take the inputs {list(self.inputs)}, got "
                f"{len(values)} values."
            )
        env = dict(zip(self.inputs, values, strict=True))
        for n in self.order:
            env[n] = run(n, [env[i] for i in self.reads[n]])
        return env

    def output(self, env: Mapping[str, PyTree]) -> PyTree:
        """The values that no segment reads."""
        read = {i for inputs in self.reads.values() for i in inputs}
        ends = [n for n in self.order if n not in read]
        # One output is itself, as a model returns it.
        return env[ends[0]] if len(ends) == 1 else {n: env[n] for n in ends}


def _check_segments(segments: Mapping[str, Segment]) -> None:
    if not isinstance(segments, Mapping):
        kind = type(segments).__name__
        raise ValueError(
            "`segments` must be a dictionary by the names of what they produce, got a "
            f"{kind}."
        )
    for name, made in segments.items():
        if not isinstance(made, Segment):
            kind = type(made).__name__
            raise ValueError(
                f"`{name}` must be a segment, got a {kind}; make one of it by "
                "jsplit.segment."
            )
        if made.inputs is None:
            raise ValueError(
                f"segment `{name}` does not name its inputs; give them: "
                "jsplit.segment(..., inputs=[...])."
            )
    _refuse_noise(segments)


def _input_names(
    order: Sequence[str],
    reads: Mapping[str, Sequence[str]],
    inputs: Sequence[str] | None,
) -> tuple[str, ...]:
    """The names of what no segment produces, in the order in which it is taken."""
    read = [i for n in order for i in reads[n] if i not in reads]
    read = list(dict.fromkeys(read))
    if inputs is None:
        return tuple(read)

    names = names_of("inputs", inputs)
    if not set(read) <= set(names):
        raise ValueError(
            f"`inputs` must name all that the segments read, {read}, got {names}."
        )
    # More than the segments read is fine: a model may take what it does not
    # use.
    produced = [i for i in names if i in reads]
    if produced:
        raise ValueError(f"`inputs` names `{produced[0]}`, which a segment produces.")
    return tuple(names)
