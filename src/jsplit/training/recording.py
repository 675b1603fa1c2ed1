"""What crossed in a step, as a second result: payloads, what they decode to, and gradients.

The walk has all of it at its names; here it is read from there, and put together where
a batch was divided.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from jsplit.core.base import Info, PyTree
from jsplit.core.trees import inexact_part
from jsplit.training.config import Config
from jsplit.training.crossing import Packet
from jsplit.training.executor import Carrier
from jsplit.training.kinds import Kind, OpKind, WireKind
from jsplit.training.recorded import Crossed as Crossed
from jsplit.training.recorded import Passage as Passage
from jsplit.training.recorded import Recorded as Recorded
from jsplit.training.step_numbers import CROSSED, GRADIENTS, HYPERPARAMS, numbers_in
from jsplit.training.sums import gradient_of, gradients, total
from jsplit.training.walk import Address, Name, Op, Store, Wire
from jsplit.training.walks import Walks


class Tape:
    """A carrier that keeps all that it carries, by message and in order.

    Args:
        carrier: what carries.
    """

    def __init__(self, carrier: Carrier):
        self.sent: dict[Wire, list[PyTree]] = {}
        # By party, of a trainer that is asked how long each takes.
        self.seconds: dict[str, float] = {}
        self._carrier = carrier
        self.take = carrier.take

    def send(self, wire: Wire, value: PyTree, /) -> None:
        """Keep what is sent, and send it."""
        self.sent.setdefault(wire, []).append(value)
        self._carrier.send(wire, value)


def receipts(ops: Sequence[Op]) -> list[tuple[Wire, Name, Op]]:
    """The messages of a walk: each with where it is decoded to, and the operation that does."""
    found: list[tuple[Wire, Name, Op]] = []
    for op in ops:
        if op.kind == OpKind.RECEIVE:
            # A link that sees unscaled cotangents reads the scale as well, and one with
            # a memory here reads and writes that.
            (wire, *_), (name, *_) = op.reads, op.writes
            assert isinstance(wire, Wire) and isinstance(name, Name)
            found.append((wire, name, op))
    return found


def taped(config: Config, walks: Walks) -> list[Address]:
    """What of each micro-batch is recorded; nothing of a trainer that does not record."""
    if CROSSED not in config.records:
        return []
    return [a for w, name, _ in receipts(walks.train.ops) for a in (w, name)]


def told(
    config: Config,
    walks: Walks,
    store: Store,
    info: Info,
    size: int,
    seconds: Mapping[str, float] | None = None,
) -> Info | Recorded:
    """What a step tells: its info, or all that it was asked to record.

    Args:
        config: which says what is recorded.
        walks: of the step.
        store: as the step leaves it; with several micro-batches what `taped` lists has
            an axis of them.
        info: of the step.
        size: of the batch.
        seconds: by party, if its programs were timed.
    """
    if not config.records:
        return info
    asked = CROSSED in config.records
    crossed = _crossed(config, walks, store, size) if asked else {}
    told = numbers_in(store)
    found = {p: x.norms for p, x in told.items() if x.norms is not None}
    wanted = HYPERPARAMS in config.records
    params = {p: x.hyperparams for p, x in told.items() if wanted}
    if wanted and told and not any(params.values()):
        warnings.warn(
            "`hyperparams` are recorded, and no party's optimizer has any in its state: "
            "make it by optax.inject_hyperparams.",
            stacklevel=2,
        )
    of_nodes = _gradients(config, store)
    return Recorded(info, crossed, of_nodes, found, params, dict(seconds or {}))


def _crossed(
    config: Config, walks: Walks, store: Store, size: int
) -> dict[Passage, Crossed]:
    """All that crossed in a step, by message."""
    crossed: dict[Passage, Crossed] = {}
    for wire, name, _ in receipts(walks.train.ops):
        found = crossed_in(config, wire, store[wire], store[name], size)
        crossed[passage_of(wire)] = found
    # The numbers of a sum are exchanged once in a step, after all micro-batches.
    for wire, name, _ in receipts(walks.finish.ops):
        crossed[passage_of(wire)] = Crossed(store[wire], store[name])
    # In the order in which a program gives them back, whoever made them.
    return {at: crossed[at] for at in sorted(crossed)}


def crossed_in(
    config: Config, wire: Wire, sent: PyTree, value: PyTree, size: int
) -> Crossed:
    """One message of a step, put together where the batch was divided.

    Args:
        config: of the training.
        wire: the message.
        sent: what was sent; with several micro-batches, with an axis of them.
        value: what it decodes to, likewise.
        size: of the whole batch.
    """
    value = arrived(sent, value)
    if config.microbatches > 1:
        value = _whole_batch(config, wire, value, size)
    return Crossed(_payload(sent), value)


def decoder(op: Op, several: bool) -> Callable[..., tuple[PyTree, PyTree]]:
    """Compile what decodes a message once more, beside the program of its receiver.

    Args:
        op: that receives it.
        several: whether each micro-batch sends one.

    Returns:
        A function of what was sent, in order, and of what else `op` reads: what was
        sent and what it decodes to, with an axis of micro-batches if there are several.
    """

    def decode(sent: list[PyTree], *own: PyTree) -> tuple[PyTree, PyTree]:
        values = []
        for x in sent:
            value, *memory = op.run(x, *own)
            # What one micro-batch leaves in a memory, which comes last, the next reads.
            own = (*own[: len(own) - len(memory)], *memory)
            values.append(value)
        if not several:
            return sent[0], values[0]
        return _stacked(sent), _stacked(values)

    return jax.jit(decode)


def reader(config: Config, walks: Walks) -> Callable[[Tape, Store], Store]:
    """How a tape is read: what was sent, and what it decodes to, by their names.

    It is given the store as the step found it too, where a loss scale lies.

    The programs of the parties stay as they are, so a step that is recorded leaves the
    same bits: what they decode within themselves is decoded once more.
    """
    several = config.microbatches > 1
    finish = receipts(walks.finish.ops)

    parts = [(*at, several) for at in receipts(walks.train.ops)]
    decoders = [
        (wire, name, op.reads[1:], decoder(op, apart))
        for wire, name, op, apart in [*parts, *((*at, False) for at in finish)]
    ]

    def read(tape: Tape, before: Store) -> Store:
        found: Store = {}
        for wire, name, own, decode in decoders:
            scale = [before[at] for at in own]
            found[wire], found[name] = decode(tape.sent[wire], *scale)
        return found

    return read


def _stacked(parts: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *x: jnp.stack(x), *parts)


def passage_of(wire: Wire) -> Passage:
    """Which message it is, in the words of users."""
    # Plain strings: users print and compare them.
    return Passage(str(wire.kind), *wire[1:])


def _payload(sent: PyTree) -> PyTree:
    return sent.payload if isinstance(sent, Packet) else sent


def arrived(sent: PyTree, value: PyTree) -> PyTree:
    """A decoded value with `None` in the place of what has not crossed.

    The receiver's program has zeros there, which no one has sent.
    """
    if not isinstance(sent, Packet):
        return value

    def only(like: jax.ShapeDtypeStruct | None, x: PyTree) -> PyTree:
        return None if like is None else x

    return jax.tree.map(only, sent.like, value, is_leaf=lambda like: like is None)


def _whole_batch(config: Config, wire: Wire, value: PyTree, size: int) -> PyTree:
    """The values of all micro-batches as that of the whole batch."""
    count = config.microbatches

    def join(x: jax.Array) -> jax.Array:
        if wire.kind == WireKind.COTANGENT and jnp.issubdtype(x.dtype, jnp.inexact):
            # Each is of the mean over its part; gradients are their mean.
            x = (x / count).astype(x.dtype)
        # What has no row for each example stays apart, by micro-batch.
        by_example = x.shape[1:2] == (size // count,)
        return x.reshape(size, *x.shape[2:]) if by_example else x

    return jax.tree.map(join, value)


def _gradients(config: Config, store: Store) -> dict[str, dict[str, PyTree]]:
    """The gradient of every node, by party, if these are recorded."""
    if GRADIENTS not in config.records:
        return {}
    found: dict[str, dict[str, PyTree]] = {}
    for party in config.topology.parties:
        for node, names in gradients(config, party).items():
            if config.microbatches > 1:
                names = [total(x) for x in names]
            # Of the new parameters only shapes and dtypes are looked at.
            weights = inexact_part(store[Name(party, Kind.PARAMS, node)])
            terms = [store[x] for x in names]
            found.setdefault(party, {})[node] = gradient_of(config, weights, terms)
    return found
