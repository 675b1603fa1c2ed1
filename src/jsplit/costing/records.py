"""What a step costs, as records that print, draw and keep themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from jsplit.core.base import Message, TrainState
from jsplit.core.tables import aligned, bars, plain, si

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MODES = ("residuals", "recompute")


class Work(NamedTuple):
    """Arithmetic, by two conventions.

    Attributes:
        macs: multiply-accumulates of matrix products and convolutions, counted from the jaxpr; see `jsplit.jaxprs.macs`.
        flops: floating-point operations by XLA's cost analysis of the lowered function, before it is optimised: two for
            a multiply-accumulate, one for each elementwise operation. XLA leaves out padding, and counts the body of a
            loop once; the multiply-accumulates of its further turns are added here.
    """

    macs: int
    flops: float

    def __add__(self, other: Any) -> Work:
        return Work(self.macs + other.macs, self.flops + other.flops)

    def times(self, n: float) -> Work:
        return Work(self.macs * n, self.flops * n)  # type: ignore[arg-type]


NOTHING = Work(0, 0.0)


def check_mode(backward: str) -> None:
    if backward not in MODES:
        raise ValueError(
            f'`backward` must be "residuals" or "recompute", got {backward!r}.'
        )


class PartyCost(NamedTuple):
    """What one step costs one party.

    Attributes:
        forward: work of the forward pass.
        backward: work of the backward pass, by backward mode; `"recompute"` holds a forward pass once more.
        other: work of losses and penalties with their derivatives, links, and the optimizer.
        sent, received: bytes of messages, payloads after their links and frames.
        params, statistics, optimizer, links: bytes of memory that lasts.
        activations: bytes that are kept from the forward to the backward pass (of one micro-batch), by backward
            mode: residuals, and the fields and messages among them. Gradients and scratch space are not counted.
    """

    forward: Work
    backward: Mapping[str, Work]
    other: Work
    sent: int
    received: int
    params: int
    statistics: int
    optimizer: int
    links: int
    activations: Mapping[str, int]

    def work(self, backward: str = "residuals") -> Work:
        """All arithmetic of a step in one backward mode."""
        check_mode(backward)
        return self.forward + self.backward[backward] + self.other

    def memory(self, backward: str = "residuals") -> int:
        """All bytes in one backward mode."""
        check_mode(backward)
        return (
            self.params
            + self.statistics
            + self.optimizer
            + self.links
            + self.activations[backward]
        )


@dataclass(frozen=True)
class Cost:
    """What one training step costs.

    Attributes:
        batch: records in the step.
        parties: what it costs each.
        messages: every message of the step in order, equal to `info.messages` of a step that `jsplit.messages` runs.
        state: the shapes of every party's state.
    """

    batch: int
    parties: Mapping[str, PartyCost]
    messages: tuple[Message, ...]
    state: TrainState = field(repr=False, compare=False)
    again: Callable[[int], Cost] = field(repr=False, compare=False)

    def at(self, batch: int) -> Cost:
        """The cost of a step of another size."""
        return self if batch == self.batch else self.again(batch)

    @property
    def total(self) -> PartyCost:
        """Over all parties; the work is that of the whole model."""
        return add(self.parties.values())

    def to_json(self) -> str:
        """All of it as a JSON object."""
        messages = [
            {**m._asdict(), "shape": plain(m.shape), "dtype": plain(m.dtype)}
            for m in self.messages
        ]
        return json.dumps(
            {"batch": self.batch, "parties": plain(self.parties), "messages": messages},
            indent=1,
        )

    def figure(self, backward: str = "residuals") -> Figure:
        """Bars by party: arithmetic, bytes of a step, and memory in one backward mode."""
        check_mode(backward)
        parties = self.parties.items()
        work = {
            n: {
                "forward": p.forward.macs,
                "backward": p.backward[backward].macs,
                "other": p.other.macs,
            }
            for n, p in parties
        }
        sizes = {
            n: {
                "parameters": p.params + p.statistics,
                "optimizer": p.optimizer + p.links,
                "activations": p.activations[backward],
            }
            for n, p in parties
        }
        messages = {n: {"sent": p.sent, "received": p.received} for n, p in parties}
        title = f"memory, bytes ({backward})"
        return bars(
            {"multiply-accumulates": work, "messages, bytes": messages, title: sizes}
        )

    def __str__(self) -> str:
        parties = [*self.parties.items(), ("all", self.total)]
        stages = ["forward", "backward", "recompute", "other"]
        memory = [
            "sent",
            "received",
            "parameters",
            "statistics",
            "optimizer",
            "links",
            "kept",
            "kept, recompute",
        ]
        lines = [f"one step of {self.batch} records"]
        for title, of in (
            ("multiply-accumulates", lambda w: w.macs),
            ("FLOPs by XLA", lambda w: w.flops),
        ):
            rows = [
                [
                    n,
                    *(
                        si(of(w))
                        for w in (p.forward, *(p.backward[m] for m in MODES), p.other)
                    ),
                ]
                for n, p in parties
            ]
            lines += ["", *aligned([title, *stages], rows)]
        rows = []
        for n, p in parties:
            lasting = p.params, p.statistics, p.optimizer, p.links
            rows.append(
                [
                    n,
                    *map(
                        si,
                        (
                            p.sent,
                            p.received,
                            *lasting,
                            *(p.activations[m] for m in MODES),
                        ),
                    ),
                ]
            )
        lines += ["", *aligned(["bytes", *memory], rows)]
        rows = [
            [f"{m.kind} {m.name}", m.sender, m.receiver, si(m.bytes), str(m.frame)]
            for m in self.messages
        ]
        return "\n".join(
            [*lines, "", *aligned(["message", "from", "to", "payload", "frame"], rows)]
        )


def add(parties: Iterable[PartyCost]) -> PartyCost:
    """The sums of all that the parties have."""

    def total(*values: Any) -> Any:
        first = values[0]
        if isinstance(first, Mapping):
            return {mode: total(*(v[mode] for v in values)) for mode in first}
        return sum(values[1:], first)

    return PartyCost(*map(total, *parties))
