"""Who reads what: the parts into which cuts divide a whole model, and why some do not.

The part of a value is the backward slice from it that stops at the other cuts. What the slice reads,
in training or in inference mode, is the part's; an input, a weight or a statistic that two parts read is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from jax.extend.core import Var

from jsplit.core.checks import topological_order
from jsplit.core.paths import dotted
from jsplit.jaxprs.flat import CUT, MODULE, backward_slice, shape_of, untagged
from jsplit.slicing.traced_model import Source, Traced, TracedModel


class SegmentSpec(NamedTuple):
    """What one segment has of the whole: indices of leaves, and the names of what it reads."""

    params: list[int]
    state: list[int]
    inputs: list[str]


def divide(whole: TracedModel, traces: Sequence[Traced]) -> dict[str, SegmentSpec]:
    """The parts by the names of their values, over all `traces`; refuses what cannot be divided."""
    cuts, names = traces[0].cuts, _in_order(traces[0])
    _refuse_names(whole, traces)
    reads: dict[str, set[Source]] = {name: set() for name in names}
    pieces = {
        name: [
            backward_slice(t.flat, t.values[name].atoms, t.stops(name)) for t in traces
        ]
        for name in names
    }
    for name in names:
        for trace, piece in zip(traces, pieces[name], strict=True):
            reads[name] |= _check_value(trace, name, _sources(trace, piece.reads))
        if name not in cuts and not any(
            e.eqn.primitive.name != "name"
            for piece in pieces[name]
            for e in piece.equations
        ):
            cut = next(
                (
                    f"cut `{s.which}` separates nothing: "
                    for s in sorted(reads[name])
                    if s.kind == "cut"
                ),
                "",
            )
            raise ValueError(
                f"{cut}output `{name}` is `{_describe(whole, min(reads[name]))}` itself, nothing is computed after it."
            )
    names = topological_order(
        {n: [s.which for s in reads[n] if s.kind == "cut"] for n in names}, "the cuts"
    )
    used = {s.which for found in reads.values() for s in found if s.kind == "cut"}
    for name in cuts:
        if name not in used:
            raise ValueError(
                f"cut `{name}` separates nothing: no output and no other cut depends on it."
            )
    owner: dict[Source, str] = {}
    for name in names:
        for source in sorted(
            s for s in reads[name] if s.kind in ("params", "state", "field")
        ):
            if owner.setdefault(source, name) != name and not (
                source.kind == "field" and source.which in whole.shared
            ):
                _refuse_shared(
                    whole, traces, source, [n for n in names if source in reads[n]]
                )
    _own_statistics(whole, traces, reads, owner)
    params, state = (
        {
            n: [
                i
                for i in range(len(leaves.paths))
                if owner.get(Source(kind, i), names[-1]) == n
            ]
            for n in names
        }
        for kind, leaves in (("params", whole.params), ("state", whole.state))
    )
    inputs = {
        n: [
            s
            for s in (*whole.fields, *names)
            if reads[n] & {Source("field", s), Source("cut", s)}
        ]
        for n in names
    }
    return {n: SegmentSpec(params[n], state[n], inputs[n]) for n in names}


def _refuse_names(whole: TracedModel, traces: Sequence[Traced]) -> None:
    """Refuse one name for two values, and one value under two names."""
    if both := set(traces[0].cuts) & {*traces[0].outputs, *whole.fields}:
        raise ValueError(
            f"the cut `{both.pop()}` has the name of an input or output of the model."
        )
    for trace in traces:
        holder: dict[Var, str] = {}
        for name, value in trace.cuts.items():
            for v in value.atoms:
                if isinstance(v, Var) and holder.setdefault(v, name) != name:
                    raise ValueError(
                        f"the cuts `{holder[v]}` and `{name}` hold the same value; it can cross in one of them."
                    )


def _in_order(trace: Traced) -> list[str]:
    """Cuts in the order in which the model computes them, then outputs."""
    position = {v: i for i, e in enumerate(trace.flat.equations) for v in e.writes}
    last = {
        n: max(
            (position.get(v, -1) for v in value.atoms if isinstance(v, Var)), default=-1
        )
        for n, value in trace.cuts.items()
    }
    return [*sorted(last, key=lambda n: last[n]), *trace.outputs]


def _sources(trace: Traced, variables: Iterable[Var]) -> set[Source]:
    cuts = {v: Source("cut", n) for n, value in trace.cuts.items() for v in value.atoms}
    return {cuts.get(v) or trace.sources[v] for v in variables}


def _check_value(trace: Traced, name: str, found: set[Source]) -> set[Source]:
    """What the value `name` is computed from; refused if it is no result of a segment."""
    atoms = trace.values[name].atoms
    what = f"cut `{name}`" if name in trace.cuts else f"output `{name}`"
    renamed = {
        e.writes[0]: e.reads[0]
        for e in trace.flat.equations
        if e.eqn.primitive.name == "name" and e.reads
    }
    for v in atoms if name in trace.cuts else ():
        raw = v
        while raw in renamed:
            raw = renamed[raw]
        if (
            isinstance(raw, Var)
            and raw in trace.sources
            and trace.sources[raw].kind == "field"
        ):
            raise ValueError(
                f"{what} holds the raw input `{trace.sources[raw].which}`: it would leave its owner."
            )
        if shape_of(v).shape[:1] != (trace.batch,):
            raise ValueError(
                f"{what} holds an array of shape {shape_of(v).shape}; its leading axis must be the batch, {trace.batch}."
            )
    if not any(s.kind in ("field", "cut") for s in found):
        raise ValueError(f"{what} depends on no input.")
    return found


def _own_statistics(
    whole: TracedModel,
    traces: Sequence[Traced],
    reads: Mapping[str, set[Source]],
    owner: dict[Source, str],
) -> None:
    """Give every statistic, and every weight that only statistics read, to a segment that can compute its update.

    One that some value reads is that value's. Others, as they hang together by their updates, go to the first segment
    that has what these need; counters that need nothing go to the last.
    """
    needs: dict[Source, set[Source]] = {}
    for i in range(len(whole.state.paths)):
        found = set[Source]()
        for trace in traces:
            found |= _sources(
                trace,
                backward_slice(trace.flat, [trace.new_state[i]], trace.stops("")).reads,
            )
        needs[Source("state", i)] = {s for s in found if s.kind != "key"}

    groups: list[
        set[Source]
    ] = []  # of statistics without an owner, and what their updates read
    for source, needed in needs.items():
        if source in owner:
            continue
        group = {source, *needed}
        loose = {s for s in group if s.kind in ("params", "state") and s not in owner}
        for other in [g for g in groups if g & loose]:
            groups.remove(other)
            group |= other
        groups.append(group)
    for group in groups:
        loose = {s for s in group if s.kind in ("params", "state") and s not in owner}
        able = [n for n in reads if group - loose <= reads[n]]
        able += [n for n in reads if group - loose <= reads[n] | {Source("cut", n)}]
        if not able:
            _refuse_statistic(
                whole, min(s for s in loose if s.kind == "state"), group - loose
            )
        owner.update(
            dict.fromkeys(loose, able[0] if group - loose else list(reads)[-1])
        )
    for source, needed in needs.items():
        name = owner[source]
        if not all(
            s in reads[name] or owner.get(s) == name or s == Source("cut", name)
            for s in needed
        ):
            _refuse_statistic(whole, source, needed)


def _refuse_statistic(whole: TracedModel, source: Source, needed: set[Source]) -> None:
    what = ", ".join(f"`{_describe(whole, s)}`" for s in sorted(needed))
    raise ValueError(
        f"statistic `{_describe(whole, source)}` needs {what}, which no single segment has."
    )


def _describe(whole: TracedModel, source: Source) -> str:
    leaves = {"params": whole.params, "state": whole.state}.get(source.kind)
    return dotted(leaves.paths[source.which]) if leaves else str(source.which)


def _refuse_shared(
    whole: TracedModel, traces: Sequence[Traced], source: Source, readers: Sequence[str]
) -> None:
    """Say which way an input, weight or statistic takes around the cut."""
    ways = [
        way
        for trace in traces
        if (way := _path_to(trace, source, readers[-1])) is not None
    ]
    way = " -> ".join([_describe(whole, source), *ways[0], readers[-1]])
    both = " and ".join(f"`{n}`" for n in readers)
    cuts = ", ".join(f"`{n}`" for n in readers if n in traces[0].cuts)
    what = {"params": "weight", "state": "statistic", "field": "input"}[source.kind]
    said = f"the {what} `{_describe(whole, source)}`"
    if not cuts:
        raise ValueError(
            f"{said} is read by {both} ({way}), and no cut lies before both; cut where they part."
        )
    if source.kind != "field":
        raise ValueError(f"{said} is tied across a cut: {both} read it ({way}).")
    raise ValueError(
        f"a skip connection goes around the cut {cuts}: {said} is read by {both} ({way}). Make what "
        f"crosses part of the cut, or name the input in `shared_inputs` if both parties hold it."
    )


def _path_to(trace: Traced, source: Source, name: str) -> list[str] | None:
    """Names of the steps from an input of the whole to the value `name`, around the cuts: submodules where named."""
    piece = backward_slice(trace.flat, trace.values[name].atoms, trace.stops(name))
    came: dict[Var, tuple[Var | None, str]] = {
        v: (None, "") for v, s in trace.sources.items() if s == source
    }
    for equation in piece.equations:
        start = next((v for v in equation.reads if v in came), None)
        kind = equation.eqn.primitive.name
        step = (
            untagged(equation.eqn.params["name"])[0]
            .removeprefix(MODULE)
            .removeprefix(CUT)
            if kind == "name"
            else kind
        )
        came.update({v: (start, step) for v in equation.writes if start is not None})
    at: Var | None = next(
        (v for v in trace.values[name].atoms if isinstance(v, Var) and v in came), None
    )
    if at is None:
        return None
    steps: list[str] = []
    while at is not None:
        at, step = came[at]
        steps.append(step)
    named = [step for step in reversed(steps) if step]
    return named if len(named) <= 7 else [*named[:3], "...", *named[-3:]]
