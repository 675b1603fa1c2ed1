"""Who reads what: the segments into which cuts divide a whole model.

The segment of a value is the backward slice from it that stops at the other
cuts. What the slice reads, in training or in inference mode, is the
segment's. A weight that several read belongs to the first, and the others
borrow it; an input or a statistic that two read is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jax.extend.core import Var

from jsplit.core.checks import topological_order
from jsplit.jaxprs.flat import shape_of
from jsplit.jaxprs.slices import backward_slice
from jsplit.slicing.refusals import name_of, refuse_shared
from jsplit.slicing.statistics import own_statistics, sources_of
from jsplit.slicing.trace import Source, SourceKind, Traced
from jsplit.slicing.traced_model import TracedModel


class SegmentSpec(NamedTuple):
    """What one segment has of a whole model.

    Attributes:
        params: the numbers of its parameters among the leaves.
        state: the numbers of its state leaves.
        inputs: the names of the fields and cuts that it reads.
        borrowed: the numbers of parameters that it reads of other segments.
    """

    params: list[int]
    state: list[int]
    inputs: list[str]
    borrowed: list[int]


def divide(
    model: TracedModel, traces: Sequence[Traced], copies: bool = False
) -> dict[str, SegmentSpec]:
    """Divide a model at its cuts.

    Args:
        model: the model.
        traces: in both modes, with the same cuts.
        copies: whether several may have state that no call changes.

    Returns:
        The segments by the names of their values, each after those that it
        reads.

    Raises:
        ValueError: if it cannot be divided there, naming the culprit.
    """
    _refuse_names(model, traces)
    reads: dict[str, set[Source]] = {}
    for name in (*traces[0].cuts_in_order, *traces[0].outputs):
        reads[name] = _reads_of(model, traces, name)

    names = topological_order(
        {name: _cuts_in(found) for name, found in reads.items()}, "the cuts"
    )
    _refuse_unused(traces[0], reads)
    owner = _owners(model, traces, names, reads, copies)
    own_statistics(model, traces, reads, owner)

    def leaves_of(name: str, kind: SourceKind, count: int) -> list[int]:
        # What nobody reads goes to the last, so that no leaf of the model
        # is lost.
        owners = [owner.get(Source(kind, i), names[-1]) for i in range(count)]
        return [i for i, own in enumerate(owners) if own == name]

    specs: dict[str, SegmentSpec] = {}
    for name in names:
        specs[name] = SegmentSpec(
            leaves_of(name, SourceKind.PARAMS, len(model.params.paths)),
            sorted(
                {
                    *leaves_of(name, SourceKind.STATE, len(model.state.paths)),
                    *(s.leaf for s in reads[name] if s.kind == SourceKind.STATE),
                }
            ),
            _inputs_in(reads[name], [*model.fields, *names]),
            borrowed=[
                s.leaf
                for s in sorted(reads[name])
                if s.kind == SourceKind.PARAMS and owner[s] != name
            ],
        )
    return specs


def is_fixed(traces: Sequence[Traced], source: Source) -> bool:
    """Whether a call hands a leaf of the state back as it was, in either mode."""
    return all(t.new_state[source.leaf] is t.variables[source][0] for t in traces)


def _cuts_in(found: set[Source]) -> list[str]:
    return [s.name for s in found if s.kind == SourceKind.CUT]


def _inputs_in(found: set[Source], names: Sequence[str]) -> list[str]:
    """The fields and cuts among what a segment reads, in the order of `names`."""
    inputs: list[str] = []
    for name in names:
        if found & {
            Source(SourceKind.FIELD, name=name),
            Source(SourceKind.CUT, name=name),
        }:
            inputs.append(name)
    return inputs


def _refuse_names(model: TracedModel, traces: Sequence[Traced]) -> None:
    """Refuse one name for two values, and one value under two names."""
    if both := set(traces[0].cuts) & {*traces[0].outputs, *model.fields}:
        raise ValueError(
            f"the cut `{both.pop()}` has the name of an input or output of the model."
        )
    for trace in traces:
        holder: dict[Var, str] = {}
        for name, value in trace.cuts.items():
            for v in value.atoms:
                if isinstance(v, Var) and holder.setdefault(v, name) != name:
                    raise ValueError(
                        f"the cuts `{holder[v]}` and `{name}` hold the same value; it can "
                        "cross in one of them."
                    )


def _reads_of(model: TracedModel, traces: Sequence[Traced], name: str) -> set[Source]:
    """What the segment of a value reads, in either mode.

    Raises:
        ValueError: if the value is no result of a segment.
    """
    found: set[Source] = set()
    computes = False
    for trace in traces:
        atoms, stops = trace.values[name].atoms, trace.stops(name)
        piece = backward_slice(trace.flat, atoms, stops)
        read = sources_of(trace, piece.reads)
        _check_value(trace, name, read)
        found |= read
        # Giving a value a name is no computing.
        computes |= any(e.eqn.primitive.name != "name" for e in piece.equations)

    if name not in traces[0].cuts and not computes:
        cuts = sorted(_cuts_in(found))
        said = f"cut `{cuts[0]}` separates nothing: " if cuts else ""
        raise ValueError(
            f"{said}output `{name}` is `{name_of(model, min(found))}` itself, nothing is "
            "computed after it."
        )
    return found


def _check_value(trace: Traced, name: str, found: set[Source]) -> None:
    """Refuse a value that is no result of a segment.

    Args:
        trace: in one mode.
        name: of the value.
        found: what it is computed from.

    Raises:
        ValueError: if it holds a raw input, has no batch axis, or depends
            on no input.
    """
    is_cut = name in trace.cuts
    what = f"cut `{name}`" if is_cut else f"output `{name}`"
    for v in trace.values[name].atoms if is_cut else ():
        field = trace.raw.get(v) if isinstance(v, Var) else None
        if field is not None:
            raise ValueError(
                f"{what} holds the raw input `{field}`, as it is or moved, shifted or "
                "scaled: it would leave its owner. Cut after what learns from it, as an "
                "embedding or the first layer, or name it in `public` if it is not secret."
            )
        shape = shape_of(v).shape
        if shape[:1] != (trace.batch,):
            raise ValueError(
                f"{what} holds an array of shape {shape}; its leading axis must be the "
                f"batch, {trace.batch}. What a batch has as a whole, as a loss of a layer "
                "beside its output, crosses as one for each record (jnp.broadcast_to)."
            )
    if not any(s.kind in (SourceKind.FIELD, SourceKind.CUT) for s in found):
        raise ValueError(f"{what} depends on no input.")


def _refuse_unused(trace: Traced, reads: Mapping[str, set[Source]]) -> None:
    """Refuse a cut that no segment reads."""
    used = {cut for found in reads.values() for cut in _cuts_in(found)}
    for name in trace.cuts:
        if name not in used:
            raise ValueError(
                f"cut `{name}` separates nothing: no output and no other cut depends on "
                "it."
            )


def _owners(
    model: TracedModel,
    traces: Sequence[Traced],
    names: Sequence[str],
    reads: Mapping[str, set[Source]],
    copies: bool,
) -> dict[Source, str]:
    """The first segment that reads each input, weight or statistic.

    Raises:
        ValueError: if there are two, and it is neither a public input nor
            a weight that one party may have for both.
    """
    one_reader = (SourceKind.PARAMS, SourceKind.STATE, SourceKind.FIELD)
    owner: dict[Source, str] = {}
    for name in names:
        # Sorted, so that which culprit is named does not depend on the
        # order of a set.
        for source in sorted(s for s in reads[name] if s.kind in one_reader):
            is_first = owner.setdefault(source, name) == name
            if is_first or source.name in model.public:
                continue
            if copies and source.kind == SourceKind.STATE and is_fixed(traces, source):
                continue
            readers = [n for n in names if source in reads[n]]
            # Whose segments these are only a topology knows. Where no cut
            # lies before any of them, all would compute the same twice.
            behind = any(n in traces[0].cuts or _cuts_in(reads[n]) for n in readers)
            if source.kind != SourceKind.PARAMS or not behind:
                refuse_shared(model, traces, source, readers)
    return owner
