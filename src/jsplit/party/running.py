"""`jsplit.party.run`: one party's part of a training, from its arguments to its result.

The loop over steps is in `steps`, what comes before the first one in `join`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence

import optax

from jsplit.core.base import Link
from jsplit.guarding import Guard
from jsplit.party.connection.interrupts import never
from jsplit.party.connection.reach import Reach
from jsplit.party.contract.agreement import Agreement
from jsplit.party.contract.ids_key import IdsKey
from jsplit.party.contract.placeholders import Own
from jsplit.party.join import Prepared, prepare
from jsplit.party.results import Metrics, Result
from jsplit.party.steps import Training
from jsplit.party.task import Brought, Data, Ids, Task, TaskKind
from jsplit.training.own_record import PartyRecord
from jsplit.training.step_numbers import HYPERPARAMS, NORMS
from jsplit.wire.certs import Trust
from jsplit.wire.transport import Transport

# A record of numbers that does not change: one serves all runs.
_GUARD = Guard()


def run(
    agreed: Agreement,
    party: str,
    own: Own,
    data: Data | None = None,
    *,
    credentials: Trust,
    optimizer: optax.GradientTransformation | None = None,
    ids: Ids | None = None,
    ids_key: IdsKey | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    links: Mapping[str, Link] | None = None,
    backward: str = "residuals",
    kernels: str = "fast",
    on_step: Callable[[Metrics], object] | None = None,
    record: Callable[[PartyRecord], object] | None = None,
    norms: bool = False,
    hyperparams: bool = False,
    stop: threading.Event | None = None,
    keep_replies: bool = True,
    listen: str | None = None,
    addresses: Mapping[str, str] | None = None,
    remind: float = 5.0,
    pulse: Sequence[float] = (),
    transport: Transport | None = None,
    bound: Mapping[str, float] | None = None,
    guard: Guard | None = _GUARD,
) -> Result:
    """Train one party's part of a topology, with the others over the network.

    All parties call it at the same time, each in its own process; it returns when all
    have done the agreed steps. It equals `jsplit.messages` of the whole topology, bit
    for bit, whatever connections are cut and whichever parties are killed and started
    again on the way. With a `staleness` in the agreement it is another training, as
    repeatable.

    Args:
        agreed: what the parties have agreed on.
        party: the name of this one.
        own: its segments and loss functions by name, or a topology that has them.
        data: its fields by name, [record, ...], or `batch(step)`, which may be asked
            for before its step and more than once. Where clients take turns, a party
            that is always there gives its fields by client.
        credentials: its certificate and key, `jsplit.party.credentials`.
        optimizer: of its parameters, if it has any.
        ids: of its records, by which all bring them in one order; all parties must have
            the same. Where `data` is by client, they are too.
        ids_key: a secret of those who hold records, bytes or the file that holds it: by
            it the digest is keyed by which ids are compared. It must be given where
            there are fewer than 32 and others have records too.
        checkpoint: its own folder; without one, this party's own death is not made
            good.
        links: links by the names that the agreement gives them, beyond those that
            `jsplit.compress` makes.
        backward: `"residuals"` or `"recompute"`: how cotangents are computed, as for
            `jsplit.fused`. Others need not do the same.
        kernels: `"fast"` or `"xla"`: how operations are computed on a CPU, as for
            `jsplit.fused`. Others need not do the same.
        on_step: called with the `Metrics` of every step.
        record: called with the `PartyRecord` of every step: what this party sent and
            received in it, and its own fields. `records.append` keeps them all, for
            `jsplit.privacy.traffic_of`. A step that is taken again, after a party has
            come back, is told again, with the same bits.
        norms: whether the records have the norms of this party's own gradients and
            updates, a `jsplit.Norms`; others are told none.
        hyperparams: whether they have what `optax.inject_hyperparams` keeps, as
            learning rates.
        stop: when set, the party ends after the step it is in, with a checkpoint; if it
            waits for others, at once, with the newest that it has. Started again, it
            goes on.
        keep_replies: whether what was sent is kept until the receiver has it. Only a
            test switches this off.
        listen: `host:port` where it listens, if not at the address that others dial.
        addresses: `host:port` by party, where one is dialled elsewhere than agreed.
        remind: seconds of waiting after which what may have been lost is asked for
            again.
        pulse: seconds of silence after which a connection is asked whether anybody is
            there, and seconds after which it is lost without an answer; by default 10
            and 60.
        transport: what carries frames; by default gRPC.
        bound: by the name of a value that this party receives, the largest L2 norm that
            a record of it may have; a larger one ends the run, and its sender is named.
            What is handed over is named by its role, and counts as a whole.
        guard: looks for signs that another trains this party's part to leak its
            records, in what comes back for it. It changes nothing of the training. By
            default an alarm is logged; `Guard(policy="stop")` ends the run, and `None`
            switches it off. A party that holds no field, or gets no cotangents for what
            it makes of one, has nothing to look at.

    Returns:
        The `Result`: the party's state after the last step, and its losses.

    Raises:
        ValueError: naming the argument that does not fit the agreement.
        Refused: if the parties do not agree, in one line.
        Missing: if a party did not come, or come back, for as long as agreed.

    Example:
        >>> import jax.numpy as jnp, jsplit, optax
        >>> bottom = jsplit.segment(
        ...     lambda w, x: x * w, init=lambda key, x: jnp.ones(3), inputs="x", name="h"
        ... )
        >>> top = jsplit.segment(lambda h: h.sum(-1), inputs="h", name="y")
        >>> topology = jsplit.vanilla(bottom, top, loss=optax.squared_error)
        >>> data = {"x": jnp.ones((4, 3)), "label": jnp.zeros(4)}
        >>> agreed = jsplit.party.agreement(
        ...     topology, data, steps=10, addresses={"server": "127.0.0.1:8476"}
        ... )
        >>> def client():
        ...     return jsplit.party.run(
        ...         agreed,
        ...         "client",
        ...         {"h": bottom},
        ...         {"x": data["x"]},
        ...         optimizer=optax.sgd(0.1),
        ...         credentials=jsplit.party.credentials("certs", "client"),
        ...         checkpoint="state/client",
        ...     )

        The server calls it at the same time with its own part, on another machine.
        Before anybody is connected, what this party brings is checked:

        >>> client()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: there is no file certs/client.crt; ...
    """
    # Two records from here on: what concerns the connections goes one way down, what
    # the party brings another.
    reach = Reach(listen, addresses or {}, remind, pulse, transport)
    brought = Brought(
        own,
        credentials,
        data=data,
        ids=ids,
        ids_key=ids_key,
        optimizer=optimizer,
        links=links,
        backward=backward,
        kernels=kernels,
        watched=watched_of(norms, hyperparams, record),
        checkpoint=checkpoint,
        keep_replies=keep_replies,
        bound=bound,
        guard=guard,
    )
    # A micro-batch is what one program computes and one frame carries.
    task = Task(TaskKind.TRAIN, agreed.steps, agreed.batch // agreed.microbatches)
    asked = never if stop is None else stop.is_set
    if agreed.epochs is not None:
        raise ValueError("`agreed` has `epochs`: call `jsplit.party.fit`.")
    with prepare(agreed, party, task, brought) as prepared:
        # A party that is started again after its end must not wait for others that have
        # left, and there is nothing to compute any more.
        awaited = prepared.store.done(agreed.steps)
        if awaited is not None:
            return already_over(prepared, agreed.steps, awaited, asked, reach)
        with prepared.connected(reach) as me:
            return Training(me, on_step, asked, record, prepared.guard).run()


def watched_of(
    norms: bool, hyperparams: bool, record: Callable[[PartyRecord], object] | None
) -> tuple[str, ...]:
    """What the party's steps tell, by the names that a configuration has for it."""
    asked = {NORMS: norms, HYPERPARAMS: hyperparams}
    watched = tuple(name for name, wanted in asked.items() if wanted)
    # Else a party would compute what nobody looks at, and its user would wait for it.
    if watched and record is None:
        raise ValueError(
            f"`{watched[0]}` is told in the records of steps: give `record` too."
        )
    return watched


def already_over(
    prepared: Prepared,
    steps: int,
    awaited: Sequence[str],
    asked: Callable[[], bool],
    reach: Reach,
) -> Result:
    """The result of a run that all have on disk to its end.

    Args:
        prepared: the party.
        steps: at which it was over.
        awaited: those of whom it is not known that they know; they are told.
        asked: whether the party was asked to stop.
        reach: how it is reached.
    """
    # The lead says what is committed; here it is known from the note on disk, and told
    # to whoever comes before any epoch begins.
    if awaited:
        prepared.member.committed = steps
        with prepared.connected(reach) as me:
            me.network.asked = asked
            # Those who have still not answered are noted, for another start.
            me.store.finish(steps, me.network.leave("", awaited))
    return Result(prepared.store.restore(steps), steps)
