"""Where to cut: every place ranked by what it costs a stated client over a stated network, before anything runs.

A model cut at all its cut points at once is a chain; what a client pays for a cut is what the chain costs up
to there. So one walk over one chain gives the exact cost of every cut.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isnan
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jsplit.core.base import Link, PyTree
from jsplit.core.links import identity
from jsplit.core.tables import aligned, plain, scatter, si
from jsplit.core.trees import abstract, batch_of, frame_bytes, nbytes
from jsplit.costing.records import NOTHING, Work, check_mode
from jsplit.costing.step import Walk
from jsplit.slicing.cut_points import CutPoint, cut_points
from jsplit.slicing.split import split
from jsplit.topology.graph import Topology
from jsplit.topology.nodes import Loss, Node
from jsplit.training.configure import configure
from jsplit.training.initial import initial_shapes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Device(NamedTuple):
    """A computer: floating-point operations a second that it sustains, and bytes of memory that it has for training."""

    flops: float
    memory: float = inf


class Network(NamedTuple):
    """A connection: bits a second each way, and the seconds that a message takes one way however small it is."""

    bits: float
    latency: float = 0.0


class _Choice(NamedTuple):
    """One place to cut, and what a training step then costs.

    Attributes:
        point: the place.
        seconds: of a step: the client's arithmetic, the server's if known, and the two messages, one after the other.
        bytes: of the activation and of its cotangent, encoded, with their frames.
        work: the client's arithmetic, forward and back.
        memory: bytes at the client: parameters, statistics, optimizer state, and what it keeps for the backward pass.
        leakage: the score asked for, if any; less is better.
        fits: whether the client has the memory.
        front: whether it fits, and no other choice that fits is as good in everything and better in something.
    """

    point: CutPoint
    seconds: float
    bytes: int
    work: Work
    memory: int
    leakage: float | None
    fits: bool
    front: bool = False


@dataclass(frozen=True)
class _Plan:
    """All choices, the quickest that fits first. `print` shows a table, `figure` draws them."""

    choices: tuple[_Choice, ...]

    @property
    def front(self) -> tuple[_Choice, ...]:
        """The Pareto front of seconds, bytes and, if scored, leakage."""
        return tuple(c for c in self.choices if c.front)

    def to_json(self) -> str:
        """All choices as a JSON list."""
        return json.dumps([plain(c) for c in self.choices], indent=1)

    def __str__(self) -> str:
        columns = [
            "cut",
            "front",
            "seconds",
            "bytes",
            "MACs",
            "FLOPs",
            "memory",
            "leakage",
        ]
        rows = [
            [
                c.point.name,
                "*" if c.front else "" if c.fits else "too large",
                f"{c.seconds:.4g}",
                si(c.bytes),
                si(c.work.macs),
                si(c.work.flops),
                si(c.memory),
                "" if c.leakage is None else f"{c.leakage:.3g}",
            ]
            for c in self.choices
        ]
        return "\n".join(aligned(columns, rows))

    def figure(self) -> Figure:
        """Client FLOPs against bytes of a step, both logarithmic, the front marked."""
        points = [
            (c.work.flops, c.bytes, c.point.name, c.front, c.fits) for c in self.choices
        ]
        return scatter(points, "client FLOPs per step", "bytes per step, both ways")


def plan(
    model: Any,
    *example: PyTree,
    client: Device,
    link: Network,
    server: Device | None = None,
    encoding: Link | tuple[Link | None, Link | None] = identity,
    optimizer: optax.GradientTransformation | None = None,
    backward: str = "residuals",
    leakage: Callable[[CutPoint], float] | None = None,
    outputs: Sequence[str] | None = None,
    shared_inputs: Sequence[str] = (),
    **options: Any,
) -> _Plan:
    """Rank every entry of `cut_points` that has parameters before it by the time and the bytes of a training step.

    Args:
        model, example: as for `split`; `example` has the batch size of a step. Shapes are enough.
        client, server: what they can do; without `server` its time is left out.
        link: the network between the two.
        encoding: what happens to the activation and to its cotangent on the way, as `compress.quantize(8)`, or a pair.
        optimizer: the client's, whose state takes memory; by default plain SGD, which has none.
        backward: mode; `"recompute"` counts the client's whole forward pass twice, though XLA may leave out its end.
        leakage: a score of each point, from outside; less is better.
        outputs, shared_inputs, options: as for `split`.

    Raises:
        ValueError: naming the argument that does not fit, or if the model has no cut point.
    """
    for name, value, wanted in (
        ("client", client, Device),
        ("link", link, Network),
        ("server", server or client, Device),
    ):
        if not isinstance(value, wanted):
            raise ValueError(
                f"`{name}` must be a jsplit.{wanted.__name__}, got {type(value).__name__}."
            )
        if (
            not all(isinstance(x, Real) for x in value)
            or not value[0] > 0
            or not value[1] >= 0
        ):
            raise ValueError(f"`{name}` must be positive numbers, got {value}.")
    ways = (
        (encoding, encoding)
        if isinstance(encoding, Link)
        else tuple(encoding)
        if isinstance(encoding, (tuple, list))
        else ()
    )
    if len(ways) != 2 or not all(x is None or isinstance(x, Link) for x in ways):
        raise ValueError(
            f"`encoding` must be a Link or a pair of them (activation, cotangent), got {encoding!r}."
        )
    if leakage is not None and not callable(leakage):
        raise ValueError(
            f"`leakage` must be a function of a CutPoint, got {type(leakage).__name__}."
        )
    check_mode(backward)
    points = cut_points(
        model, *example, outputs=outputs, shared_inputs=shared_inputs, **options
    )
    points = [
        p for p in points if p.params
    ]  # what comes before is the raw input, in other words
    if not points:
        raise ValueError(
            "`model` has no cut point with parameters before it: no single value separates its input from its output."
        )
    made = split(
        model,
        *example,
        cuts=points,
        outputs=outputs,
        shared_inputs=shared_inputs,
        **options,
    )
    chain = Topology(
        [*(Node(n, s, "client") for n, s in made.items()), *_objective(made, points)],
        _holds(made, example),
    )
    config = configure(chain, optimizer or optax.sgd(1.0), None, "residuals", 1)
    fields = dict(zip(chain.fields, map(abstract, example), strict=True))
    state, batch = initial_shapes(config, fields), batch_of(fields)
    walk, own = Walk(config, state, fields), state.parties["client"]
    total = walk.work("client", "forward") + walk.work("client", "backward")

    choices, params, statistics, kept, work, again = [], {}, {}, {}, NOTHING, NOTHING
    for point in points:
        params[point.name], statistics[point.name] = (
            own.params[point.name],
            own.state[point.name],
        )
        for t in walk.traced:
            if t.op.what == point.name and t.kind in ("forward", "backward"):
                work, kept = work + t.work, kept | dict(t.kept)
                again = (
                    again + t.work
                    if t.kind == "forward" and backward == "recompute"
                    else again
                )
        lasting = nbytes(
            (
                params,
                statistics,
                jax.eval_shape(config.optimizer["client"].init, params),
            )
        )
        memory = lasting + (
            sum(kept.values()) if backward == "residuals" else nbytes(fields)
        )
        sent = sum(
            _size_of(
                way or identity,
                jax.ShapeDtypeStruct((batch, *point.shape), point.dtype),
            )
            for way in ways
        )
        seconds = (
            (work + again).flops / client.flops
            + 2 * link.latency
            + 8 * sent / link.bits
        )
        seconds += (total.flops - work.flops) / server.flops if server else 0.0
        score = None if leakage is None else float(leakage(point))
        if score is not None and isnan(score):
            raise ValueError(
                f"`leakage` gives no number for the cut point `{point.name}`."
            )
        choices.append(
            _Choice(
                point,
                seconds,
                sent,
                work + again,
                memory,
                score,
                memory <= client.memory,
            )
        )
    marked = [
        c._replace(front=c.fits and not any(_better(o, c) for o in choices))
        for c in choices
    ]
    return _Plan(tuple(sorted(marked, key=lambda c: (not c.fits, c.seconds, c.bytes))))


def _objective(made: Mapping[str, Any], points: Sequence[CutPoint]) -> list[Loss]:
    """Some loss on every output, so that there is a backward pass."""

    def mean(output: PyTree) -> jax.Array:
        found = [
            jnp.mean(x.astype(jnp.float32))
            for x in jax.tree.leaves(output)
            if jnp.issubdtype(x.dtype, jnp.inexact)
        ]
        return sum(found, jnp.float32(0))

    names = {p.name for p in points}
    return [Loss(f"loss of {n}", mean, "client", [n]) for n in made if n not in names]


def _holds(made: Mapping[str, Any], example: Sequence[PyTree]) -> dict[str, list[str]]:
    return {
        "client": list(
            dict.fromkeys(i for s in made.values() for i in s.inputs if i not in made)
        )
    }


def _size_of(encoding: Link, like: jax.ShapeDtypeStruct) -> int:
    """Bytes of one message: the encoded value and its frame."""
    key = jax.eval_shape(jax.random.key, 0)
    payload, _ = jax.eval_shape(
        lambda x, key: encoding.encode(encoding.init(like), x, key), like, key
    )
    return nbytes(payload) + frame_bytes(payload)


def _better(a: _Choice, b: _Choice) -> bool:
    """Whether `a` fits and is as good as `b` in everything and better in something."""
    ours, theirs = ((c.seconds, c.bytes, c.leakage or 0.0) for c in (a, b))
    return (
        a.fits
        and ours != theirs
        and all(x <= y for x, y in zip(ours, theirs, strict=True))
    )
