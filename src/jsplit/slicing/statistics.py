"""Which segment keeps which statistic (BatchNorm's and the like).

A statistic is updated by the segment that has all that its update needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jax.extend.core import Var

from jsplit.jaxprs.flat import Atom
from jsplit.jaxprs.slices import backward_slice
from jsplit.slicing.refusals import refuse_statistic
from jsplit.slicing.trace import Source, SourceKind, Traced
from jsplit.slicing.traced_model import TracedModel

_LEAVES = (SourceKind.PARAMS, SourceKind.STATE)


def own_statistics(
    model: TracedModel,
    traces: Sequence[Traced],
    reads: Mapping[str, set[Source]],
    owner: dict[Source, str],
) -> None:
    """Give every statistic to a segment, and every weight that only statistics read.

    One that some value reads belongs to the segment of that value. Others
    whose updates read the same leaves stay together, and go to the first
    segment that has what these updates need; counters, which need nothing,
    go to the last.

    Args:
        model: the model.
        traces: in both modes.
        reads: by value, what its segment reads.
        owner: by leaf, the value whose segment has it; what is given is
            added.

    Raises:
        ValueError: if no single segment has what an update needs.
    """
    needs = _needs(model, traces)
    for group in _groups(needs, owner):
        loose = _without_owner(group, owner)
        outside = group - loose
        able = _able(reads, outside)
        if able is None:
            statistics = (s for s in loose if s.kind == SourceKind.STATE)
            refuse_statistic(model, min(statistics), outside)
        # A counter needs nothing, and every segment is able.
        last = list(reads)[-1]
        owner.update(dict.fromkeys(loose, able if outside else last))

    # Those that had an owner from the start, by what reads them, may need
    # what it has not.
    for source, needed in needs.items():
        name = owner[source]
        at_hand = reads[name] | {Source(SourceKind.CUT, name=name)}
        if any(s not in at_hand and owner.get(s) != name for s in needed):
            refuse_statistic(model, source, needed)


def _needs(model: TracedModel, traces: Sequence[Traced]) -> dict[Source, set[Source]]:
    """What the update of each statistic reads, in either mode."""
    needs: dict[Source, set[Source]] = {}
    for i in range(len(model.state.paths)):
        found: set[Source] = set()
        for trace in traces:
            # It stops at every cut: an update may read what crosses.
            stops = trace.stops("")
            piece = backward_slice(trace.flat, [trace.new_state[i]], stops)
            found |= sources_of(trace, piece.reads)
        # The key is everybody's.
        found = {s for s in found if s.kind != SourceKind.KEY}
        needs[Source(SourceKind.STATE, i)] = found
    return needs


def sources_of(trace: Traced, variables: set[Var]) -> set[Source]:
    """What the variables that a slice reads are: inputs of the model, or cuts."""
    cuts: dict[Atom, Source] = {}
    for name, value in trace.cuts.items():
        for v in value.atoms:
            if isinstance(v, Var):
                cuts[v] = Source(SourceKind.CUT, name=name)
    # Cuts first: a cut that holds an input is an input's variable too.
    return {cuts.get(v) or trace.sources[v] for v in variables}


def _groups(
    needs: Mapping[Source, set[Source]], owner: Mapping[Source, str]
) -> list[set[Source]]:
    """Statistics without an owner, each with what its update reads, by common leaves."""
    groups: list[set[Source]] = []
    for source, needed in needs.items():
        if source in owner:
            continue
        group = {source, *needed}
        loose = _without_owner(group, owner)
        # Two updates that read one leaf without an owner must be at one
        # party.
        for other in [g for g in groups if g & loose]:
            groups.remove(other)
            group |= other
        groups.append(group)
    return groups


def _without_owner(group: set[Source], owner: Mapping[Source, str]) -> set[Source]:
    return {s for s in group if s.kind in _LEAVES and s not in owner}


def _able(reads: Mapping[str, set[Source]], needed: set[Source]) -> str | None:
    """The first value whose segment has all that is needed, if there is one."""
    for name, read in reads.items():
        if needed <= read:
            return name
    # A segment also has the cut that it computes; those that read it were
    # asked first.
    for name, read in reads.items():
        if needed <= read | {Source(SourceKind.CUT, name=name)}:
            return name
    return None
