"""Which inputs of a segment have records along their first axis: proved, or said.

A mask of tokens by tokens has as many rows as a batch of that size has records, and each
would be given a row of it. No length can tell: the program is followed instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import jax
from jax.extend.core import Jaxpr, JaxprEqn

from jsplit.core.base import Params, PyTree, Segment, State
from jsplit.core.checks import names_of, one_of
from jsplit.core.trees import abstract, combine, inexact_part
from jsplit.jaxprs.flat import bodies
from jsplit.privacy.guarantees.apart import Mixed, follow
from jsplit.privacy.guarantees.axis_rules import Rows

_OTHER = 7
"""Where the size of the batch is no number, as in an export: of how many records."""


def checked_records(
    segment: Segment, records: Sequence[str] | None
) -> tuple[str, ...] | None:
    """The names of the inputs that have records, after they were looked at.

    Args:
        segment: of them.
        records: names, or `None`: it is proved of all.

    Raises:
        ValueError: naming `records`.
    """
    if records is None:
        return None
    if segment.inputs is None:
        raise ValueError(
            "`records` names inputs, and those of `segment` have no names: give "
            "`jsplit.segment(..., inputs=[...])`."
        )
    names = names_of("records", records)
    if not names:
        raise ValueError("`records` must name at least one input, got none.")
    for name in names:
        one_of("records", name, segment.inputs)
    return tuple(names)


def divided(
    segment: Segment, records: tuple[str, ...] | None, inputs: tuple[PyTree, ...]
) -> tuple[list[bool], tuple[PyTree, ...], tuple[PyTree, ...]]:
    """Which inputs each record is given a row of, those, and what it is given whole.

    Args:
        segment: of the inputs.
        records: as `checked_records` gives them.
        inputs: all of them.
    """
    mapped = [True] * len(inputs)
    if records is not None:
        mapped = [name in records for name in segment.inputs or ()]
    pairs = [*zip(inputs, mapped, strict=True)]
    rows = tuple(x for x, own in pairs if own)
    return mapped, rows, tuple(x for x, own in pairs if not own)


def check_apart(
    segment: Segment,
    params: Params,
    state: State,
    key: jax.Array | None,
    inputs: Sequence[PyTree],
) -> None:
    """Refuse inputs whose rows are not shown to be those of the records.

    Args:
        segment: whose inputs they are.
        params: its parameters.
        state: of it.
        key: a PRNG key, or `None`.
        inputs: [records, ...] each.

    Raises:
        ValueError: naming an input that is the culprit, if one is, and what to do.
    """
    size = jax.tree.leaves(inputs)[0].shape[0]
    if not isinstance(size, int):
        size = _OTHER
    # What a batch of one record computes is what that record alone does.
    if size < 2:
        return
    given = abstract((key, params))
    at = [
        jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), abstract(one)
        )
        for one in inputs
    ]

    def run(given: PyTree, inputs: Sequence[PyTree]) -> PyTree:
        key, params = given
        return segment.apply(params, state, key, *inputs, train=True)[0]

    traced, value = jax.make_jaxpr(run, return_shape=True)(given, at)
    before = len(jax.tree.leaves(given))
    counts = [len(jax.tree.leaves(x)) for x in inputs]
    shapes = [x.shape[:1] for x in jax.tree.leaves(value)]

    def doubt(which: Sequence[bool]) -> str:
        rows: list[Rows | None] = [None] * before
        for n, mapped in zip(counts, which, strict=True):
            rows += [Rows(0) if mapped else None] * n
        for place, shape in zip(follow(traced, rows, size), shapes, strict=True):
            if isinstance(place, Mixed):
                return f"`{place.by}` may read several of its rows at once"
            if place != Rows(0) or shape != (size,):
                return "what is computed of its rows does not lie by record"
        return ""

    every = [True] * len(inputs)
    why = doubt(every)
    if not why:
        return
    # One that has no records is found by leaving it out: the others are in order then.
    found = [
        i
        for i in range(len(inputs))
        if len(inputs) > 1 and not doubt([j != i for j in range(len(inputs))])
    ]
    raise ValueError(_said(segment, found, why))


def check_mapped(
    segment: Segment,
    one: Callable[..., PyTree],
    parts: Sequence[PyTree],
    records: tuple[str, ...] | None,
) -> None:
    """Refuse what says itself how it is mapped over records, also in its pullback.

    Of all else `vmap` keeps the records apart. A pullback may be another program
    (`jax.custom_vjp`), which the segment's own does not show.

    Args:
        segment: of which `one` is a record's.
        one: `one(weights, rest, shared, row)`, of one record.
        parts: these four, of all records.
        records: as `checked_records` gives them; where the user has named some, a
            callback that is called for one record at a time is not refused.

    Raises:
        ValueError: naming the primitive.
    """

    *rest, rows = abstract(tuple(parts))
    row = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), rows)

    def pulled(*given: PyTree) -> PyTree:
        def fn(parts: Sequence[PyTree]) -> PyTree:
            return inexact_part(one(*map(combine, given, parts)))

        value, pull = jax.vjp(fn, [inexact_part(x) for x in given])
        return pull(value)

    for program, where in ((one, "it"), (pulled, "its pullback")):
        for eqn in _nested(jax.make_jaxpr(program)(*rest, row).jaxpr):
            if _is_own(eqn, said=records is not None):
                raise ValueError(
                    f"`private` of `{segment.name or 'a segment'}`: "
                    f"`{eqn.primitive.name}` in {where} may read several records at once "
                    "when it is mapped over them, and no clip of one record's gradient "
                    "would bound what that record changes."
                )


def _nested(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    for eqn in jaxpr.eqns:
        yield eqn
        for body in bodies(eqn):
            yield from _nested(body)


def _is_own(eqn: JaxprEqn, *, said: bool) -> bool:
    """Whether a user's function decides what becomes of many records."""
    name = eqn.primitive.name
    if "callback" in name and name != "debug_callback":
        # A function of the host may also remember.
        return not (said and "sequential" in str(eqn.params.get("vmap_method")))
    return name == "custom_vmap_call"


def _said(segment: Segment, found: Sequence[int], why: str) -> str:
    """What is wrong, and what to do."""
    names = segment.inputs or ()
    called = [f"`{names[i]}`" if i < len(names) else f"input {i}" for i in found]
    whose = f"`private` of `{segment.name or 'a segment'}`: "
    if len(called) == 1:
        return (
            f"{whose}{called[0]} is not shown to have records along its first axis "
            f"({why}), though it is as long as a batch. If it is a table or a mask that "
            f"all records share, give it as a constant of the model "
            f"(`jsplit.split(..., fixed={{...}})`), or name with `records=[...]` the "
            "inputs of which each record has a row."
        )
    return (
        f"{whose}it is not shown to compute each record's result of that record alone "
        f"({why}), and each record would go through it by itself. An input that all "
        "records share is a constant of the model (`jsplit.split(..., fixed={...})`); "
        "`records=[...]` names the inputs of which each record has a row, where you "
        "know it."
    )
