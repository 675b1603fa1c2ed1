"""What this party decodes at a cut, in inference over the network.

The others do what they do for any prediction: which values cross is agreed on, and who
looks at what it was sent is nobody else's concern.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax

from jsplit.core.base import PartyState, PyTree
from jsplit.core.checks import shown
from jsplit.party.compute.exchange import Exchange, Wires
from jsplit.party.compute.local import Local
from jsplit.party.compute.programs import StepCarrier
from jsplit.training.recording import arrived, receipts
from jsplit.training.walk import Wire


class _Taken:
    """A carrier that keeps what it takes."""

    def __init__(self, carrier: StepCarrier):
        self.by_wire: dict[Wire, PyTree] = {}
        self._carrier = carrier
        self.send = carrier.send

    def take(self, micro: int, wire: Wire) -> PyTree:
        """The value of one micro-batch, which is kept too."""
        self.by_wire[wire] = value = self._carrier.take(micro, wire)
        return value


def check_at(local: Local, at: str | Sequence[str]) -> tuple[str, ...]:
    """The names that `predict` is asked for, if this party is sent or computes these.

    Raises:
        ValueError: naming what there is.
    """
    names = tuple(at) if isinstance(at, (list, tuple)) else (at,)
    sent = [wire.what for wire, _, _ in receipts(local.infer.ops)]
    there = [*sent, *(n.what for n in local.outputs)]
    for name in names or ("",):
        if name not in there:
            raise ValueError(
                f"`at` must name values that `{local.party}` is sent in a prediction, or "
                f"its outputs, got {shown(name)}; there are {', '.join(there) or 'none'}."
            )
    return tuple(map(str, names))


def predict_at(
    local: Local,
    at: Sequence[str],
    state: PartyState,
    batch: Mapping[str, PyTree],
    step: int,
    size: int,
    exchange: Exchange,
) -> dict[str, PyTree]:
    """What this party decodes of one batch, by the names that `check_at` gives."""
    store = local.load(state, batch)
    taken = _Taken(Wires(local, exchange, step, size))
    local.infer.run(store, taken)
    decoders = {wire.what: (wire, op) for wire, _, op in receipts(local.infer.ops)}
    found = {n.what: store[n] for n in local.outputs if n.what in at}
    for name in at:
        if name in decoders:
            wire, op = decoders[name]
            # Its programs decode within themselves; this does so once more. One function
            # for all batches, so it is compiled once.
            [value] = jax.jit(op.run)(taken.by_wire[wire])
            found[name] = arrived(taken.by_wire[wire], value)
    return found
