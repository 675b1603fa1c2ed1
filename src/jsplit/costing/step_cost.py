"""What a step costs all parties, as a record that prints, draws and keeps itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jsplit.core.base import Message, TrainState
from jsplit.core.checks import as_positive_int
from jsplit.core.html import Table, html_of
from jsplit.core.tables import aligned, bars, plain, si
from jsplit.costing.party_cost import MODES, PartyCost, Work, check_mode, total_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Cost:
    """What one training step costs. Printing it shows tables.

    Attributes:
        batch: Records in the step.
        parties: What it costs each party.
        messages: Every message of the step in order, equal to
            `info.messages` of a step that `jsplit.messages` runs.
        state: The shapes of every party's state.
        learned: The same without what no step changes, as frozen parameters: what is
            handed over or averaged.
        again: `again(batch)`, the cost of a step of another size; see `at`.
        measure: `measure()`, the messages of an evaluation; see `evaluation`.

    Example:
        >>> import jax, jsplit
        >>> part = jsplit.segment(lambda w, x: w * x, init=lambda key, x: x[0])
        >>> topology = jsplit.vanilla(part, part, loss=lambda y, label: y[:, 0])
        >>> x, label = (jax.ShapeDtypeStruct((8, n), "float32") for n in (4, 1))
        >>> cost = jsplit.cost(topology, {"x": x, "label": label})
        >>> [(m.kind, m.bytes) for m in cost.messages]
        [('activation', 128), ('cotangent', 128)]
    """

    batch: int
    parties: Mapping[str, PartyCost]
    messages: tuple[Message, ...]
    # Not compared: functions are equal only to themselves, so no two costs would be.
    state: TrainState = field(repr=False, compare=False)
    learned: TrainState = field(repr=False, compare=False)
    again: Callable[[int], Cost] = field(repr=False, compare=False)
    measure: Callable[[], tuple[Message, ...]] = field(
        default=tuple, repr=False, compare=False
    )

    @property
    def evaluation(self) -> tuple[Message, ...]:
        """What crosses when as many records are evaluated, metrics included.

        Returns:
            Every message in order, equal to `info.messages` of `evaluate` of
            `jsplit.messages` on one batch.

        Example:
            >>> import jax, jsplit
            >>> part = jsplit.segment(lambda x: x)
            >>> trained = jsplit.segment(lambda w, x: w * x, init=lambda key, x: x[0])
            >>> topology = jsplit.vanilla(part, trained, loss=lambda y, label: y[:, 0])
            >>> x, label = (jax.ShapeDtypeStruct((8, n), "float32") for n in (4, 1))
            >>> spread = jsplit.Metric("spread", lambda y: y.std(), "client", "output")
            >>> cost = jsplit.cost(topology.add(spread), {"x": x, "label": label})
            >>> [m.name for m in cost.evaluation], [m.name for m in cost.messages]
            (['smashed', 'output'], ['smashed'])
        """
        return self.measure()

    def at(self, batch: int) -> Cost:
        """The cost of a step of another size.

        Args:
            batch: Records in that step.

        Returns:
            A `Cost` of the same topology, optimizer, links and
            micro-batches.

        Raises:
            ValueError: If `batch` is no positive integer, or the micro-batches do
                not divide it.

        Example:
            >>> import jax, jsplit
            >>> part = jsplit.segment(lambda x: x)
            >>> trained = jsplit.segment(lambda w, x: w * x, init=lambda key, x: x[0])
            >>> topology = jsplit.vanilla(part, trained, loss=lambda y, label: y[:, 0])
            >>> x, label = (jax.ShapeDtypeStruct((8, n), "float32") for n in (4, 1))
            >>> jsplit.cost(topology, {"x": x, "label": label}).at(2).messages[0].bytes
            32
        """
        # By far the commonest size: all steps of a pass but the last.
        size = as_positive_int("batch", batch)
        return self if size == self.batch else self.again(size)

    @property
    def total(self) -> PartyCost:
        """What the step costs all parties together; the work is the whole model's.

        Returns:
            The sums, field by field.

        Example:
            >>> import jax, jsplit
            >>> part = jsplit.segment(lambda x: x)
            >>> trained = jsplit.segment(lambda w, x: w * x, init=lambda key, x: x[0])
            >>> topology = jsplit.vanilla(part, trained, loss=lambda y, label: y[:, 0])
            >>> x, label = (jax.ShapeDtypeStruct((8, n), "float32") for n in (4, 1))
            >>> total = jsplit.cost(topology, {"x": x, "label": label}).total
            >>> total.sent == total.received
            True
        """
        return total_of(self.parties.values())

    def to_json(self) -> str:
        """All of it as a JSON object.

        Returns:
            A text with the keys `batch`, `parties` and `messages`.

        Example:
            >>> import json, jax, jsplit
            >>> part = jsplit.segment(lambda x: x)
            >>> trained = jsplit.segment(lambda w, x: w * x, init=lambda key, x: x[0])
            >>> topology = jsplit.vanilla(part, trained, loss=lambda y, label: y[:, 0])
            >>> x, label = (jax.ShapeDtypeStruct((8, n), "float32") for n in (4, 1))
            >>> cost = jsplit.cost(topology, {"x": x, "label": label})
            >>> [*json.loads(cost.to_json())]
            ['batch', 'parties', 'messages']
        """
        messages = []
        for m in self.messages:
            # JSON knows neither tuples nor dtypes.
            shown = {"shape": plain(m.shape), "dtype": plain(m.dtype)}
            messages.append(m._asdict() | shown)
        found = {
            "batch": self.batch,
            "parties": plain(self.parties),
            "messages": messages,
        }
        return json.dumps(found, indent=1)

    def figure(self, backward: str = "residuals") -> Figure:
        """Bars by party: arithmetic, bytes of a step, and memory.

        Args:
            backward: The backward mode, `"residuals"` or `"recompute"`.

        Returns:
            A figure of Matplotlib's own, not pyplot's, so it opens no
            window.

        Raises:
            ValueError: If `backward` is no mode.

        Example:
            >>> import jax, jsplit
            >>> part = jsplit.segment(lambda x: x)
            >>> trained = jsplit.segment(lambda w, x: x @ w, init=lambda key, x: x[:4])
            >>> topology = jsplit.vanilla(part, trained, loss=lambda y, label: y[:, 0])
            >>> x, label = (jax.ShapeDtypeStruct((8, n), "float32") for n in (4, 1))
            >>> cost = jsplit.cost(topology, {"x": x, "label": label})
            >>> [ax.get_title() for ax in cost.figure().axes][:2]
            ['multiply-accumulates', 'messages, bytes']
        """
        check_mode(backward)
        # Multiply-accumulates, not FLOPs: papers on split learning count so.
        work, messages, memory = {}, {}, {}
        for name, p in self.parties.items():
            work[name] = {
                "forward": p.forward.macs,
                "backward": p.backward[backward].macs,
                "other": p.other.macs,
            }
            messages[name] = {"sent": p.sent, "received": p.received}
            # Statistics and the memory of links are small: a colour of their own for
            # each would be for bars that nobody can see.
            memory[name] = {
                "parameters": p.params + p.statistics,
                "optimizer": p.optimizer + p.links,
                "activations": p.activations[backward],
            }
        panels = {
            "multiply-accumulates": work,
            "messages, bytes": messages,
            f"memory, bytes ({backward})": memory,
        }
        return bars(panels)

    def _tables(self) -> list[Table]:
        # Last, as the sum below a column.
        rows = {**self.parties, "all": self.total}
        return [
            _work_table("multiply-accumulates", lambda work: work.macs, rows),
            _work_table("FLOPs by XLA", lambda work: work.flops, rows),
            _bytes_table(rows),
            _message_table(self.messages),
        ]

    def _title(self) -> str:
        return f"one step of {self.batch} records"

    def __str__(self) -> str:
        lines = [self._title()]
        for table in self._tables():
            lines += ["", *aligned(table.heads, table.rows)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return html_of(self._tables(), title=self._title())


def _work_table(
    title: str, of: Callable[[Work], float], parties: Mapping[str, PartyCost]
) -> Table:
    rows = []
    for name, p in parties.items():
        stages = [p.forward, *(p.backward[mode] for mode in MODES), p.other]
        rows.append([name, *(si(of(work)) for work in stages)])
    return Table([title, "forward", "backward", "recompute", "other"], rows)


def _bytes_table(parties: Mapping[str, PartyCost]) -> Table:
    columns = ["bytes", "sent", "received", "parameters", "statistics"]
    columns += ["optimizer", "links", "kept", "kept, recompute"]
    rows = []
    for name, p in parties.items():
        sizes = [p.sent, p.received, p.params, p.statistics, p.optimizer, p.links]
        sizes += [p.activations[mode] for mode in MODES]
        rows.append([name, *map(si, sizes)])
    return Table(columns, rows)


def _message_table(messages: tuple[Message, ...]) -> Table:
    rows = []
    for m in messages:
        # The frame in full: it is a small number, which the docs give to the byte.
        name = f"{m.kind} {m.name}"
        rows.append([name, m.sender, m.receiver, si(m.bytes), str(m.frame)])
    return Table(["message", "from", "to", "payload", "frame"], rows, words=range(3))
